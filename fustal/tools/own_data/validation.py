"""Lists every problem of a data set at once, and what is valid but unusual: `fustal validate`."""

import math
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
"""Seconds that a segment may end after its video without a warning."""

FAR = 3
"""If most videos have a segment that ends after this many times their duration, times are in another unit."""

EARLY = 0.1
"""If all segments end within this share of their videos, times may be in another unit, or shares of the duration."""

MANY = 5
"""Minimum number of videos for the warning about `EARLY`."""

LONG = 60
"""Maximum time from snippet to snippet (s) without a warning."""

SHORT = 0.1
"""Maximum share of the actions that may be shorter than a window of the features without a warning."""

FEW_SNIPPETS = 3
"""Minimum number of snippets of an action of median length without a warning."""

TWICE = 0.9
"""Minimum tIoU of two segments of one class in a video that count as one action annotated twice."""

EVERYWHERE = 0.9
"""Minimum share of the labelled training videos for the warning that a class is in nearly all of them."""

NO_ACTIONS = {"ambiguous", "background", "bg", "none", "null", "nan", "n/a", "nothing", "noaction", "unknown", "ignore"}
"""Class names, as `plain_name` returns them, that mean that there is no action."""


def problems_of(card: str) -> tuple[Dataset, list[Problem]]:
    """Checks card, annotations, splits and every feature file of both grids.

    Args:
        card: a name in `params/datasets`, or the path of a YAML file.

    Returns:
        The data set as far as it can be read, and its problems: first the errors, then the warnings.

    Raises:
        InputError: there is no card or no annotation file.
    """
    dataset, problems = inspect_dataset(card)
    stages = ["generator"] if dataset.grids["generator"] == dataset.grids["student"] else ["generator", "student"]
    for stage in stages:
        problems += feature_problems(dataset, FeatureStore(dataset, stage))
        problems += grid_problems(dataset, stage)
    unusual = annotation_problems(dataset) + action_problems(dataset)
    unusual += segment_problems(dataset, FeatureStore(dataset, "student"))
    unusual += cap_problems(dataset, _preset_of(find_card(card)))
    # A warning about a video may be a consequence of an error in it.
    wrong = {problem.video for problem in problems if not problem.warning} - {None}
    problems += [problem for problem in unusual if problem.video not in wrong]
    return dataset, sorted(problems, key=lambda problem: problem.warning)


def summary(dataset: Dataset) -> str:
    """Numbers of videos, classes and segments, in a line."""
    train = len(dataset.split("train"))
    test = len(dataset.split("test"))
    counts = f"{train} training and {test} test videos, {len(dataset.classes)} classes"
    return f"{counts}, {len(dataset.segments) or 'no'} segments"


# --- features and grids -----------------------------------------------------------------------------------------------


def feature_problems(dataset: Dataset, store: FeatureStore) -> list[Problem]:
    """Checks the feature files of one grid.

    Args:
        dataset: its videos.
        store: features on one grid.

    Returns:
        Missing or unreadable files, values that are not finite, a width D unlike that of most videos, and a warning for
        each length that does not fit the duration.
    """
    problems: list[Problem] = []
    widths: dict[str, int] = {}
    for video in dataset.videos.index:
        try:
            widths[video] = store[video].shape[1]
            problems += _length_problems(dataset, store, video)
        except InputError as error:
            problem = error.args[0]
            if isinstance(problem, Problem):
                problems.append(replace(problem, video=video))
            else:
                problems.append(Problem(store.paths(video)[0], problem, video))
    if not widths:
        return problems
    usual, _ = Counter(widths.values()).most_common(1)[0]
    fix = "make the features of all videos with the same network and modalities"
    for video, width in widths.items():
        if width != usual:
            what = f"{width} numbers a snippet where others have {usual}"
            problems.append(Problem(store.paths(video)[0], what, video, fix))
    return problems


def _length_problems(dataset: Dataset, store: FeatureStore, video: str) -> list[Problem]:
    """A warning if the snippets end a tenth of the duration, and two snippets, before or after the video."""
    grid = store.grid_of(video)
    duration = dataset.videos.duration[video]
    covered = store.covered(video)
    if np.isnan(duration) or abs(covered - duration) <= max(0.1 * duration, 2 * grid.stride / grid.fps):
        return []
    what = f"{store.length(video)} snippets end at {covered:.1f} s, and the video at {duration:g} s"
    fix = f"check fps, stride and window in the card ({grid.fps:g}, {grid.stride}, {grid.window}), and the duration"
    return [Problem(store.paths(video)[0], what, video, fix, warning=True)]


def grid_problems(dataset: Dataset, stage: str) -> list[Problem]:
    """Warns of a grid with a longer time from snippet to snippet than usual extractors have.

    Args:
        dataset: its grids.
        stage: "generator" or "student", whose grid is checked.

    Returns:
        A warning, or nothing.
    """
    stride, _ = _seconds_of(dataset, stage)
    if not stride > LONG:
        return []
    what = f"a snippet takes {stride:.3g} s: are durations in frames or milliseconds?"
    fix = "write durations and times in seconds into the annotations, fps and stride of the features into the card"
    return [Problem(dataset.annotations, what, fix=fix, warning=True)]


def _seconds_of(dataset: Dataset, stage: str) -> tuple[float, float]:
    """Stride and window of a grid (s), at the middle frame rate; NaN if no frame rate is annotated."""
    grid = dataset.grids[stage]
    fps = grid.fps
    if fps == "annotation":
        known = dataset.videos.fps.dropna()
        fps = known.median() if len(known) else math.nan
    return grid.stride / float(fps), grid.window / float(fps)


def action_problems(dataset: Dataset) -> list[Problem]:
    """Warns of snippets that are too long for the annotated actions; without segments nothing is known.

    The labels are made on the grid of the generator, so this grid is checked.

    Args:
        dataset: its segments and grids.

    Returns:
        Warnings.
    """
    if dataset.segments.empty:
        return []
    stride, window = _seconds_of(dataset, "generator")
    lengths = dataset.segments.end - dataset.segments.start
    middle = lengths.median()
    problems = []
    shorter = int((lengths < window).sum())
    if shorter > SHORT * len(lengths):
        what = f"{shorter} of {len(lengths)} actions are shorter than the window of a snippet, {window:.3g} s"
        fix = "make features with a shorter window, as labels of such actions get too long"
        problems.append(Problem(dataset.annotations, what, fix=fix, warning=True))
    if middle < FEW_SNIPPETS * stride:
        what = f"half of the actions last at most {middle:.3g} s, which are {middle / stride:.2g} snippets"
        fix = f"make features with a smaller stride: an action should have at least {FEW_SNIPPETS} snippets"
        problems.append(Problem(dataset.annotations, what, fix=fix, warning=True))
    return problems


# --- labels -----------------------------------------------------------------------------------------------------------


def annotation_problems(dataset: Dataset) -> list[Problem]:
    """Warns of unusual labels and repeated segments. Features are not used.

    Args:
        dataset: its labels and segments.

    Returns:
        Warnings.
    """
    named = name_problems(dataset) + joined_problems(dataset)
    return label_problems(dataset) + named + double_problems(dataset)


def label_problems(dataset: Dataset) -> list[Problem]:
    """Warns of training videos without a label, and of classes in none or nearly all of the training videos.

    Args:
        dataset: its labels.

    Returns:
        Warnings.
    """
    file = dataset.annotations
    train = dataset.split("train")
    classes = dataset.classes
    labels = dataset.labels(train)  # (videos, classes), 0 or 1
    if not labels.any():
        return []  # another check reports that
    problems = []
    fix = "write its classes into the annotations, or take it out"
    for i in np.flatnonzero(labels.sum(axis=1) == 0):
        problems.append(Problem(file, "a training video without a label", train[i], fix, warning=True))
    fix = "give it one, or take it out: it cannot be learned, and counts as 0 in mAP"
    for i in np.flatnonzero(labels.sum(axis=0) == 0):
        problems.append(Problem(file, f"class {shown(classes[i])} has no training video", fix=fix, warning=True))
    if len(train) > 1 and len(classes) > 1 and labels.all():
        fix = "cut the videos into shorter ones: a class is learned from videos without it, too"
        problems.append(Problem(file, "every training video has every label", fix=fix, warning=True))
        return problems
    labelled = int(labels.any(axis=1).sum())
    if len(classes) < 2 or labelled <= EXAMPLES:
        return problems
    problems += _together_problems(dataset, labels)
    fix = "cut the videos into shorter ones, or take the class out: a class is learned from videos without it, too"
    counts = labels.sum(axis=0)
    for i in np.flatnonzero(counts >= EVERYWHERE * labelled):
        what = f"class {shown(classes[i])} is in {counts[i]:.0f} of {labelled} labelled training videos"
        problems.append(Problem(file, what, fix=fix, warning=True))
    return problems


def _together_problems(dataset: Dataset, labels: np.ndarray) -> list[Problem]:
    """A warning for each set of classes that are in the same training videos.

    Args:
        dataset: its classes.
        labels: of the training videos (N, C), 0 or 1.
    """
    alike: dict[bytes, list[str]] = {}
    for label, column in zip(dataset.classes, labels.T, strict=True):
        if column.any():
            alike.setdefault(column.tobytes(), []).append(label)
    fix = "add videos, or cut them, so that each is in a video without the other: otherwise they cannot be told apart"
    problems = []
    for names in alike.values():
        if len(names) > 1:
            what = f"classes {shown(names[0])} and {shown(names[1])} are in the same training videos"
            problems.append(Problem(dataset.annotations, what, fix=fix, warning=True))
    return problems


def plain_name(label: str) -> str:
    """Returns a class's name without what is often written in several ways: case, blanks, `_`, `-`, form of letters.

    >>> plain_name("Golf Swing") == plain_name("golf_swing ")
    True
    """
    letters = unicodedata.normalize("NFKC", label).casefold()
    kept = [letter for letter in letters if letter not in "_-" and unicodedata.category(letter) not in ("Zs", "Cf")]
    return "".join(kept) or label


def joined_problems(dataset: Dataset) -> list[Problem]:
    """Warns of classes that seem to be several in one, such as "Run, Jump".

    Args:
        dataset: its classes.

    Returns:
        A warning, if each part of such a name is also a class, or part of another one.
    """
    parts: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for label in dataset.classes:
        parts[label] = [part.strip() for part in re.split(r"[,;|+]", label)]
        counts.update(set(parts[label]))
    several = []
    for label, names in parts.items():
        if len(names) > 1 and all(counts[name] > 1 for name in names):
            several.append(label)
    if not several:
        return []
    what = f"{len(several)} classes seem to be several in one, such as {shown(several[0])}: each counts as a class"
    fix = "write a line, or an annotation, for each class"
    return [Problem(dataset.annotations, what, fix=fix, warning=True)]


def name_problems(dataset: Dataset) -> list[Problem]:
    """Warns of classes whose names are nearly the same, and of those whose names mean that there is no action.

    Args:
        dataset: its classes.

    Returns:
        Warnings.
    """
    problems = []
    alike: dict[str, list[str]] = {}
    for label in dataset.classes:
        alike.setdefault(plain_name(label), []).append(label)
    for labels in alike.values():
        if len(labels) > 1:
            what = f"classes {_distinct(labels)} differ only in case, blanks, '_', '-' or the form of letters"
            fix = "write one name everywhere, if they are one class"
            problems.append(Problem(dataset.annotations, what, fix=fix, warning=True))
    for label in dataset.classes:
        if plain_name(label) in NO_ACTIONS:
            what = f"{shown(label)} is treated as a class"
            fix = f"if it marks that there is no action, write ignored_labels: [{label}] into the card"
            problems.append(Problem(dataset.annotations, what, fix=fix, warning=True))
    return problems


def _distinct(labels: list[str]) -> str:
    """Similar names for a message. Those that look the same in print are escaped."""
    forms = {unicodedata.normalize("NFC", label) for label in labels}
    escape = ascii if len(forms) < len(labels) else shown
    return " and ".join(escape(label) for label in labels)[:200]


# --- segments ---------------------------------------------------------------------------------------------------------


def double_problems(dataset: Dataset) -> list[Problem]:
    """Warns of actions that are annotated twice: segments of one class and video that are equal, or nearly.

    Args:
        dataset: its segments.

    Returns:
        A warning, or nothing.
    """
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
    fix = "keep one of each: each counts as an action, and at most one of two equal ones can be found"
    return [Problem(dataset.annotations, f"{what}, {such}", fix=fix, warning=True)]


def segment_problems(dataset: Dataset, store: FeatureStore) -> list[Problem]:
    """Checks times of segments against the durations of the videos.

    Args:
        dataset: its segments.
        store: gives the duration of a video without an annotated one.

    Returns:
        An error if times are in another unit; else a warning if all segments lie at the beginning of their videos, or
        for each segment that ends after its video.
    """
    lengths = pd.Series({video: _seconds(store, video) for video in dataset.segments.video.unique()}, dtype=float)
    last = dataset.segments.groupby("video").end.max()
    times = (last / lengths).dropna()
    if len(times) and (times > FAR).mean() > 0.5:
        video = times.idxmax()
        unit, rate = ("milliseconds", "1000") if times.max() > 200 else ("frames", "the frames per second")
        example = f"up to {last[video]:g} in {shown(video)}, which lasts {lengths[video]:.1f} s"
        fix = f"times look like {unit}: divide them by {rate}, as they must be in seconds"
        return [Problem(dataset.annotations, f"segments lie far outside their videos, {example}", fix=fix)]
    if len(times) >= MANY and times.max() < EARLY:
        share = f"in all {len(times)} videos, the last one ends within {100 * times.max():.1g} % of the duration"
        fix = "check that times are in seconds, not in minutes, snippets or shares of the duration"
        what = f"segments lie at the very beginning of their videos: {share}"
        return [Problem(dataset.annotations, what, fix=fix, warning=True)]
    return _late_problems(dataset, lengths)


def _late_problems(dataset: Dataset, lengths: pd.Series) -> list[Problem]:
    """A warning for each segment that ends after its video.

    Args:
        dataset: its segments.
        lengths: duration of each video that has segments (s).
    """
    segments = dataset.segments
    length = segments.video.map(lengths)
    annotated = segments.video.map(dataset.videos.duration).notna()
    # A duration that is derived from the features lacks the end of the video.
    latest = length + TOLERANCE + (0.1 * length).mask(annotated, 0)
    fix = "check times and duration; an action outside the video cannot be found"
    problems = []
    for row in segments[segments.end > latest].itertuples():
        what = f"segment [{row.start}, {row.end}] ends after the video ({lengths[row.video]:.1f} s)"
        problems.append(Problem(dataset.annotations, what, row.video, fix, warning=True))
    return problems


def _seconds(store: FeatureStore, video: str) -> float:
    """Duration of a video; NaN if it is not annotated and the features cannot be read."""
    try:
        return store.duration(video)
    except InputError:
        return np.nan


def cap_problems(dataset: Dataset, preset: Path | None) -> list[Problem]:
    """Warns of videos with more actions than the maximum number of detections.

    Args:
        dataset: its segments.
        preset: file of the parameters; None: the defaults.

    Returns:
        A warning for each such video.
    """
    maximum = (Params.read(preset) if preset else Params()).max_detections
    counts = dataset.segments.groupby("video").size()
    fix = "set max_detections in the preset to more than that, as the other actions cannot be found"
    problems = []
    for video, count in counts[counts > maximum].items():
        what = f"{count} actions, but max_detections keeps {maximum} detections"
        problems.append(Problem(preset or dataset.annotations, what, video, fix, warning=True))
    return problems


def _preset_of(card: Path) -> Path | None:
    """The preset beside a card, if it is for this card; for a card of the repository the preset of that name."""
    ours = card.parent == ROOT / "params" / "datasets"
    preset = ROOT / "params" / card.name if ours else card.parent / "params.yaml"
    try:
        return preset if preset.is_file() and find_card(Params.read(preset).dataset) == card else None
    except InputError:
        return None


# --- output -----------------------------------------------------------------------------------------------------------


def show(problems: Sequence[Problem], root: Path) -> None:
    """Prints problems as a table, with a line for each kind of problem.

    Args:
        problems: any number.
        root: folder of the data; files below it are printed relative to it.
    """
    table = Table(box=None, pad_edge=False, show_edge=False)
    for title in ("", "file", "video", "what is wrong", "what to do"):
        table.add_column(title, overflow="fold")
    for problem in grouped(problems):
        file = problem.file.relative_to(root) if problem.file.is_relative_to(root) else problem.file
        kind = "warning" if problem.warning else "error"
        video = "" if problem.video is None else shown(problem.video)
        cells = []
        for text in (kind, str(file), video, problem.what, problem.fix):
            cells.append(Text(printable(text).replace("\n", "\\n")))
        table.add_row(*cells)
    # Not a terminal: one line for each problem, however long.
    Console(width=None if sys.stdout.isatty() else 2000).print(table)
