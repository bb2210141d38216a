"""Finds the features below a folder and describes where they lie, as patterns for a data-set card.

Files are recognised by the names of the videos in the annotations. The page "Your own data" (docs/own_data.md) lists
the layouts that are read. Used by `fustal init`.
"""

import os
import re
from collections.abc import Collection, Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fustal.data.features import open_features
from fustal.exceptions import InputError

ALIKE = 0.02
"""Features of the same videos are on one grid if the ratio of their lengths differs from 1 by less than this."""

STRAY = 10
"""A naming pattern is an accident if another one in the same folder fits this many times as many videos."""

SAMPLE = 3
"""Number of videos that are compared to find out whether one modality is a copy of another."""

SUBSETS = ("train", "training", "val", "valid", "validation", "test", "testing")
"""Names of folders that separate training from test videos. A card supports only "train" and "test"."""


class Place(NamedTuple):
    """A folder, and what its file names have before and after the video's name."""

    folder: Path
    before: str
    after: str

    def video_of(self, path: Path) -> str:
        """The video's name in the name of a file of this folder; empty if the file is named differently."""
        stem = path.stem
        if not (stem.startswith(self.before) and stem.endswith(self.after)):
            return ""
        return stem[len(self.before) : len(stem) - len(self.after)]


Files = dict[str, Path]
"""Video -> its feature file."""


class Features(NamedTuple):
    """Features on one grid.

    Attributes:
        pattern: path below the folder with {video} and possibly {subset} and {modality}, see `fustal.data.cards.Grid`.
        modalities: values of {modality}.
        files: video -> its file, of the first modality.
        lengths: video -> number of snippets T, for every file that can be read.
        folders: video -> "train" or "test" if the pattern has {subset}; else empty.
    """

    pattern: str
    modalities: list[str]
    files: Files
    lengths: dict[str, int]
    folders: dict[str, str]


def walk(folder: Path, ending: str | tuple[str, ...], depth: int | None = None) -> Iterator[Path]:
    """Finds regular files below a folder. Links to folders are followed, hidden files and folders are skipped.

    Args:
        folder: where to start.
        ending: end of the file names in any case, such as ".npy", or several.
        depth: maximum number of folders between `folder` and a file; None: no limit.

    Yields:
        Paths, sorted by name within each folder.
    """
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # by a link, possibly to a folder above
            folders.clear()
            continue
        seen.add(real)
        # os.walk visits the folders that are left in its list, in the order of the list.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(Path(here).relative_to(folder).parts) == depth:
            folders.clear()
        for name in sorted(names):
            path = Path(here) / name
            if _is_plain(name) and name.lower().endswith(ending) and path.is_file():
                yield path


def find_features(folder: Path, videos: Collection[str]) -> list[Features]:
    """Finds the features below a folder.

    Args:
        folder: root of the data.
        videos: names in the annotations.

    Returns:
        One entry, or two if the same videos have features of different length: first the shorter ones, which are the
        generator's.

    Raises:
        InputError: there are no features, or a card cannot describe where they lie.
    """
    paths = [path for path in walk(folder, ".npy") if path.suffix == ".npy"]  # patterns do not match .NPY
    if not paths:
        raise InputError(f"{folder}: holds no .npy file: write the features of each video into one, by numpy.save")
    named = _by_pattern(folder, paths, set(videos))
    if not named:
        what = f"no .npy file is named after a video of the annotations ({paths[0].name} and {next(iter(videos))!r})"
        stems = {Path(video).stem for video in videos}
        without = _by_pattern(folder, paths, stems)
        fix = "rename the files, or the videos in the annotations"
        raise InputError(f"{folder}: {what}: {'leave out the endings of the videos' if without else fix}")
    joined = _join_subsets(folder, named)
    # Arrays of three dimensions, such as joints or frames beside the features, are not meant to be features.
    tables = [one for one in joined if not _is_of_three_dimensions(one)]
    series = [_measured(one) for one in tables or joined]
    features = [_join_modalities(folder, group) for group in _on_grids(folder, series)]
    patterns = [found.pattern for found in features]
    if len(features) > 2:
        raise InputError(_several(folder, "features of more than two lengths", patterns))
    # Joined modalities keep their common videos only, and these may be different ones on each grid.
    if len(features) == 2 and ratio(features[0], features[1]) is None:
        raise InputError(_several(folder, "features of different videos in several places", patterns))
    return sorted(features, key=_mean_length)


def stored_videos(features: list[Features]) -> set[str]:
    """Returns the videos that have a file on every grid."""
    stored = set(features[0].files)
    for found in features[1:]:
        stored &= set(found.files)
    return stored


def ratio(one: Features, other: Features) -> float | None:
    """Compares lengths: median of T of `one` / T of `other` over their common videos; None without a common video."""
    ratios = [length / other.lengths[video] for video, length in one.lengths.items() if video in other.lengths]
    return float(np.median(ratios)) if ratios else None


def _mean_length(found: Features) -> float:
    return sum(found.lengths.values()) / len(found.lengths)


def _by_pattern(folder: Path, paths: list[Path], videos: set[str]) -> dict[str, Files]:
    """Groups files by their pattern; files of videos that are not annotated belong to it if they are named alike."""
    named = _without_accidents(_by_name(paths, videos))
    _add_unlisted(folder, paths, named)
    return {_pattern(folder, place): files for place, files in named.items()}


def _by_name(paths: list[Path], videos: set[str]) -> dict[Place, Files]:
    """The files whose name contains that of a video of the annotations."""
    sizes = sorted({len(video) for video in videos}, reverse=True)
    named: dict[Place, Files] = {}
    for path in paths:
        video = _video_in(path.stem, videos, sizes)
        if video is not None:
            before, _, after = path.stem.partition(video)
            named.setdefault(Place(path.parent, before, after), {})[video] = path
    return named


def _video_in(stem: str, videos: set[str], sizes: list[int]) -> str | None:
    """The longest name of a video in a file's name.

    Args:
        stem: name of the file without its ending.
        videos: names to look for.
        sizes: their lengths, the longest first.
    """
    for size in sizes:
        for start in range(len(stem) - size + 1):
            part = stem[start : start + size]
            if part in videos:
                return part
    return None


def _without_accidents(named: dict[Place, Files]) -> dict[Place, Files]:
    """Leaves out files that contain a video's name by accident, such as v12 for v1.

    In each folder the pattern of most videos is kept. Another one is kept only if it is separated from the video's name
    by something other than a letter or digit, and is not too rare (`STRAY`).
    """
    weights: dict[Place, tuple[int, bool]] = {}
    best: dict[Path, tuple[int, bool]] = {}
    for place, files in named.items():
        apart = not (place.before[-1:].isalnum() or place.after[:1].isalnum())
        weights[place] = (len(files), apart)
        best[place.folder] = max(best.get(place.folder, (0, False)), weights[place])
    kept = {}
    for place, files in named.items():
        count, apart = weights[place]
        maximum, _ = best[place.folder]
        if weights[place] == best[place.folder] or (apart and STRAY * count > maximum):
            kept[place] = files
    return kept


def _add_unlisted(folder: Path, paths: list[Path], named: dict[Place, Files]) -> None:
    """Adds the files of videos that are not annotated to those that are named alike.

    They lie in the same folder as files of annotated videos, or in its counterpart for the other subset.
    """
    places = set(named)
    for place in named:
        for twin in _twins(folder, place.folder):
            places.add(place._replace(folder=twin))
    taken: set[Path] = set()
    for files in named.values():
        taken.update(files.values())
    others: dict[Path, list[Path]] = {}
    for path in paths:
        if path not in taken:
            others.setdefault(path.parent, []).append(path)
    for place in sorted(places):
        for path in others.get(place.folder, []):
            video = place.video_of(path)
            if video and path not in taken and _is_readable(path):
                named.setdefault(place, {})[video] = path
                taken.add(path)


def _twins(folder: Path, parent: Path) -> list[Path]:
    """The counterparts of a folder for the other subset: "train" in its path replaced by "test", or vice versa."""
    other = {"train": "test", "test": "train"}
    parts = parent.relative_to(folder).parts
    twins = []
    for i, part in enumerate(parts):
        if part in other:
            twins.append(folder.joinpath(*parts[:i], other[part], *parts[i + 1 :]))
    return twins


def _pattern(folder: Path, place: Place) -> str:
    parts = [_escaped(part) for part in place.folder.relative_to(folder).parts]
    return "/".join([*parts, f"{_escaped(place.before)}{{video}}{_escaped(place.after)}.npy"])


class _Series(NamedTuple):
    """The files of one pattern, and for each video the folder that stands for {subset} in its path."""

    pattern: str
    files: Files
    folders: dict[str, str]


def _join_subsets(folder: Path, named: dict[str, Files]) -> list[_Series]:
    """Joins two patterns that differ in "train" and "test" only into one with {subset}.

    Raises:
        InputError: patterns differ in the names of other subsets, which a card does not support.
    """
    alike: dict[str, dict[str, str]] = {}  # pattern with {subset} -> name of the subset's folder -> its pattern
    for pattern in named:
        subset, joined = _split_off_subset(pattern)
        alike.setdefault(joined, {})[subset] = pattern
    series = []
    for joined, patterns in alike.items():
        if len(patterns) == 1:
            only = next(iter(patterns.values()))
            series.append(_Series(only, named[only], {}))
        elif set(patterns) == {"train", "test"}:
            series.append(_both_subsets(joined, patterns, named))
        else:
            where = folder / joined.partition("{subset}")[0]
            there = ", ".join(sorted(patterns))
            raise InputError(f"{where}: holds folders {there}: name them train and test, or put all files into one")
    return series


def _split_off_subset(pattern: str) -> tuple[str, str]:
    """The first folder of a pattern that is named after a subset, and the pattern with {subset} in its place."""
    parts = pattern.split("/")
    for i, part in enumerate(parts[:-1]):
        if part.lower() in SUBSETS:
            return part, "/".join([*parts[:i], "{subset}", *parts[i + 1 :]])
    return "", pattern


def _both_subsets(joined: str, patterns: dict[str, str], named: dict[str, Files]) -> _Series:
    files: Files = {}
    folders: dict[str, str] = {}
    for subset, pattern in patterns.items():
        for video, path in named[pattern].items():
            files[video] = path
            folders[video] = subset
    return _Series(joined, files, folders)


def _is_of_three_dimensions(series: _Series) -> bool:
    """Whether the first file of a pattern holds an array of three or more dimensions."""
    try:
        return np.load(next(iter(series.files.values())), mmap_mode="r", allow_pickle=False).ndim > 2
    except Exception:  # a broken file can raise any exception; `_measured` names it
        return False


def _measured(series: _Series) -> Features:
    """Counts the snippets of each file. Unreadable files are skipped, as `fustal validate` lists them.

    Raises:
        InputError: no file can be read.
    """
    lengths: dict[str, int] = {}
    errors = []
    for video, path in series.files.items():
        try:
            lengths[video] = len(open_features(path))
        except InputError as error:
            errors.append(error)
    if errors and not lengths:
        fix = getattr(errors[0].args[0], "fix", "")
        raise InputError(f"{errors[0]}: {fix}" if fix else str(errors[0]))
    return Features(series.pattern, [], series.files, lengths, series.folders)


def _on_grids(folder: Path, series: list[Features]) -> list[list[Features]]:
    """Groups features by their lengths: those of about equal length are on one grid.

    Raises:
        InputError: two of them have no video in common.
    """
    groups: list[list[Features]] = []
    for one in sorted(series, key=lambda item: len(item.files), reverse=True):
        near = None
        for group in groups:
            times = ratio(one, group[0])
            if times is None:
                patterns = [groups[0][0].pattern, one.pattern]
                raise InputError(_several(folder, "features of different videos in several places", patterns))
            if near is None and abs(times - 1) < ALIKE:
                near = group
        if near is None:
            groups.append([one])
        else:
            near.append(one)
    return groups


def _join_modalities(folder: Path, group: list[Features]) -> Features:
    """Joins patterns that differ in one name only into one with {modality}; videos that lack a modality are dropped.

    Raises:
        InputError: the patterns differ in more, have no video in common, or one modality is a copy of another.
    """
    first = group[0]
    if len(group) == 1:
        return first
    patterns = [one.pattern for one in group]
    before, values, after = _difference(patterns)
    for value in values:
        if not value or "{" in value.replace("{{", ""):  # a single brace belongs to {video} or {subset}
            raise InputError(_several(folder, "features of the same length in several places", patterns))
    common = set(first.files)
    for one in group[1:]:
        common &= set(one.files)
    lengths = {video: length for video, length in first.lengths.items() if video in common}
    if not lengths:
        raise InputError(_several(folder, "features of different videos in several places", patterns))
    _check_that_they_differ(folder, group, sorted(common)[:SAMPLE])
    files = {video: path for video, path in first.files.items() if video in common}
    modalities = sorted((_plain(value) for value in values), key=_modality_order)
    return Features(f"{before}{{modality}}{after}", modalities, files, lengths, first.folders)


def _difference(patterns: list[str]) -> tuple[str, list[str], str]:
    """Compares patterns word by word.

    Returns:
        What all begin with, the part of each that differs, what all end with.

    >>> _difference(["i3d/rgb/{video}.npy", "i3d/flow/{video}.npy"])
    ('i3d/', ['rgb', 'flow'], '/{video}.npy')
    """
    words = [re.split(r"([/_.-]|{video})", pattern) for pattern in patterns]
    start = _count_equal(words)
    rest = [row[start:] for row in words]
    end = _count_equal([row[::-1] for row in rest])
    values = ["".join(row[: len(row) - end]) for row in rest]
    before = "".join(words[0][:start])
    after = "".join(rest[0][len(rest[0]) - end :])
    return before, values, after


def _count_equal(rows: list[list[str]]) -> int:
    """How many words at the beginning are the same in all rows."""
    count = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count


def _modality_order(name: str) -> tuple[int, str]:
    """Sorts RGB first, then flow, then the others by name."""
    order = {"rgb": 0, "flow": 1}
    return order.get(name.lower(), 2), name


def _check_that_they_differ(folder: Path, group: list[Features], videos: list[str]) -> None:
    """Refuses two modalities with the same values in all of some videos, as one is a copy of the other.

    Raises:
        InputError: names both patterns, or a file of these videos that cannot be read.
    """
    for one, other in combinations(group, 2):
        copies = 0
        for video in videos:
            a = open_features(one.files[video])
            b = open_features(other.files[video])
            # Constant features may be equal without being a copy.
            if np.array_equal(a, b) and np.ptp(a) > 0:
                copies += 1
        if copies == len(videos):
            what = f"{one.pattern} and {other.pattern} hold the same numbers"
            raise InputError(f"{folder}: {what}: keep one, and move the other away")


def _several(folder: Path, what: str, patterns: list[str]) -> str:
    listed = ", ".join(patterns[:4]) + ", ..." * (len(patterns) > 4)
    return f"{folder}: holds {what} ({listed}): keep those to use in one folder, move the others away"


def _is_readable(path: Path) -> bool:
    try:
        open_features(path)
    except InputError:
        return False
    return True


def _is_plain(name: str) -> bool:
    """Whether a file's name is not hidden and can be written in UTF-8."""
    return not name.startswith(".") and name == name.encode(errors="ignore").decode()


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _plain(text: str) -> str:
    return text.replace("{{", "{").replace("}}", "}")
