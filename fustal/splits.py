"""Which of one's own videos are trained on and which are tested on: found out by `fustal init`."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from fustal import InputError
from fustal.layout import Features, walk

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
    """

    subsets: tuple[str, str]
    train: list[str]
    test: list[str]
    how: str
    files: tuple[str, str] | None = None
    new: dict[str, list[str]] = field(default_factory=dict)


def find_split(folder: Path, videos: pd.DataFrame, labelled: set[str], features: list[Features]) -> Split:
    """Training and test videos: of split files, subsets, folders, labels, or else every fifth.

    Args:
        folder: root of the data.
        videos: frame of the annotations.
        labelled: videos with a label.
        features: what `find_features` found.

    Raises:
        InputError: subsets that say nothing, or no video on one side.
    """
    stored = sorted(set.intersection(*(set(found.files) for found in features)))
    known = videos.loc[videos.index.isin(stored), "subset"]
    split = _by_files(folder, videos.subset, stored) or _by_subsets(known, labelled, videos.subset)
    if not split:
        if known.str.lower().nunique() > 1:
            there = ", ".join(sorted(set(known)))
            raise InputError(f"{folder}: the subsets of the annotations are {there}: name them train and test")
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
            raise InputError(f"{folder / file}: is no list of videos with features: mend it, or move it away")
    return split


def _by_files(folder: Path, subsets: pd.Series, stored: list[str]) -> Split | None:
    """Lists of videos beside the annotations, such as split_train.txt and split_test.txt."""
    lists: dict[str, tuple[str, list[str]]] = {}
    for path in sorted(walk(folder, ".txt", depth=2), key=lambda path: len(path.parts)):
        words = re.split(r"[^a-z]+", path.stem.lower())
        kind = next((group[0] for group in (TRAIN, TEST, VALIDATION) if set(words) & set(group)), None)
        names = _lines(path)
        if kind and names and set(names) <= {*subsets.index, *stored}:
            lists.setdefault(kind, (path.relative_to(folder).as_posix(), names))
    kinds = [kind for kind in (TRAIN[0], VALIDATION[0], TEST[0]) if kind in lists]
    if len(kinds) < 2:
        return None
    (train_file, train), (test_file, test) = lists[kinds[0]], lists[kinds[-1]]
    first = _usual(subsets, train)
    if first is None:
        return None
    pair = (first, _usual(subsets, test) or first)
    return Split(pair, train, test, f"as {train_file} and {test_file} say", (train_file, test_file))


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError):
        return []


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
