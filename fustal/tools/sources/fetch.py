"""Gets a data set to where its card says: from a folder, from its public source, or by simulating it.

`fustal fetch NAME [--from DIR]`. A data set appears under its name only when it is complete.
"""

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fustal.data import simulate
from fustal.data.annotations import check_name, read_annotations
from fustal.data.cards import Grid, read_card
from fustal.data.demo import make_demo
from fustal.data.files import read_json, shown
from fustal.data.names import find_card
from fustal.data.writing import atomic_folder, held_folder, overlap, write_json
from fustal.exceptions import InputError
from fustal.tools.sources import sbhar
from fustal.tools.sources.archives import unpack

SBHAR_URL = (
    "https://archive.ics.uci.edu/static/public/341/"
    "smartphone+based+recognition+of+human+activities+and+postural+transitions.zip"
)
"""The public source of SBHAR; it publishes no checksum."""


_WSTAL = "https://raw.githubusercontent.com/Pilhyeon/WTAL-Uncertainty-Modeling/HEAD/dataset/THUMOS14/"


_ADAPERFORMER = (
    "https://raw.githubusercontent.com/happyharrycn/AdaPerFormer/"
    "2e1acdd742ace6aae039fdb7137726fdd474ed21/data/thumos14/annotations/"
)


THUMOS_FILES = {
    "gt.json": (_WSTAL, "09ec867173d8532cd805769497633617f8a95519491c5558edd29a50731116a2"),
    "split_train.txt": (_WSTAL, "5b11e290eb24c93c79f23cb1aecc8b85be4c13b47d7cf3b35e30601c1663f4c0"),
    "split_test.txt": (_WSTAL, "51bad9afadc6545a26833fd1f47b51d0458a05baee5c23ec8f3f8b8693e27f31"),
    "thumos14.json": (_ADAPERFORMER, "b0fb5ab084e3ae322b899bbbdd54f90621df3bcb83d33779edc2f22fe68adbb9"),
}
"""THUMOS'14's annotations: file name -> folder of its public source, SHA-256."""


THUMOS_ARCHIVES = {
    "CoLA": ("1paAv3FsqHtNsDO6M78mj7J3WqVf_CgSG", None),
    "ActionFormer": ("1zt2eoldshf99vJMDuu8jqxda55dCyhZP", "md5:375f76ffbf7447af1035e694971ec9b2"),
}
"""THUMOS'14's I3D features: whose -> id on Google Drive and checksum, as far as the repository's README gives them."""


ACTIVITYNET_URL = "http://ec2-52-25-205-214.us-west-2.compute.amazonaws.com/files/activity_net.v1-3.min.json"
"""ActivityNet v1.3's annotations, as http://activity-net.org/download.html links them; no checksum is published."""


ACTIVITYNET_FEATURES = "https://drive.google.com/drive/folders/1W2t4UKUkV_9duAsAFWU0HHYWbav2CZXp"
"""ActivityNet v1.3's I3D features, as the README of github.com/leftthomas/UM gives them."""


def fetch(card: str | Path, source: Path | None = None) -> Path:
    """Gets a data set; one that an earlier call made, and that is as it was made, is replaced.

    Args:
        card: a name in `params/datasets`, or the path of a card with one of the names in `SOURCES`.
        source: a folder that holds the data set in its public form; without it, it is downloaded.

    Returns:
        The data set's root.

    Raises:
        InputError: there is no way to fetch it, `source` does not hold it or shares files with where the data set goes,
            something of the user's is there, or the download failed.
    """
    path = find_card(card)
    known = read_card(path)
    if known.name not in SOURCES:
        raise InputError(f"{path}: there is nothing to fetch for {known.name!r} (only for {', '.join(SOURCES)})")
    for text in (known.annotations, *(grid.pattern for grid in known.grids.values())):
        if Path(text).is_absolute() or ".." in Path(text).parts:
            raise InputError(
                f"{path}: {shown(text)} leads out of the folder of the data set, and fetch writes in it alone"
            )
    if source is not None and not Path(source).is_dir():
        raise InputError(f"{source}: no such folder")
    root = (path.parent / known.root).resolve()
    if source is not None and (shared := overlap(Path(source), root)):
        raise InputError(
            f"--from {source}: shares {shared} with {root}, where the card has the data set: "
            "have the original files in another folder, which stays as it is"
        )
    with held_folder(root), atomic_folder(root, again=True) as folder:
        SOURCES[known.name](None if source is None else Path(source), folder, known.grids)
    return root


def _demo(source: Path | None, root: Path, grids: Mapping[str, Grid]) -> None:
    if source is not None:
        raise InputError(f"{source}: the demo is simulated and takes no folder")
    make_demo(root, grids)


def _sbhar(source: Path | None, root: Path, grids: Mapping[str, Grid]) -> None:
    sbhar.build(source or _download_sbhar(root.with_name("unpacked")), root, grids)


def _thumos_simulated(source: Path | None, root: Path, grids: Mapping[str, Grid]) -> None:
    source = source or _download_thumos_annotations()
    videos, segments = merge_thumos(source)
    end = segments.video.map(videos.duration)
    segments = segments.assign(start=segments.start.clip(upper=end), end=segments.end.clip(upper=end))
    segments = segments[segments.end > segments.start]
    simulate.simulate(videos, segments, root, grids, dim=64, seed=0)
    _copy_splits(source, root)


def _thumos(source: Path | None, root: Path, grids: Mapping[str, Grid]) -> None:
    root.mkdir(parents=True)
    place = _link
    if source is None:
        source, place = _download_thumos_features(root.with_name("unpacked")), shutil.move
    simulate.write_annotations(*merge_thumos(source), root / "gt.json")
    _copy_splits(source, root)
    place(_find(source, "features/train/rgb").parents[1], root / "features")
    place(_find(source, "i3d_features"), root / "i3d_features")


def _activitynet(source: Path | None, root: Path, grids: Mapping[str, Grid]) -> None:
    """Annotations, links to the features in the user's folder, and lists of the videos that have them."""
    if source is None:
        raise InputError(
            "activitynet13: give the folder of its I3D features as --from DIR; they are not downloaded: "
            f"rgb/v_<id>.npy and flow/v_<id>.npy at any depth, from {ACTIVITYNET_FEATURES}"
        )
    name = ACTIVITYNET_URL.rpartition("/")[2]
    annotations = next(iter(sorted(source.rglob(name))), None) or _download(ACTIVITYNET_URL, name)
    database = labelled_videos(annotations)
    available = set(database)
    for grid in grids.values():
        available &= _link_features(source, database, grid, root)
    if not available:
        raise InputError(f"{source}: holds no features of ActivityNet, such as rgb/v_<id>.npy and flow/v_<id>.npy")
    write_json({"version": "ActivityNet 1.3", "database": database}, root / "gt.json")
    for subset, split in (("training", "train"), ("validation", "test")):
        videos = [video for video, entry in database.items() if entry["subset"] == subset]
        chosen = [v for v in videos if v in available and (split == "test" or database[v]["annotations"])]
        (root / f"split_{split}.txt").write_text("".join(f"{video}\n" for video in chosen), encoding="utf-8")
        print(f"activitynet13: {len(chosen)} of {len(videos)} {subset} videos can be used", file=sys.stderr)


def labelled_videos(path: Path) -> dict[str, dict[str, Any]]:
    """ActivityNet's training and validation videos, whose annotations are published.

    A few of their segments are [0, 0], and some end after the video: `parse_annotations` decides what becomes of them.

    Args:
        path: `activity_net.v1-3.min.json`.

    Returns:
        video -> subset, duration (s), annotations.

    Raises:
        InputError: the file has another form.
    """
    database = {}
    try:
        for video, entry in read_json(path)["database"].items():
            check_name(video)
            if entry["subset"] in ("training", "validation"):
                database[video] = {key: entry[key] for key in ("subset", "duration", "annotations")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: does not have the form of ActivityNet's annotations: {error!r}") from None
    return database


def _link_features(source: Path, videos: Iterable[str], grid: Grid, root: Path) -> set[str]:
    """Links the features below `source` to where the grid has them, whatever folders they lie in.

    Returns:
        The videos whose features are there in every modality.
    """
    depth = 2 if grid.modalities else 1  # rgb/v_<id>.npy or v_<id>.npy
    origins = {path.parts[-depth:]: path.resolve() for path in source.rglob("*.npy")}
    linked = set()
    for video in videos:
        names = [Path(grid.pattern.format(video=video, modality=m, subset="")) for m in grid.modalities or [""]]
        if all(name.parts[-depth:] in origins for name in names):
            for name in names:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                _link(origins[name.parts[-depth:]], root / name)
            linked.add(video)
    return linked


SOURCES: dict[str, Callable[[Path | None, Path, Mapping[str, Grid]], None]] = {
    "demo": _demo,
    "sbhar": _sbhar,
    "thumos14-simulated": _thumos_simulated,
    "thumos14": _thumos,
    "activitynet13": _activitynet,
}
"""Data set -> what builds it in a new folder, from the user's folder or from its public source."""


def merge_thumos(source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """THUMOS'14's WSTAL annotations with the durations and frame rates that `thumos14.json` adds.

    Returns:
        Frames of videos and of segments, see `annotations.read_annotations`.
    """
    videos, segments = read_annotations(_find(source, "gt.json"))
    timing, _ = read_annotations(_find(source, "thumos14.json"))
    unknown = videos.index.difference(timing.index)
    if len(unknown):
        raise InputError(f"{_find(source, 'thumos14.json')}: has no video {unknown[0]!r}, which gt.json has")
    return videos.assign(**timing.loc[videos.index, ["duration", "fps"]]), segments


def _find(source: Path, name: str) -> Path:
    """The shallowest match of a file or folder below `source`."""
    found = sorted(source.rglob(name), key=lambda path: (len(path.parts), path))
    if not found:
        raise InputError(f"{source}: holds no {name}")
    return found[0].resolve()


def _copy_splits(source: Path, root: Path) -> None:
    for name in ("split_train.txt", "split_test.txt"):
        shutil.copyfile(_find(source, name), root / name)


def _link(origin: Path, target: Path) -> None:
    """A link, or a copy where links are not allowed."""
    try:
        target.symlink_to(origin, target_is_directory=origin.is_dir())
    except OSError:
        (shutil.copytree if origin.is_dir() else shutil.copyfile)(origin, target)


def _download_sbhar(folder: Path) -> Path:
    return unpack(_download(SBHAR_URL, "sbhar.zip"), folder)


def _download_thumos_annotations() -> Path:
    for name, (url, checksum) in THUMOS_FILES.items():
        folder = _download(url + name, name, f"sha256:{checksum}").parent
    return folder


def _download_thumos_features(folder: Path) -> Path:
    annotations = _download_thumos_annotations()
    for whose, (file_id, checksum) in THUMOS_ARCHIVES.items():
        url = f"https://drive.google.com/file/d/{file_id}/view"
        unpack(_download(url, f"thumos14-{whose}", checksum), folder / whose)
    for name in THUMOS_FILES:
        shutil.copyfile(annotations / name, folder / name)
    return folder


def _download(url: str, name: str, checksum: str | None = None) -> Path:
    """Downloads a file into the cache, unless it is there; its module is slow to import."""
    from fustal.tools.sources.download import download

    return download(url, name, checksum)
