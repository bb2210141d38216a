"""Every problem of a data set at once, and what is legal but odd: what `fustal validate` prints."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fustal import InputError, Problem
from fustal.dataset import Dataset, inspect_dataset
from fustal.features import FeatureStore
from fustal.files import printable, shown

TOLERANCE = 1.0
"""Seconds that a segment may end after its video before that is odd."""


def problems_of(card: str) -> tuple[Dataset, list[Problem]]:
    """Checks card, annotations, splits and every feature file of both grids.

    Args:
        card: a name in `params/datasets`, or the path of a YAML file.

    Returns:
        The data set as far as it can be read, and its problems, first those that must be mended.

    Raises:
        InputError: there is no card or no annotation file to begin with.
    """
    dataset, problems = inspect_dataset(card)
    stages = ["generator"] if dataset.grids["generator"] == dataset.grids["student"] else ["generator", "student"]
    for stage in stages:
        problems += feature_problems(dataset, FeatureStore(dataset, stage))
    wrong = {problem.video for problem in problems} - {None}  # what is odd about these may follow from it
    odd = label_problems(dataset) + segment_problems(dataset)
    problems += [problem for problem in odd if problem.video not in wrong]
    return dataset, sorted(problems, key=lambda problem: problem.warning)


def summary(dataset: Dataset) -> str:
    """How much there is of a data set, in a line."""
    train, test = len(dataset.split("train")), len(dataset.split("test"))
    counts = f"{train} training and {test} test videos, {len(dataset.classes)} classes"
    return f"{counts}, {len(dataset.segments) or 'no'} segments"


def feature_problems(dataset: Dataset, store: FeatureStore) -> list[Problem]:
    """Missing, unreadable or non-finite features, widths other than most videos', lengths other than the duration's."""
    problems, widths = [], {}
    for video in dataset.videos.index:
        try:
            widths[video] = store[video].shape[1]
            problems += _length_problems(dataset, store, video)
        except InputError as error:
            given = error.args[0]
            known = isinstance(given, Problem)
            problems.append(replace(given, video=video) if known else Problem(store.paths(video)[0], given, video))
    usual = Counter(widths.values()).most_common(1)
    return problems + [
        Problem(
            store.paths(video)[0],
            f"{width} numbers a snippet where others have {usual[0][0]}",
            video,
            "make the features of all videos with the same network and modalities",
        )
        for video, width in widths.items()
        if width != usual[0][0]
    ]


def _length_problems(dataset: Dataset, store: FeatureStore, video: str) -> list[Problem]:
    """Features that last a tenth, and two snippets, less or more than the video."""
    grid, duration = store.grid_of(video), dataset.videos.duration[video]
    covered = store.covered(video)
    if np.isnan(duration) or abs(covered - duration) <= max(0.1 * duration, 2 * grid.stride / grid.fps):
        return []
    what = f"{store.length(video)} snippets end at {covered:.1f} s, and the video at {duration:g} s"
    mend = f"check fps, stride and window in the card ({grid.fps:g}, {grid.stride}, {grid.window}), and the duration"
    return [Problem(store.paths(video)[0], what, video, mend, warning=True)]


def label_problems(dataset: Dataset) -> list[Problem]:
    """Training videos without a label, classes without a training video, and labels that tell nothing."""
    file, train = dataset.annotations, dataset.split("train")
    labels = dataset.labels(train)
    if not labels.any():
        return []  # which is wrong, and known already
    problems = [
        Problem(file, "a training video without a label", train[i], "say what happens in it, or take it out", True)
        for i in np.flatnonzero(labels.sum(axis=1) == 0)
    ]
    mend = "give it one, or take it out: it cannot be learned, and counts as 0 in mAP"
    problems += [
        Problem(file, f"class {dataset.classes[i]!r} has no training video", mend=mend, warning=True)
        for i in np.flatnonzero(labels.sum(axis=0) == 0)
    ]
    if len(train) > 1 and len(dataset.classes) > 1 and labels.all():
        mend = "cut the videos into shorter ones: labels teach by what does not happen"
        problems.append(Problem(file, "every training video has every label", mend=mend, warning=True))
    return problems


def segment_problems(dataset: Dataset) -> list[Problem]:
    """Segments that end after their video."""
    duration = dataset.segments.video.map(dataset.videos.duration)
    late = dataset.segments[dataset.segments.end > duration + TOLERANCE]
    return [
        Problem(
            dataset.annotations,
            f"segment [{row.start}, {row.end}] ends after the video ({dataset.videos.duration[row.video]} s)",
            row.video,
            "check times and duration; what lies outside cannot be found",
            warning=True,
        )
        for row in late.itertuples()
    ]


def show(problems: Sequence[Problem], root: Path) -> None:
    """Prints problems as a table: what to do about which file and video; a line each where nobody has a terminal.

    Args:
        problems: any number.
        root: files below it are shown without it.
    """
    table = Table(box=None, pad_edge=False, show_edge=False)
    for title in ("", "file", "video", "what is wrong", "what to do"):
        table.add_column(title, overflow="fold")
    for problem in problems:
        file = problem.file.relative_to(root) if problem.file.is_relative_to(root) else problem.file
        kind = "odd" if problem.warning else "wrong"
        row = (kind, str(file), "" if problem.video is None else shown(problem.video), problem.what, problem.mend)
        table.add_row(*(Text(printable(cell).replace("\n", "\\n")) for cell in row))
    Console(width=None if sys.stdout.isatty() else 2000).print(table)
