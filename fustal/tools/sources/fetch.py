"""Puts a data set where its card locates it: from a folder, from its public source, or by simulation.

`fustal fetch NAME [--from DIR]`. A data set appears under its name only when it is complete.
"""

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fustal.data import simulate
from fustal.data.annotations import read_annotations
from fustal.data.cards import Card, Grid, read_card
from fustal.data.demo import make_demo
from fustal.data.files import read_json, shown
from fustal.data.names import find_card
from fustal.data.values import check_name
from fustal.data.writing import atomic_folder, held_folder, overlap, write_json
from fustal.exceptions import InputError
from fustal.tools.sources import sbhar, shrec22
from fustal.tools.sources.archives import unpack

SBHAR_URL = (
    "https://archive.ics.uci.edu/static/public/341/"
    "smartphone+based+recognition+of+human+activities+and+postural+transitions.zip"
)
"""The public source of SBHAR; it publishes no checksum."""


SHREC_PAGE = "https://univr-vips.github.io/Shrec22/"
"""The page of the SHREC 2022 track, which links its training and test data."""


WSTAL = "https://raw.githubusercontent.com/Pilhyeon/WTAL-Uncertainty-Modeling/HEAD/dataset/THUMOS14/"
"""Folder with THUMOS'14's annotations as weakly-supervised methods use them, and their splits."""


ADAPERFORMER = (
    "https://raw.githubusercontent.com/happyharrycn/AdaPerFormer/"
    "2e1acdd742ace6aae039fdb7137726fdd474ed21/data/thumos14/annotations/"
)
"""Folder with durations and frame rates of THUMOS'14's videos."""


THUMOS_FILES = {
    "gt.json": (WSTAL, "09ec867173d8532cd805769497633617f8a95519491c5558edd29a50731116a2"),
    "split_train.txt": (WSTAL, "5b11e290eb24c93c79f23cb1aecc8b85be4c13b47d7cf3b35e30601c1663f4c0"),
    "split_test.txt": (WSTAL, "51bad9afadc6545a26833fd1f47b51d0458a05baee5c23ec8f3f8b8693e27f31"),
    "thumos14.json": (ADAPERFORMER, "b0fb5ab084e3ae322b899bbbdd54f90621df3bcb83d33779edc2f22fe68adbb9"),
}
"""THUMOS'14's annotations: file name -> folder of its public source, SHA-256."""


THUMOS_ARCHIVES = {
    "CoLA": ("1paAv3FsqHtNsDO6M78mj7J3WqVf_CgSG", None),
    "ActionFormer": ("1zt2eoldshf99vJMDuu8jqxda55dCyhZP", "md5:375f76ffbf7447af1035e694971ec9b2"),
}
"""THUMOS'14's I3D features: method that published them -> id on Google Drive, and checksum if its README names one."""


ACTIVITYNET_URL = "http://ec2-52-25-205-214.us-west-2.compute.amazonaws.com/files/activity_net.v1-3.min.json"
"""ActivityNet v1.3's annotations, linked by http://activity-net.org/download.html; no checksum is published."""


ACTIVITYNET_FEATURES = "https://drive.google.com/drive/folders/1W2t4UKUkV_9duAsAFWU0HHYWbav2CZXp"
"""ActivityNet v1.3's I3D features, linked by the README of github.com/leftthomas/UM."""


def fetch(card: str | Path, source: Path | None = None) -> Path:
    """Prepares a data set. One that an earlier call made is replaced, if nothing in it has changed since.

    Args:
        card: a name in `params/datasets`, or the path of a card with one of the names in `SOURCES`.
        source: a folder that holds the data set in its public form; None: it is downloaded.

    Returns:
        The data set's root.

    Raises:
        InputError: the data set cannot be fetched, `source` does not hold it or overlaps with the data set's root,
            the root holds files of the user, or the download failed.
    """
    path = find_card(card)
    known = read_card(path)
    if known.name not in SOURCES:
        raise InputError(f"{path}: there is nothing to fetch for {known.name!r} (only for {', '.join(SOURCES)})")
    _check_inside(path, known)
    root = (path.parent / known.root).resolve()
    if source is not None:
        source = Path(source)
        if not source.is_dir():
            raise InputError(f"{source}: no such folder")
        shared = overlap(source, root)
        if shared:
            raise InputError(
                f"--from {source}: shares {shared} with {root}, where the card has the data set: "
                "put the original files into another folder, which stays unchanged"
            )
    grids: dict[str, Grid] = dict(known.grids.items())
    with held_folder(root), atomic_folder(root, again=True) as folder:
        SOURCES[known.name](source, folder, grids)
    return root


def _check_inside(path: Path, card: Card) -> None:
    """Raises an InputError where a path in a card leads out of the data set's root: `fetch` writes only below it."""
    for text in [card.annotations, *(grid.pattern for grid in card.grids.values())]:
        if Path(text).is_absolute() or ".." in Path(text).parts:
            raise InputError(
                f"{path}: {shown(text)} leads out of the folder of the data set, and fetch writes only into it"
            )


def _demo(source: Path | None, root: Path, grids: Mapping[str, Grid]) -> None:
    if source is not None:
        raise InputError(f"{source}: the demo is simulated and takes no folder")
    make_demo(root, grids)


def _rendered(source: Path | None, root: Path, grids: Mapping[str, Grid]) -> None:
    from fustal.video.rendered import build  # needs the extra `video`

    if source is not None:
        raise InputError(f"{source}: the videos are rendered, and nothing is read from a folder")
    build(root, grids)


def _sbhar(source: Path | None, root: Path, grids: Mapping[str, Grid]) -> None:
    sbhar.build(source or _download_sbhar(root.with_name("unpacked")), root, grids)


def _shrec22(source: Path | None, root: Path, grids: Mapping[str, Grid]) -> None:
    if source is None:
        raise InputError(
            "shrec22: give the folder of its files as --from DIR; they are not downloaded: training_set.zip, "
            f"test_set.zip and test_annotations_fixed.txt, packed or not, from {SHREC_PAGE}"
        )
    unpacked = root.with_name("unpacked")
    for archive in sorted(source.rglob("*.zip")):
        unpack(archive, unpacked / archive.stem)
    shrec22.build([source, unpacked], root, grids)


def _thumos_simulated(source: Path | None, root: Path, grids: Mapping[str, Grid]) -> None:
    """The real annotations, with segments cut at the ends of their videos, and simulated features."""
    source = source or _download_thumos_annotations()
    videos, segments = merge_thumos(source)
    end = segments.video.map(videos.duration)
    segments = segments.assign(start=segments.start.clip(upper=end), end=segments.end.clip(upper=end))
    segments = segments[segments.end > segments.start]
    simulate.simulate(videos, segments, root, grids, dim=64, seed=0)
    _copy_splits(source, root)


def _thumos(source: Path | None, root: Path, grids: Mapping[str, Grid]) -> None:
    """Annotations, and the features of both grids: links to the user's files, or the downloaded files themselves."""
    root.mkdir(parents=True)
    place: Callable[[Path, Path], object] = _link
    if source is None:
        source = _download_thumos_features(root.with_name("unpacked"))
        place = shutil.move
    videos, segments = merge_thumos(source)
    simulate.write_annotations(videos, segments, root / "gt.json")
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
    own = sorted(source.rglob(name))
    annotations = own[0] if own else _download(ACTIVITYNET_URL, name)
    database = labelled_videos(annotations)
    available = set(database)
    for grid in grids.values():
        available &= _link_features(source, database, grid, root)
    if not available:
        raise InputError(f"{source}: holds no features of ActivityNet, such as rgb/v_<id>.npy and flow/v_<id>.npy")
    write_json({"version": "ActivityNet 1.3", "database": database}, root / "gt.json")
    for subset, split in (("training", "train"), ("validation", "test")):
        videos = [video for video, entry in database.items() if entry["subset"] == subset]
        chosen = []
        for video in videos:
            # Training needs a label; a test video without an action stays.
            if video in available and (split == "test" or database[video]["annotations"]):
                chosen.append(video)
        (root / f"split_{split}.txt").write_text("".join(f"{video}\n" for video in chosen), encoding="utf-8")
        print(f"activitynet13: {len(chosen)} of {len(videos)} {subset} videos can be used", file=sys.stderr)


def labelled_videos(path: Path) -> dict[str, dict[str, Any]]:
    """ActivityNet's training and validation videos: those whose annotations are published.

    A few of their segments are [0, 0], and some end after the video: `parse_annotations` handles these.

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
    """Links the features below `source`, in folders of any depth, to where the grid has them.

    Returns:
        The videos whose features are there in every modality.
    """
    depth = 2 if grid.modalities else 1  # files are matched by rgb/v_<id>.npy, or by v_<id>.npy
    origins = {path.parts[-depth:]: path.resolve() for path in source.rglob("*.npy")}
    linked = set()
    for video in videos:
        names = [Path(grid.pattern.format(video=video, modality=m, subset="")) for m in grid.modalities or [""]]
        if any(name.parts[-depth:] not in origins for name in names):
            continue
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            _link(origins[name.parts[-depth:]], root / name)
        linked.add(video)
    return linked


SOURCES: dict[str, Callable[[Path | None, Path, Mapping[str, Grid]], None]] = {
    "demo": _demo,
    "rendered": _rendered,
    "sbhar": _sbhar,
    "shrec22": _shrec22,
    "thumos14-simulated": _thumos_simulated,
    "thumos14": _thumos,
    "activitynet13": _activitynet,
}
"""Data set -> the function that builds it in a new folder, from the user's folder or from its public source."""


def merge_thumos(source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """THUMOS'14's annotations (`gt.json`), with the durations and frame rates of `thumos14.json`.

    Args:
        source: a folder that holds both files, at any depth.

    Returns:
        Frames of videos and of segments, see `annotations.read_annotations`.
    """
    videos, segments = read_annotations(_find(source, "gt.json"))
    file = _find(source, "thumos14.json")
    timing, _ = read_annotations(file)
    unknown = videos.index.difference(timing.index)
    if len(unknown):
        raise InputError(f"{file}: has no video {unknown[0]!r}, which gt.json has")
    timing = timing.loc[videos.index]
    return videos.assign(duration=timing.duration, fps=timing.fps), segments


def _find(source: Path, name: str) -> Path:
    """The file or folder of a name below `source`; of several, the one in the fewest folders."""
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
        if origin.is_dir():
            shutil.copytree(origin, target)
        else:
            shutil.copyfile(origin, target)


def _download_sbhar(folder: Path) -> Path:
    return unpack(_download(SBHAR_URL, "sbhar.zip"), folder)


def _download_thumos_annotations() -> Path:
    """Downloads the files into the cache; returns its folder."""
    for name, (url, checksum) in THUMOS_FILES.items():
        file = _download(url + name, name, f"sha256:{checksum}")
    return file.parent


def _download_thumos_features(folder: Path) -> Path:
    """Downloads annotations and features, and puts them into a folder, the features unpacked."""
    annotations = _download_thumos_annotations()
    for method, (file_id, checksum) in THUMOS_ARCHIVES.items():
        url = f"https://drive.google.com/file/d/{file_id}/view"
        unpack(_download(url, f"thumos14-{method}", checksum), folder / method)
    for name in THUMOS_FILES:
        shutil.copyfile(annotations / name, folder / name)
    return folder


def _download(url: str, name: str, checksum: str | None = None) -> Path:
    """Downloads a file into the cache, if it is not there already."""
    from fustal.tools.sources.download import download  # slow to import, and not needed with --from

    return download(url, name, checksum)
