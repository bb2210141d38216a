"""Finds out which videos of a folder are trained on and which are tested on. Used by `fustal init`."""

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
from fustal.tools.own_data.layout import Features, stored_videos, walk

SUBSETS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Part of a data set -> names of its subset in the annotations, in any case."""

LISTS = (".txt", ".lst", ".list")
"""Endings of lists of videos."""

OURS = "# Written by `fustal init`: one video a line. Change it as you like."
"""First line of the lists that `fustal init` writes. They take precedence over other lists."""


@dataclass
class Split:
    """Which videos are trained and tested on.

    Attributes:
        subsets: names of the training and the test subset in the annotations.
        train: training videos.
        test: test videos.
        how: rule by which they were separated, for a message.
        files: training and test list that the card names, relative to the root; None: all videos of the subsets.
        new: lists to write -> their videos.
        notes: names in the lists that are left out, a message for each list.
    """

    subsets: tuple[str, str]
    train: list[str]
    test: list[str]
    how: str
    files: tuple[str, str] | None = None
    new: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def with_new_lists(self, train: str = "train.txt", test: str = "test.txt") -> "Split":
        """The same split, by lists that `init` writes and the card names."""
        self.files = (train, test)
        self.new = {train: self.train, test: self.test}
        return self


class _List(NamedTuple):
    """A list of videos.

    Attributes:
        file: its path below the folder.
        names: all names in it.
        known: those that are in the annotations or have features.
        alone: whether it reads the same without the names of the features. A card's list is read in this way.
    """

    file: str
    names: list[str]
    known: list[str]
    alone: bool


def find_split(
    folder: Path, videos: pd.DataFrame, labelled: set[str], features: list[Features], annotations: Path | None = None
) -> Split:
    """Finds training and test videos.

    The first of these that separates them is used: lists of videos, subsets of the annotations, folders named train and
    test, videos that the annotations do not list; else every fifth video is tested on.

    Args:
        folder: root of the data.
        videos: frame of the annotations, with the column subset.
        labelled: videos with a label.
        features: as `find_features` returns them.
        annotations: their file, which is never taken for a list.

    Raises:
        InputError: lists or subsets that cannot be used, a part without a video, no training video with a label, or a
            file in the place of a list to be written.
    """
    stored = stored_videos(features)
    subsets = videos.loc[videos.index.isin(stored), "subset"]
    split = _by_lists(folder, videos.subset, stored)
    if split is None:
        split = _by_subsets(subsets, labelled, videos.subset)
    if split is None:
        _check_one_subset(folder, subsets)
        if annotations:
            _check_unread(folder, annotations)
        split = _by_rule(sorted(stored), subsets.iloc[0], set(videos.index), features[0].folders)
    _check_split(folder, split, labelled)
    return split


def _check_one_subset(folder: Path, subsets: pd.Series) -> None:
    if subsets.empty:
        raise InputError(f"{folder}: no annotated video has features on all grids: add some")
    if subsets.str.lower().nunique() > 1:
        there = ", ".join(sorted(set(subsets)))
        raise InputError(f"{folder}: the subsets of the annotations are {there}: name them train and test")


def _check_unread(folder: Path, annotations: Path) -> None:
    """Refuses to split by a rule if a file seems to hold a split, in a form that is not read.

    Raises:
        InputError: names the file.
    """
    for path in walk(folder, "", depth=3):
        is_list = _part_of(path) or "split" in path.stem.lower()
        if is_list and path.suffix.lower() not in (*LISTS, ".npy", ".yaml", ".md") and not path.samefile(annotations):
            what = "seems to define training and test videos, but is not read"
            raise InputError(f"{path}: {what}: write one name a line into train.txt and test.txt, or move it away")


def _check_split(folder: Path, split: Split, labelled: set[str]) -> None:
    for subset, names in (("training", split.train), ("test", split.test)):
        if not names:
            raise InputError(f"{folder}: no {subset} video has features ({split.how}): add some, or correct the split")
    if labelled.isdisjoint(split.train):
        raise InputError(f"{folder}: no training video has a label ({split.how}): annotate which classes occur")
    for file in split.new:
        if (folder / file).exists():
            raise InputError(f"{folder / file}: already exists and would be replaced: move it away")


# --- lists of videos --------------------------------------------------------------------------------------------------


def _by_lists(folder: Path, subsets: pd.Series, stored: set[str]) -> Split | None:
    """A split by lists of videos, such as split_train.txt and split_test.txt; None if there are no lists.

    Raises:
        InputError: a file is named like a list and cannot be used, or one of the two lists is missing.
    """
    lists: dict[str, _List] = {}
    for part, paths in _lists_by_part(folder).items():
        lists[part] = _choose_list(folder, paths, subsets, stored)
    if not lists:
        return None
    if len(lists) == 1:
        part, only = next(iter(lists.items()))
        missing = "training" if part == "test" else "test"
        raise InputError(f"{folder / only.file}: lists videos, but no file lists the {missing} videos: write it, too")
    # A validation list stands for the missing one of the two.
    train = lists["train"] if "train" in lists else lists["val"]
    test = lists["test"] if "test" in lists else lists["val"]
    return _of_lists(folder, subsets, train, test)


def _lists_by_part(folder: Path) -> dict[str, list[Path]]:
    """Part -> its lists, those nearest to the folder first. The validation list is dropped if both others are there."""
    found: dict[str, list[Path]] = {}
    for path in sorted(walk(folder, LISTS, depth=3), key=lambda path: (len(path.parts), path)):
        part = _part_of(path)
        if part is not None:
            found.setdefault(part, []).append(path)
    if "train" in found and "test" in found:
        found.pop("val", None)
    return found


def _part_of(path: Path) -> str | None:
    """The part that a file is named after; None: no part.

    >>> _part_of(Path("TestSplit.txt")), _part_of(Path("trainlist01.txt")), _part_of(Path("latest.txt"))
    ('test', 'train', None)
    """
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", path.stem)]
    for part, beginning in (("train", "train(ing)?"), ("test", "test(ing)?"), ("val", "val(id(ation)?)?")):
        form = re.compile(f"{beginning}(s|set|split|list|videos|ids)?")
        if any(form.fullmatch(word) for word in words):
            return part
    return None


def _choose_list(folder: Path, paths: list[Path], subsets: pd.Series, stored: set[str]) -> _List:
    """The list of one part: the one that `fustal init` wrote, else the one that names the same videos as all others.

    Raises:
        InputError: no file names a video, or they name different ones.
    """
    ours = [path for path in paths if read_text(path).startswith(OURS)]
    lists = []
    unusable = []
    for path in ours or paths:
        one = _read_list(folder, path, subsets, stored)
        if one.known:
            lists.append(one)
        else:
            such = f" (such as {shown(one.names[0][:40])})" if one.names else ""
            what = f"none of its {len(one.names)} lines names a video{such}"
            unusable.append(f"{path}: is named like a list of videos, but {what}: correct, rename or remove it")
    if not lists:
        raise InputError(unusable[0])
    if any(set(one.names) != set(lists[0].names) for one in lists):
        files = ", ".join(one.file for one in lists)
        raise InputError(f"{folder}: holds different lists of the same part ({files}): keep one, move the others away")
    return lists[0]


def _read_list(folder: Path, path: Path, subsets: pd.Series, stored: set[str]) -> _List:
    names = read_video_list(path, {*subsets.index, *stored})
    known = [name for name in names if name in subsets.index or name in stored]
    # A list that a card names is read with the names of the annotations only.
    alone = bool(known) and read_video_list(path, set(subsets.index)) == names
    return _List(path.relative_to(folder).as_posix(), names, known, alone)


def _of_lists(folder: Path, subsets: pd.Series, train: _List, test: _List) -> Split:
    """A split by two lists. Names that cannot be used are left out; then the rest is written to lists of its own.

    Args:
        folder: root of the data.
        subsets: subset of each video of the annotations.
        train: must name annotated videos.
        test: may also name videos that have features only.

    Raises:
        InputError: no training video is annotated, or a list names videos of several subsets.
    """
    annotated = [name for name in train.known if name in subsets.index]
    if not annotated:
        raise InputError(f"{folder / train.file}: none of its videos is in the annotations: write their classes there")
    train_subset = _subset_of(folder / train.file, subsets, annotated)
    test_subset = _subset_of(folder / test.file, subsets, test.known)
    split = Split(
        subsets=(train_subset, test_subset or train_subset),
        train=annotated,
        test=test.known,
        how=f"by the lists {train.file} and {test.file}",
        files=(train.file, test.file),
    )
    split.notes += _left_out(train, annotated, "in the annotations")
    split.notes += _left_out(test, test.known, "in annotations or features")
    if not split.notes and train.alone and test.alone:
        return split
    if (folder / "train.txt").exists() or (folder / "test.txt").exists():
        return split.with_new_lists("train_used.txt", "test_used.txt")
    return split.with_new_lists()


def _subset_of(file: Path, subsets: pd.Series, names: list[str]) -> str:
    """The subset of listed videos, in the spelling of most of them; empty if none is annotated.

    Raises:
        InputError: they are of several subsets.
    """
    found = subsets[subsets.index.isin(names)]
    several = sorted(set(found.str.lower()))
    if len(several) > 1:
        what = f"names videos of the subsets {shown(several)}, but a card supports one"
        raise InputError(f"{file}: {what}: write one subset for all of them into the annotations")
    counts = Counter(found).most_common(1)
    return counts[0][0] if counts else ""


def _left_out(one: _List, kept: list[str], where: str) -> list[str]:
    """A note on the names of a list that are not used; no note if all are."""
    left = [name for name in one.names if name not in set(kept)]
    if not left:
        return []
    examples = ", ".join(map(shown, left[:EXAMPLES])) + ", ..." * (len(left) > EXAMPLES)
    return [f"{one.file}: {len(left)} of {len(one.names)} names are not {where} and are left out: {examples}"]


# --- subsets of the annotations ---------------------------------------------------------------------------------------


def _by_subsets(subsets: pd.Series, labelled: set[str], whole: pd.Series) -> Split | None:
    """A split by subsets as data sets name them: training and validation, validation and test, or train and test.

    Args:
        subsets: subset of each annotated video that has features.
        labelled: videos with a label.
        whole: subset of each video of the annotations.

    Returns:
        None if there are not two such subsets.
    """
    names = {subset.lower(): subset for subset in subsets}
    train = _named(names, "train")
    validation = _named(names, "val")
    test = _named(names, "test")
    if train and validation and test and labelled.isdisjoint(subsets.index[subsets == test]):
        test = None  # ActivityNet: its test videos have no public labels, so validation videos are tested on
    first = train or validation
    second = test or validation
    if not first or not second or first == second:
        return None
    train_videos = subsets.index[subsets == first].tolist()
    test_videos = subsets.index[subsets == second].tolist()
    split = Split((first, second), train_videos, test_videos, f"by the subsets {first} and {second} of the annotations")
    # If some videos of a subset have no features, or its name is spelt in several ways, the subset is not the split.
    lower = whole.str.lower()
    if (lower == first.lower()).sum() > len(train_videos) or (lower == second.lower()).sum() > len(test_videos):
        split.with_new_lists()
    return split


def _named(names: dict[str, str], part: str) -> str | None:
    """The name of a part's subset as the annotations spell it; None if they do not have it."""
    for name in SUBSETS[part]:
        if name in names:
            return names[name]
    return None


# --- rules ------------------------------------------------------------------------------------------------------------


def _by_rule(stored: list[str], subset: str, listed: set[str], folders: dict[str, str]) -> Split:
    """A split of videos of one subset, by folders, annotations or names. Its lists are written.

    Args:
        stored: videos with features, sorted.
        subset: of all annotated ones.
        listed: all videos of the annotations.
        folders: video -> "train" or "test", if its features lie in folders of these names; else empty.
    """
    if folders:
        test = [video for video in stored if folders[video] == "test"]
        how = "by the folders train and test"
    else:
        # A listed video without a label is a video without an action, which is a label, too.
        test = [video for video in stored if video not in listed]
        how = "videos that the annotations do not list are tested on: localised, and not measured"
    if not folders and not test:
        test = _every_fifth(stored)
        how = (
            "every fifth is tested on, as nothing separates them; videos of one person or scene should be in one part: "
            "if they are not, change train.txt and test.txt"
        )
    train = sorted(set(stored) - set(test))
    return Split((subset, subset), train, test, how).with_new_lists()


def _every_fifth(stored: list[str]) -> list[str]:
    """Every fifth video in the order of a hash of the names.

    The choice is the same on each machine and for any order of the videos, and it does not follow the numbering of
    recordings.
    """
    order = sorted(stored, key=lambda video: hashlib.sha256(video.encode()).digest())
    return sorted(order[::5])
