"""Where the features below a folder lie, as patterns for a data-set card: found by the names of the videos.

Used by `fustal init`; the page "Your own data" (docs/own_data.md) lists the layouts that are read.
"""

import os
import re
from collections.abc import Collection, Iterator
from itertools import combinations, takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fustal.data.features import open_features
from fustal.exceptions import InputError

ALIKE = 0.02
"""Features of the same videos whose lengths differ by less than this share are on one grid."""

STRAY = 10
"""Where one way of naming files fits so many times as many videos as another in a folder, that is an accident."""

SAMPLE = 3
"""So many videos of two modalities are compared, to see whether one is a copy of the other."""

SUBSETS = ("train", "training", "val", "valid", "validation", "test", "testing")
"""Names of folders that tell training from test videos; a card can say the first and the last but one."""


Place = tuple[Path, str, str]
"""A folder, and what stands before and after the videos' names in its files."""


class Features(NamedTuple):
    """Features on one grid.

    Attributes:
        pattern: below the folder, with {video} and possibly {subset} and {modality}, as in `fustal.data.cards.Grid`.
        modalities: values of {modality}.
        files: video -> its file, of the first modality.
        lengths: video -> snippets T, of every file that can be read.
        folders: video -> "train" or "test", where the pattern has {subset}.
    """

    pattern: str
    modalities: list[str]
    files: dict[str, Path]
    lengths: dict[str, int]
    folders: dict[str, str]


def walk(folder: Path, ending: str | tuple[str, ...], depth: int | None = None) -> Iterator[Path]:
    """Regular files below a folder, links to folders followed, hidden ones left out.

    Args:
        folder: where.
        ending: of the names, in any case, such as ".npy", or several.
        depth: how many folders deep at most; None: any.

    Yields:
        Paths, in the order of their names.
    """
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        known, level = os.path.realpath(here) in seen, len(Path(here).relative_to(folder).parts)
        seen.add(os.path.realpath(here))
        folders[:] = [] if known or level == depth else sorted(f for f in folders if not f.startswith("."))
        named = [] if known else [name for name in sorted(names) if _is_plain(name) and name.lower().endswith(ending)]
        yield from (path for name in named if (path := Path(here) / name).is_file())


def find_features(folder: Path, videos: Collection[str]) -> list[Features]:
    """The features below a folder.

    Args:
        folder: where.
        videos: names in the annotations.

    Returns:
        One, or, if the same videos have features of different length, two: the shorter (the generator's) first.

    Raises:
        InputError: there are none, or no card could say where they lie.
    """
    paths = [path for path in walk(folder, ".npy") if path.suffix == ".npy"]
    if not paths:
        raise InputError(f"{folder}: holds no .npy file: write the features of each video as one, numpy.save")
    named = _by_pattern(folder, paths, set(videos))
    if not named:
        what = f"no .npy file is named after a video of the annotations ({paths[0].name} and {next(iter(videos))!r})"
        raise InputError(f"{folder}: {what}: rename the files, or the videos in the annotations")
    groups = _on_grids(folder, [_measured(*item) for item in _join_subsets(folder, named).items()])
    features = [_join_modalities(folder, group) for group in groups]
    if len(features) > 2:
        raise InputError(_several(folder, "more than two lengths", [found.pattern for found in features]))
    return sorted(features, key=lambda found: sum(found.lengths.values()) / len(found.lengths))


def _by_pattern(folder: Path, paths: list[Path], videos: set[str]) -> dict[str, dict[str, Path]]:
    """Pattern -> video -> file; of videos that the annotations do not know, those that lie beside known ones."""
    sizes = sorted({len(video) for video in videos}, reverse=True)
    named: dict[Place, dict[str, Path]] = {}
    for path in paths:
        if found := _video_in(path.stem, videos, sizes):
            before, video, after = found
            named.setdefault((path.parent, before, after), {})[video] = path
    kept = _without_accidents(named)
    affixes = {*kept} | {(twin, *affix) for parent, *affix in kept for twin in _twins(folder, parent)}
    taken = {path for files in kept.values() for path in files.values()}
    beside: dict[Path, list[Path]] = {}
    for path in paths:
        beside.setdefault(path.parent, []).extend([path] if path not in taken else [])
    for parent, before, after in sorted(affixes):
        for path in beside.get(parent, []):
            video = path.stem[len(before) : len(path.stem) - len(after)]
            if video and path.stem == before + video + after and path not in taken and _is_readable(path):
                kept.setdefault((parent, before, after), {})[video] = path
                taken.add(path)
    return {_pattern(folder, *key): files for key, files in kept.items()}


def _without_accidents(named: dict[Place, dict[str, Path]]) -> dict[Place, dict[str, Path]]:
    """Leaves out what only seems to name a video: v1 in v12, where most files are named otherwise."""
    best: dict[Path, tuple[int, bool]] = {}

    def weight(place: Place) -> tuple[int, bool]:
        _, before, after = place
        return len(named[place]), not (before[-1:].isalnum() or after[:1].isalnum())

    for place in named:
        best[place[0]] = max(best.get(place[0], (0, False)), weight(place))

    def is_meant(place: Place) -> bool:
        (count, apart), (most, _) = weight(place), best[place[0]]
        return (count, apart) == best[place[0]] or (apart and STRAY * count > most)

    return {place: files for place, files in named.items() if is_meant(place)}


def _video_in(stem: str, videos: set[str], sizes: list[int]) -> tuple[str, str, str] | None:
    """What stands before a video's name, the longest that fits, the name, and what stands after it."""
    for size in sizes:
        for i in range(len(stem) - size + 1):
            if stem[i : i + size] in videos:
                return stem[:i], stem[i : i + size], stem[i + size :]
    return None


def _twins(folder: Path, parent: Path) -> list[Path]:
    """The folders of test videos that belong to one of training videos, and the other way round."""
    parts = parent.relative_to(folder).parts
    other = {"train": "test", "test": "train"}
    return [folder.joinpath(*parts[:i], other[part], *parts[i + 1 :]) for i, part in enumerate(parts) if part in other]


def _pattern(folder: Path, parent: Path, before: str, after: str) -> str:
    parts = [_escaped(part) for part in parent.relative_to(folder).parts]
    return "/".join([*parts, f"{_escaped(before)}{{video}}{_escaped(after)}.npy"])


class _Series(NamedTuple):
    """Files under one pattern, their lengths, and the subset in their path."""

    pattern: str
    files: dict[str, Path]
    lengths: dict[str, int]
    folders: dict[str, str]


def _join_subsets(folder: Path, named: dict[str, dict[str, Path]]) -> dict[str, tuple[dict[str, Path], dict[str, str]]]:
    """Patterns that differ in train and test alone become one with {subset}."""
    joined: dict[str, tuple[dict[str, Path], dict[str, str]]] = {}
    alike: dict[str, list[tuple[str, str]]] = {}
    for pattern in named:
        parts = pattern.split("/")
        place = next((i for i, part in enumerate(parts[:-1]) if part.lower() in SUBSETS), None)
        whole = pattern if place is None else "/".join([*parts[:place], "{subset}", *parts[place + 1 :]])
        alike.setdefault(whole, []).append(("" if place is None else parts[place], pattern))
    for whole, members in alike.items():
        subsets = sorted(subset for subset, _ in members)
        if len(members) == 1:
            joined[members[0][1]] = named[members[0][1]], {}
        elif subsets == ["test", "train"]:
            files = {video: path for _, pattern in members for video, path in named[pattern].items()}
            joined[whole] = files, {video: subset for subset, pattern in members for video in named[pattern]}
        else:
            where = whole.partition("{subset}")[0]
            raise InputError(f"{folder / where}: holds {', '.join(subsets)}: have train and test, or all in one folder")
    return joined


def _measured(pattern: str, found: tuple[dict[str, Path], dict[str, str]]) -> _Series:
    """Counts the snippets of each file; those that cannot be read are left to `fustal validate`."""
    files, folders = found
    lengths, first = {}, None
    for video, path in files.items():
        try:
            lengths[video] = len(open_features(path))
        except InputError as error:
            first = first or error
    if first and not lengths:
        fix = getattr(first.args[0], "fix", "")
        raise InputError(f"{first}: {fix}" if fix else str(first))
    return _Series(pattern, files, lengths, folders)


def _on_grids(folder: Path, series: list[_Series]) -> list[list[_Series]]:
    """Series of the same length together; all must be of the same videos."""
    groups: list[list[_Series]] = []
    for one in sorted(series, key=lambda item: -len(item.files)):
        ratios = [ratio(one, group[0]) for group in groups]
        if any(ratio is None for ratio in ratios):
            patterns = [groups[0][0].pattern, one.pattern]
            raise InputError(_several(folder, "places, with different videos in each", patterns))
        near = next((group for group, r in zip(groups, ratios, strict=True) if abs(r - 1) < ALIKE), None)
        if near is None:
            groups.append([one])
        else:
            near.append(one)
    return groups


def ratio(one: Features | _Series, other: Features | _Series) -> float | None:
    """How many times as long the features of one are: the median over the videos that both have."""
    both = one.lengths.keys() & other.lengths.keys()
    return float(np.median([one.lengths[video] / other.lengths[video] for video in both])) if both else None


def _join_modalities(folder: Path, group: list[_Series]) -> Features:
    """Patterns that differ in one name alone become one with {modality}."""
    first, patterns = group[0], [one.pattern for one in group]
    if len(group) == 1:
        return Features(first.pattern, [], first.files, first.lengths, first.folders)
    words = [re.split(r"([/_.-]|{video})", pattern) for pattern in patterns]
    before = _common(words)
    rest = [row[len(before) :] for row in words]
    after = _common([row[::-1] for row in rest])[::-1]
    values = ["".join(row[: len(row) - len(after)]) for row in rest]
    if any("{" in value.replace("{{", "") for value in values) or not all(values):
        raise InputError(_several(folder, "places, of the same length", patterns))
    order = {"rgb": 0, "flow": 1}
    modalities = sorted((_plain(value) for value in values), key=lambda value: (order.get(value.lower(), 2), value))
    common = set.intersection(*(set(one.files) for one in group))
    _check_that_they_differ(folder, group, sorted(common)[:SAMPLE])
    files = {video: path for video, path in first.files.items() if video in common}
    lengths = {video: length for video, length in first.lengths.items() if video in common}
    return Features("".join([*before, "{modality}", *after]), modalities, files, lengths, first.folders)


def _check_that_they_differ(folder: Path, group: list[_Series], videos: list[str]) -> None:
    """Refuses two modalities that hold the same numbers in some videos: one is a copy. Constant ones tell nothing."""
    for one, other in combinations(group, 2):
        pairs = [(open_features(one.files[video]), open_features(other.files[video])) for video in videos]
        if all(np.array_equal(a, b) and np.ptp(a) > 0 for a, b in pairs):
            what = f"{one.pattern} and {other.pattern} hold the same numbers"
            raise InputError(f"{folder}: {what}: keep one, and move the other away")


def _common(rows: list[list[str]]) -> list[str]:
    """The words that all rows begin with."""
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))]


def _several(folder: Path, what: str, patterns: list[str]) -> str:
    listed = ", ".join(patterns[:4]) + ", ..." * (len(patterns) > 4)
    return f"{folder}: features lie in several {what} ({listed}): keep those to use in one folder, move the others away"


def _is_readable(path: Path) -> bool:
    try:
        open_features(path)
    except InputError:
        return False
    return True


def _is_plain(name: str) -> bool:
    """Not hidden, and writable in UTF-8."""
    return not name.startswith(".") and name == name.encode(errors="ignore").decode()


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _plain(text: str) -> str:
    return text.replace("{{", "{").replace("}}", "}")
