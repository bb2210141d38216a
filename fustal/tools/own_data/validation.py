"""Every problem of a data set at once, and what is legal but odd: what `fustal validate` prints."""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fustal import ROOT
from fustal.data.cards import Dataset, inspect_dataset
from fustal.data.features import FeatureStore
from fustal.data.files import printable, shown
from fustal.data.names import find_card
from fustal.data.problems import EXAMPLES, grouped
from fustal.exceptions import InputError, Problem
from fustal.params import Params

TOLERANCE = 1.0
"""Seconds that a segment may end after its video before that is odd."""

FAR = 3
"""Segments that end so many times as late as their videos, in most of them, are in another unit."""

LONG = 60
"""Seconds that a snippet may take before that is unusual."""

TWICE = 0.9
"""Two segments of a class in a video whose tIoU is at least this are one action, annotated twice."""

EVERYWHERE = 0.9
"""A class in so large a share of the labelled training videos is hardly told by labels."""

NO_ACTIONS = {"ambiguous", "background", "bg", "none", "null", "nan", "n/a", "nothing", "noaction", "unknown", "ignore"}
"""Names of classes, as `plain_name` writes them, that say that what they mark is no action."""


EARLY = 0.1
"""Share of their videos within which all segments of a data set do not end if their times are right."""

MANY = 5
"""Videos from which on that is said."""


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
        problems += grid_problems(dataset, stage)
    # What is unusual about the videos of these may follow from them.
    wrong = {problem.video for problem in problems if not problem.warning} - {None}
    odd = annotation_problems(dataset) + segment_problems(dataset, FeatureStore(dataset, "student"))
    odd += cap_problems(dataset, _preset_of(find_card(card)))
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
    fix = f"check fps, stride and window in the card ({grid.fps:g}, {grid.stride}, {grid.window}), and the duration"
    return [Problem(store.paths(video)[0], what, video, fix, warning=True)]


def grid_problems(dataset: Dataset, stage: str) -> list[Problem]:
    """A grid whose snippets take longer than those of any usual extractor."""
    grid = dataset.grids[stage]
    annotated = dataset.videos.fps.dropna()
    if grid.fps == "annotation" and annotated.empty:
        return []  # which is wrong, and known already
    fps = annotated.median() if grid.fps == "annotation" else float(grid.fps)
    if not grid.stride > LONG * fps > 0:
        return []
    what = f"a snippet takes {grid.stride / fps:.3g} s: are durations in frames or milliseconds?"
    fix = "write durations and times in seconds there, and fps and stride of the features into the card"
    return [Problem(dataset.annotations, what, fix=fix, warning=True)]


def annotation_problems(dataset: Dataset) -> list[Problem]:
    """What is odd about labels and segments, whatever the features are."""
    named = name_problems(dataset) + joined_problems(dataset)
    return label_problems(dataset) + named + double_problems(dataset)


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
    fix = "give it one, or take it out: it cannot be learned, and counts as 0 in mAP"
    problems += [
        Problem(file, f"class {shown(dataset.classes[i])} has no training video", fix=fix, warning=True)
        for i in np.flatnonzero(labels.sum(axis=0) == 0)
    ]
    fix = "cut the videos into shorter ones: labels teach by what does not happen"
    if len(train) > 1 and len(dataset.classes) > 1 and labels.all():
        return [*problems, Problem(file, "every training video has every label", fix=fix, warning=True)]
    labelled = int(labels.any(axis=1).sum())
    if len(dataset.classes) < 2 or labelled <= EXAMPLES:
        return problems
    fix = "cut the videos into shorter ones, or take the class out: labels teach by what does not happen"
    for i in np.flatnonzero(labels.sum(axis=0) >= EVERYWHERE * labelled):
        what = (
            f"class {shown(dataset.classes[i])} is in {labels[:, i].sum():.0f} of {labelled} labelled training videos"
        )
        problems.append(Problem(file, what, fix=fix, warning=True))
    return problems


def plain_name(label: str) -> str:
    """A class's name without what is easily written otherwise: case, blanks, `_`, `-`, the form of letters.

    >>> plain_name("Golf Swing") == plain_name("golf_swing ")
    True
    """
    letters = unicodedata.normalize("NFKC", label).casefold()
    return "".join(x for x in letters if x not in "_-" and unicodedata.category(x) not in ("Zs", "Cf")) or label


def joined_problems(dataset: Dataset) -> list[Problem]:
    """Classes that seem to be several in one: "Run, Jump", where Run, or another class with Run, is there too."""
    parts = {label: [part.strip() for part in re.split(r"[,;|+]", label)] for label in dataset.classes}
    counts = Counter(part for names in parts.values() for part in set(names))
    several = [label for label, names in parts.items() if len(names) > 1 and all(counts[name] > 1 for name in names)]
    if not several:
        return []
    what = f"{len(several)} classes seem to be several in one, such as {shown(several[0])}: each counts as a class"
    fix = "write a line, or an annotation, for each class"
    return [Problem(dataset.annotations, what, fix=fix, warning=True)]


def name_problems(dataset: Dataset) -> list[Problem]:
    """Classes whose names are nearly the same, and those whose name says that they are none."""
    file, problems = dataset.annotations, []
    alike: dict[str, list[str]] = {}
    for label in dataset.classes:
        alike.setdefault(plain_name(label), []).append(label)
    for labels in alike.values():
        if len(labels) > 1:
            look_alike = len({unicodedata.normalize("NFC", label) for label in labels}) < len(labels)
            names = " and ".join(map(ascii if look_alike else shown, labels))[:200]
            what = f"classes {names} differ in case, blanks, '_', '-' or the form of letters alone"
            problems.append(Problem(file, what, fix="write one name everywhere, if they are one class", warning=True))
    for label in (label for label in dataset.classes if plain_name(label) in NO_ACTIONS):
        what = f"{shown(label)} counts as a class like others"
        fix = f"if it marks what is no action, write ignored_labels: [{label}] into the card"
        problems.append(Problem(file, what, fix=fix, warning=True))
    return problems


def double_problems(dataset: Dataset) -> list[Problem]:
    """Actions that are annotated twice: segments of one class and video that are equal, or nearly."""
    ordered = dataset.segments.sort_values(["video", "label", "start", "end"], ignore_index=True)
    before = ordered.shift()
    same = (ordered.video == before.video) & (ordered.label == before.label)
    shared = np.minimum(ordered.end, before.end) - np.maximum(ordered.start, before.start)
    whole = np.maximum(ordered.end, before.end) - np.minimum(ordered.start, before.start)
    double = ordered[same & (shared >= TWICE * whole)]
    if double.empty:
        return []
    one = double.iloc[0]
    equal = dataset.segments.duplicated(["video", "label", "start", "end"]).sum()
    what = f"{len(double)} of {len(ordered)} segments repeat another one, {equal} of them exactly"
    such = f"such as {shown(one.label)} at [{one.start:g}, {one.end:g}] in {shown(one.video)}"
    fix = "keep one of each: each counts as an action, and of two equal ones no more than one is found"
    return [Problem(dataset.annotations, f"{what}, {such}", fix=fix, warning=True)]


def segment_problems(dataset: Dataset, store: FeatureStore) -> list[Problem]:
    """Segments that end after their video, and such as are written in frames or milliseconds.

    Args:
        dataset: its segments.
        store: tells how long a video is whose duration is not annotated.
    """
    videos = dataset.segments.video.unique()
    lengths = pd.Series({video: _seconds(store, video) for video in videos}, dtype=float)
    last = dataset.segments.groupby("video").end.max()
    times = (last / lengths).dropna()
    if len(times) and (times > FAR).mean() > 0.5:
        video = times.idxmax()
        unit, rate = ("milliseconds", "1000") if times.max() > 200 else ("frames", "the frames per second")
        last_one = f"up to {last[video]:g} in {shown(video)}, which lasts {lengths[video]:.1f} s"
        fix = f"times look like {unit}: divide them by {rate}, as they must be in seconds"
        return [Problem(dataset.annotations, f"segments lie far outside their videos, {last_one}", fix=fix)]
    if len(times) >= MANY and times.max() < EARLY:
        share = f"the last of all {len(times)} videos ends within {100 * times.max():.1g} % of its video"
        fix = "check that times are in seconds, and no shares of the duration, minutes or numbers of snippets"
        return [Problem(dataset.annotations, f"segments lie at the very beginning: {share}", fix=fix, warning=True)]
    known = dataset.segments.video.map(dataset.videos.duration)
    length = dataset.segments.video.map(lengths)
    late = dataset.segments[dataset.segments.end > length + TOLERANCE + (0.1 * length).where(known.isna(), 0)]
    return [
        Problem(
            dataset.annotations,
            f"segment [{row.start}, {row.end}] ends after the video ({lengths[row.video]:.1f} s)",
            row.video,
            "check times and duration; what lies outside cannot be found",
            warning=True,
        )
        for row in late.itertuples()
    ]


def _seconds(store: FeatureStore, video: str) -> float:
    """Of a video; NaN where its features cannot be read either."""
    try:
        return store.duration(video)
    except InputError:
        return np.nan


def cap_problems(dataset: Dataset, preset: Path | None) -> list[Problem]:
    """Videos with more actions than detections are kept of them.

    Args:
        dataset: its segments.
        preset: the parameters; None: the default.
    """
    most = Params.read(preset).max_detections if preset else Params().max_detections
    counts = dataset.segments.groupby("video").size()
    fix = "set max_detections in the preset to more than that: what is beyond it cannot be found"
    said = preset or dataset.annotations
    return [
        Problem(said, f"{count} actions, and max_detections keeps {most} detections", video, fix, warning=True)
        for video, count in counts[counts > most].items()
    ]


def _preset_of(card: Path) -> Path | None:
    """The preset beside a card that names it, or that of one in the repository."""
    ours = card.parent == ROOT / "params" / "datasets"
    preset = ROOT / "params" / card.name if ours else card.parent / "params.yaml"
    try:
        return preset if preset.is_file() and find_card(Params.read(preset).dataset) == card else None
    except InputError:
        return None


def show(problems: Sequence[Problem], root: Path) -> None:
    """Prints problems as a table, a line for each kind: what to do about which file and video.

    Args:
        problems: any number.
        root: files below it are shown without it.
    """
    table = Table(box=None, pad_edge=False, show_edge=False)
    for title in ("", "file", "video", "what is wrong", "what to do"):
        table.add_column(title, overflow="fold")
    for problem in grouped(problems):
        file = problem.file.relative_to(root) if problem.file.is_relative_to(root) else problem.file
        kind = "odd" if problem.warning else "wrong"
        row = (kind, str(file), "" if problem.video is None else shown(problem.video), problem.what, problem.fix)
        table.add_row(*(Text(printable(cell).replace("\n", "\\n")) for cell in row))
    Console(width=None if sys.stdout.isatty() else 2000).print(table)
