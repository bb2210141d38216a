"""Any result file against any annotations, as the field's evaluators do it: `fustal evaluate`."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fustal.data.annotations import SEGMENT_COLUMNS, parse_annotations
from fustal.data.files import printable, shown
from fustal.data.results import read_results_to_measure
from fustal.data.values import class_number
from fustal.evaluation.detections import averages, mean_average_precision
from fustal.exceptions import InputError, Problem

MAX_SHOWN = 3
"""Maximum number of names in a note."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and on what.

    Attributes:
        subset: the subset of the annotations.
        videos: number of videos in it.
        truth: its true segments: video, label, start (s), end (s).
        found: the detections that were counted: video, label, score, start (s), end (s).
        ap: average precision of each class at each tIoU, see `mean_average_precision`.
        notes: a line for each kind of entry that was ignored, not counted, or counted as false positive.
    """

    subset: str
    videos: int
    truth: pd.DataFrame
    found: pd.DataFrame
    ap: pd.DataFrame
    notes: list[str]

    def lines(self, *, per_class: bool = False) -> list[str]:
        """The numbers as lines of text: mAP in percent at each tIoU and its averages.

        Args:
            per_class: add a table with the AP of each class, in percent.
        """
        result = []
        for name, value in averages(self.ap).items():
            what = "mAP average" if ":" in name else "mAP"
            result.append(f"{what} {name:<8} {100 * value:6.2f}")
        return result + self._class_table() if per_class else result

    def _class_table(self) -> list[str]:
        true = self.truth.label.value_counts()
        found = self.found.label.value_counts()
        width = max(len(printable(name)) for name in ["class", *self.ap.index])
        columns = [f"{tiou:g}" for tiou in self.ap.columns] + ["average"]
        lines = [f"{'class':<{width}} {''.join(f'{name:>8}' for name in columns)}  segments  detections"]
        for name, row in (100 * self.ap).iterrows():
            values = "".join(f"{value:8.2f}" for value in [*row, row.mean()])
            lines.append(f"{printable(name):<{width}} {values}  {true[name]:8}  {found.get(name, 0):10}")
        return lines

    def record(self) -> dict[str, Any]:
        """The content of the file that `--json` writes; mAP and AP in [0, 1]."""
        by_class = {}
        for name, row in self.ap.iterrows():
            by_class[name] = {f"{tiou:g}": float(value) for tiou, value in row.items()}
        return {
            "subset": self.subset,
            "videos": self.videos,
            "segments": len(self.truth),
            "detections": len(self.found),
            "mAP": averages(self.ap),
            "AP": by_class,
            "notes": self.notes,
        }


def evaluate(
    detections: Path,
    annotations: Path,
    tious: np.ndarray,
    subset: str | None = None,
    *,
    known_only: bool = False,
) -> Evaluation:
    """Mean average precision of a result file (docs/method.md section 6).

    Args:
        detections: see `read_results_to_measure`; may name any video and any label.
        annotations: see `parse_annotations` with `measuring`; problems of other subsets are ignored.
        tious: tIoU thresholds.
        subset: the subset of the annotations, upper or lower case; None: "test", or the only one.
        known_only: ignore detections in videos that are not in the subset; else they are false positives.

    Raises:
        InputError: a file that cannot be read, an unknown subset, or no true segments.
    """
    videos, labels, problems = parse_annotations(annotations, measuring=True)
    subset = _subset_of(subset, videos, problems, annotations)
    notes = [str(problem) for problem in problems if problem.warning]
    others = len(problems) - len(notes)  # errors of this subset were raised
    if others:
        notes.append(f"{annotations}: problems in other subsets: {others}; they do not matter here")

    # What is true: the segments of the chosen videos.
    chosen = videos.index[videos.subset.str.lower() == subset.lower()]
    labels = labels[labels.video.isin(chosen)]
    truth = labels[SEGMENT_COLUMNS].dropna().reset_index(drop=True)
    if truth.empty:
        there = f"{len(labels)} labels without a segment" if len(labels) else "no label"
        raise InputError(
            f"{annotations}: subset {subset!r} has no true segments, so nothing can be measured "
            f"({len(chosen)} videos, {there})"
        )
    repeated = truth.duplicated().sum()
    if repeated:
        what = "each counts, as in ActivityNet's toolkit; OpenTAD counts them once"
        notes.append(f"{annotations}: true segments that repeat another one: {repeated}; {what}")

    # What was found: detections of labels without a true segment would change no class's AP, and are left out.
    found, not_read = read_results_to_measure(detections)
    notes += not_read
    classes = truth.label.unique()
    found = found.assign(label=_by_name(found.label, classes, labels))
    unknown = ~found.label.isin(classes)
    if unknown.any():
        what = f"labels that no true segment has: {_listed(found.label[unknown], classes)}"
        notes.append(f"{detections}: {what}; detections not counted: {unknown.sum()}")
    found = found[~unknown]
    # A detection in a video without true segments is false, unless the caller excludes such videos.
    elsewhere = ~found.video.isin(chosen)
    if elsewhere.any():
        how = "ignored" if known_only else "counted as false positives, as by the field's evaluators (see --known-only)"
        what = f"videos that are not in subset {subset!r} of {annotations}: {_listed(found.video[elsewhere])}"
        notes.append(f"{detections}: {what}; detections {how}: {elsewhere.sum()}")
    if known_only:
        found = found[~elsewhere]
    reversed_ = (found.end < found.start).sum()
    if reversed_:
        notes.append(f"{detections}: detections that end before they begin: {reversed_}; they are false positives")
    ap = mean_average_precision(found, truth, tious)
    return Evaluation(subset, len(chosen), truth, found, ap, notes)


def _subset_of(given: str | None, videos: pd.DataFrame, problems: list[Problem], annotations: Path) -> str:
    """The subset to measure on; raises the first error that concerns it.

    Args:
        given: its name, upper or lower case; None: "test", or the only subset.
        videos: all videos of the annotations.
        problems: all problems of the annotations. One without a subset concerns every subset.
        annotations: the file, for messages.
    """
    errors = [problem for problem in problems if not problem.warning]
    names = set(videos.subset)
    for problem in errors:
        if problem.subset is None:
            raise InputError(problem)
        names.add(problem.subset)
    known = sorted(names)
    subset = given or (known[0] if len(known) == 1 else "test")
    by_lower_case = {name.lower(): name for name in known}
    if subset.lower() not in by_lower_case:
        near = difflib.get_close_matches(subset.lower(), by_lower_case, n=1, cutoff=0.5)
        hint = f": did you mean {by_lower_case[near[0]]!r}?" if near else ""
        raise InputError(f"{annotations}: no video of subset {subset!r} (there are {known}{hint})")
    for problem in errors:
        if problem.subset and problem.subset.lower() == subset.lower():
            raise InputError(problem)
    return subset


def _by_name(found: pd.Series, classes: np.ndarray, labels: pd.DataFrame) -> pd.Series:
    """Labels of detections: a number of a class is replaced by the name that the annotations give to the number."""
    numbered = labels.dropna(subset="number")
    names = dict(zip(numbered.number, numbered.label, strict=True))
    renamed = {}
    for label in found.unique():
        if label not in classes:
            renamed[label] = names.get(class_number(label), label)
    return found.map(lambda label: renamed.get(label, label)) if renamed else found


def _listed(values: pd.Series, known: np.ndarray | None = None) -> str:
    """The number of different names, and the most frequent ones.

    Args:
        values: names, each as often as it occurs.
        known: names of which a near one is suggested; None: suggest none.
    """
    counts = values.value_counts()
    near = {} if known is None else {name.lower().strip(): name for name in known}
    texts = []
    for name in counts.index[:MAX_SHOWN]:
        text = shown(name)
        match = difflib.get_close_matches(name.lower().strip(), near, n=1)
        if match:
            text += f" (did you mean {shown(near[match[0]])}?)"
        texts.append(text)
    if len(counts) > MAX_SHOWN:
        texts.append("…")
    return f"{len(counts)}, {', '.join(texts)}"
