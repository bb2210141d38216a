"""Which of one's own videos are trained on and which are tested on: found out by `fustal init`."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fustal.data.files import read_text, shown
from fustal.data.problems import EXAMPLES
from fustal.data.text import read_video_list
from fustal.exceptions import InputError
from fustal.tools.own_data.layout import Features, walk

TRAIN, VALIDATION, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
"""Names of subsets, in any case."""


@dataclass
class Split:
    """Which videos are trained and tested on.

    Attributes:
        subsets: names in the annotations, of training and test.
        train: its videos.
        test: its videos.
        how: by what they were told apart.
        files: split files that the card names, relative to the root; None: the subset as it is.
        new: split files to be written -> their videos.
        notes: what of the lists was left out.
    """

    subsets: tuple[str, str]
    train: list[str]
    test: list[str]
    how: str
    files: tuple[str, str] | None = None
    new: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_split(
    folder: Path, videos: pd.DataFrame, labelled: set[str], features: list[Features], annotations: Path | None = None
) -> Split:
    """Training and test videos: of split files, subsets, folders, labels, or else every fifth.

    Args:
        folder: root of the data.
        videos: frame of the annotations.
        labelled: videos with a label.
        features: what `find_features` found.
        annotations: their file, which is no list whatever it is called.

    Raises:
        InputError: subsets that say nothing, or no video on one side.
    """
    stored = sorted(set.intersection(*(set(found.files) for found in features)))
    known = videos.loc[videos.index.isin(stored), "subset"]
    split = _by_lists(folder, videos.subset, set(stored)) or _by_subsets(known, labelled, videos.subset)
    if not split:
        if known.str.lower().nunique() > 1:
            there = ", ".join(sorted(set(known)))
            raise InputError(f"{folder}: the subsets of the annotations are {there}: name them train and test")
        if annotations:
            _check_unread(folder, annotations)
        split = _by_folders(stored, known.iloc[0], features[0].folders)
        split = (
            split or _by_lack_of_labels(stored, known.iloc[0], set(videos.index)) or _every_fifth(stored, known.iloc[0])
        )
    for subset, names in (("training", split.train), ("test", split.test)):
        if not names:
            raise InputError(f"{folder}: no {subset} video has features ({split.how}): add some, or correct the split")
    if not labelled & set(split.train):
        raise InputError(f"{folder}: no training video has a label ({split.how}): say which classes occur in them")
    for file in split.new:
        if (folder / file).exists():
            raise InputError(f"{folder / file}: is there already, and would be replaced: move it away")
    return split


LISTS = (".txt", ".lst", ".list")
"""Endings of lists of videos."""

OURS = "# Written by `fustal init`: one video a line. Change it as you like."
"""How the lists begin that are written here. If there are such, they go before others."""


class _List(NamedTuple):
    """A list of videos.

    Attributes:
        file: where it lies below the folder.
        names: what it names.
        known: those of them that are in the annotations or have features.
        alone: whether the annotations are enough to read it, as is done where a card names it.
    """

    file: str
    names: list[str]
    known: list[str]
    alone: bool


def _by_lists(folder: Path, subsets: pd.Series, stored: set[str]) -> Split | None:
    """Lists of videos beside the annotations, such as split_train.txt and split_test.txt.

    Raises:
        InputError: a file is called like one and cannot be used.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(walk(folder, LISTS, depth=3), key=lambda path: (len(path.parts), path)):
        if kind := _part_of(path):
            found.setdefault(kind, []).append(path)
    if TRAIN[0] in found and TEST[0] in found:
        found.pop(VALIDATION[0], None)
    lists = {kind: _the_list(folder, paths, subsets, stored) for kind, paths in found.items()}
    if not lists:
        return None
    if len(lists) == 1:
        ((kind, only),) = lists.items()
        missing = "training" if kind == TEST[0] else "test"
        raise InputError(f"{folder / only.file}: lists videos, and no other file the {missing} videos: write that too")
    train, test = (lists[kind] for kind in (TRAIN[0], VALIDATION[0], TEST[0]) if kind in lists)
    return _of_lists(folder, subsets, train, test)


def _part_of(path: Path) -> str | None:
    """Which part a file is named after: split_train.txt, TestSplit.txt, trainlist01.txt; None: after none."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", path.stem)]
    for kind, beginning in ((TRAIN[0], "train(ing)?"), (TEST[0], "test(ing)?"), (VALIDATION[0], "val(id(ation)?)?")):
        if any(re.fullmatch(f"{beginning}(s|set|split|list|videos|ids)?", word) for word in words):
            return kind
    return None


def _check_unread(folder: Path, annotations: Path) -> None:
    """Refuses to tell videos apart by a rule where a file seems to do it in a form that is not read.

    Raises:
        InputError: names the file.
    """
    for path in walk(folder, "", depth=3):
        is_list = _part_of(path) or "split" in path.stem.lower()
        if is_list and path.suffix.lower() not in (*LISTS, ".npy", ".yaml", ".md") and not path.samefile(annotations):
            what = "seems to tell training from test videos, and is not read"
            raise InputError(f"{path}: {what}: write names, one a line, into train.txt and test.txt, or move it away")


def _the_list(folder: Path, paths: list[Path], subsets: pd.Series, stored: set[str]) -> _List:
    """The list of one part: of several the one that was written here, or the one that all others agree with."""
    ours = [path for path in paths if read_text(path).startswith(OURS)]
    lists, unusable = [], []
    for path in ours or paths:
        names = read_video_list(path, {*subsets.index, *stored})
        known = [name for name in names if name in subsets.index or name in stored]
        if known:
            alone = read_video_list(path, set(subsets.index)) == names
            lists.append(_List(path.relative_to(folder).as_posix(), names, known, alone))
        else:
            such = f" (such as {shown(names[0][:40])})" if names else ""
            what = f"none of its {len(names)} lines names a video{such}"
            unusable.append(f"{path}: is called like a list of videos, and {what}: correct, rename or remove it")
    if not lists:
        raise InputError(unusable[0])
    if any(set(one.names) != set(lists[0].names) for one in lists):
        files = ", ".join(one.file for one in lists)
        raise InputError(f"{folder}: holds several lists of the same part ({files}): keep one, move the others away")
    return lists[0]


def _of_lists(folder: Path, subsets: pd.Series, train: _List, test: _List) -> Split:
    """A split by two lists. Names in them that cannot be used are left out, in lists of their own."""
    annotated = [name for name in train.known if name in subsets.index]
    if not annotated:
        raise InputError(f"{folder / train.file}: none of its videos is in the annotations: say what happens in them")
    for one, names in ((train, annotated), (test, test.known)):
        several = sorted(set(subsets[subsets.index.isin(names)].str.lower()))
        if len(several) > 1:
            what = f"names videos of the subsets {shown(several)}, and a card takes one"
            raise InputError(f"{folder / one.file}: {what}: write one subset for all of them into the annotations")
    first = _usual(subsets, annotated)
    pair = (first, _usual(subsets, test.known) or first)
    split = Split(pair, annotated, test.known, f"as {train.file} and {test.file} say", (train.file, test.file))
    parts = ((train, annotated, "in the annotations"), (test, test.known, "in annotations or features"))
    for one, kept, where in parts:
        if left := [name for name in one.names if name not in set(kept)]:
            examples = ", ".join(map(shown, left[:EXAMPLES])) + ", ..." * (len(left) > EXAMPLES)
            count = f"{len(left)} of {len(one.names)} names are"
            split.notes.append(f"{one.file}: {count} not {where} and left out: {examples}")
    if split.notes or not (train.alone and test.alone):
        names = ("train.txt", "test.txt")
        if any((folder / name).exists() for name in names):
            names = ("train_used.txt", "test_used.txt")
        split.files, split.new = names, dict(zip(names, (annotated, test.known), strict=True))
    return split


def _usual(subsets: pd.Series, names: list[str]) -> str | None:
    """The subset of most of some videos."""
    counts = Counter(subsets[subsets.index.isin(names)])
    return counts.most_common(1)[0][0] if counts else None


def _by_subsets(known: pd.Series, labelled: set[str], whole: pd.Series) -> Split | None:
    """Subsets as the field names them: training and validation, validation and test, train and test.

    Args:
        known: subset of each video that has features.
        labelled: videos with a label.
        whole: subset of each video of the annotations.
    """
    names = {subset.lower(): subset for subset in known}
    present = [next((names[name] for name in group if name in names), None) for group in (TRAIN, VALIDATION, TEST)]
    train, validation, test = present
    if test and train and validation and not labelled & set(known.index[known == test]):
        test = None  # ActivityNet, whose testing videos have no public labels
    train, test = train or validation, test or validation
    if not train or not test or train == test:
        return None
    sides = [known.index[known == subset].tolist() for subset in (train, test)]
    split = Split((train, test), *sides, f"subsets {train} and {test} of the annotations")
    if any(sum(whole.str.lower() == s.lower()) > len(side) for s, side in zip((train, test), sides, strict=True)):
        split.files, split.new = _new_files(*sides)
    return split


def _by_folders(stored: list[str], subset: str, folders: dict[str, str]) -> Split | None:
    if not folders:
        return None
    train, test = ([video for video in stored if folders[video] == side] for side in ("train", "test"))
    return Split((subset, subset), train, test, "as the folders train and test say", *_new_files(train, test))


def _by_lack_of_labels(stored: list[str], subset: str, listed: set[str]) -> Split | None:
    """Videos that the annotations do not list; one listed without a label is one in which nothing happens."""
    train, test = ([video for video in stored if (video in listed) == side] for side in (True, False))
    how = "those that the annotations do not list: they are localised, and nothing can be measured on them"
    return Split((subset, subset), train, test, how, *_new_files(train, test)) if test else None


def _every_fifth(stored: list[str], subset: str) -> Split:
    """By a hash of the name: the same whatever else is there, and neighbours of a recording are not systematic."""
    order = sorted(stored, key=lambda video: hashlib.sha256(video.encode()).digest())
    test = sorted(order[::5])
    train = sorted(set(stored) - set(test))
    how = (
        "every fifth, as nothing tells them apart; videos of one person or scene should be on one side: "
        "if they are not, change train.txt and test.txt"
    )
    return Split((subset, subset), train, test, how, *_new_files(train, test))


def _new_files(train: list[str], test: list[str]) -> tuple[tuple[str, str], dict[str, list[str]]]:
    return ("train.txt", "test.txt"), {"train.txt": train, "test.txt": test}
