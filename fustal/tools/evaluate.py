"""Any result file against any annotations, as the field's evaluators do it: `fustal evaluate`."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fustal.data.annotations import SEGMENT_COLUMNS, class_number, parse_annotations, read_results_to_measure
from fustal.data.files import printable, shown
from fustal.evaluation.detections import averages, mean_average_precision
from fustal.exceptions import InputError

MOST_SHOWN = 3
"""How many names a line about several shows."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and on what.

    Attributes:
        subset: of the annotations.
        videos: in it.
        truth: its segments: video, label, start, end.
        found: the detections that were counted: video, label, score, start, end.
        ap: of `mean_average_precision`.
        notes: what was passed over, not counted, or counted as false; a line each.
    """

    subset: str
    videos: int
    truth: pd.DataFrame
    found: pd.DataFrame
    ap: pd.DataFrame
    notes: list[str]

    def lines(self, *, per_class: bool = False) -> list[str]:
        """MAP in percent at each tIoU and its averages; on demand AP in percent of each class."""
        result = [
            f"mAP {'average ' if ':' in name else ''}{name:<8} {100 * value:6.2f}"
            for name, value in averages(self.ap).items()
        ]
        if not per_class:
            return result
        true, found = self.truth.label.value_counts(), self.found.label.value_counts()
        width = max(len(printable(name)) for name in ["class", *self.ap.index])
        columns = [*(f"{tiou:g}" for tiou in self.ap.columns), "average"]
        result.append(f"{'class':<{width}} {''.join(f'{name:>8}' for name in columns)}  segments  detections")
        for name, row in (100 * self.ap).iterrows():
            values = "".join(f"{value:8.2f}" for value in [*row, row.mean()])
            result.append(f"{printable(name):<{width}} {values}  {true[name]:8}  {found.get(name, 0):10}")
        return result

    def record(self) -> dict[str, Any]:
        """What `--json` writes; mAP and AP in [0, 1]."""
        return {
            "subset": self.subset,
            "videos": self.videos,
            "segments": len(self.truth),
            "detections": len(self.found),
            "mAP": averages(self.ap),
            "AP": {
                name: {f"{tiou:g}": float(value) for tiou, value in row.items()} for name, row in self.ap.iterrows()
            },
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
    """Mean average precision of a result file.

    Args:
        detections: see `read_results_to_measure`; it may name any video and any label.
        annotations: see `parse_annotations`, measuring; problems of other subsets do not matter.
        tious: thresholds.
        subset: which videos of the annotations, in any case; None: "test", or the only one that there is.
        known_only: leave out detections in videos that are not in the subset; else they are false positives.

    Raises:
        InputError: a file that cannot be read, an unknown subset, or nothing to measure with.
    """
    videos, labels, problems = parse_annotations(annotations, measuring=True)
    wrong = [problem for problem in problems if not problem.warning]
    for problem in wrong:
        if problem.subset is None:
            raise InputError(problem)
    known = sorted({*videos.subset, *(problem.subset for problem in wrong)})
    subset = subset or (known[0] if len(known) == 1 else "test")
    if subset.lower() not in [name.lower() for name in known]:
        raise InputError(f"{annotations}: no video of subset {_unknown(subset, known)}")
    for problem in wrong:
        if problem.subset.lower() == subset.lower():
            raise InputError(problem)
    notes = [str(problem) for problem in problems if problem.warning]
    if wrong:
        notes.append(f"{annotations}: problems in other subsets: {len(wrong)}; they do not matter here")
    chosen = videos.index[videos.subset.str.lower() == subset.lower()]
    labels = labels[labels.video.isin(chosen)]
    truth = labels[SEGMENT_COLUMNS].dropna().reset_index(drop=True)
    if truth.empty:
        known = f"{len(labels)} labels without a segment" if len(labels) else "no label"
        raise InputError(
            f"{annotations}: subset {subset!r} has no true segments, so that nothing can be measured "
            f"({len(chosen)} videos, {known})"
        )
    twice = truth.duplicated().sum()
    if twice:
        what = "each counts, as in ActivityNet's toolkit; OpenTAD counts them once"
        notes.append(f"{annotations}: true segments that repeat another one: {twice}; {what}")
    found, not_read = read_results_to_measure(detections)
    notes += not_read
    classes = truth.label.unique()
    found = found.assign(label=_by_name(found.label, classes, labels))
    unknown = ~found.label.isin(classes)
    if unknown.any():
        notes.append(f"{detections}: {_of_labels(found.label[unknown], classes)}")
    found = found[~unknown]
    elsewhere = ~found.video.isin(chosen)
    if elsewhere.any():
        notes.append(f"{detections}: {_of_videos(found.video[elsewhere], subset, annotations, known_only)}")
    found = found[~elsewhere] if known_only else found
    reversed_ = (found.end < found.start).sum()
    if reversed_:
        notes.append(f"{detections}: detections that end before they begin: {reversed_}; they are false positives")
    ap = mean_average_precision(found, truth, tious)
    return Evaluation(subset, len(chosen), truth, found, ap, notes)


def _by_name(found: pd.Series, classes: np.ndarray, labels: pd.DataFrame) -> pd.Series:
    """Labels of detections, those that are numbers of classes by the names that these have in the annotations."""
    numbered = labels.dropna(subset="number")
    names = dict(zip(numbered.number, numbered.label, strict=True))
    unknown = [label for label in found.unique() if label not in classes]
    named = {label: names.get(class_number(label), label) for label in unknown}
    return found.map(lambda label: named.get(label, label)) if named else found


def _unknown(subset: str, known: list[str]) -> str:
    """A subset that is not there, a name that is near, and all that are there."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(subset.lower(), names, n=1, cutoff=0.5)
    hint = f": did you mean {names[near[0]]!r}?" if near else ""
    return f"{subset!r} (there are {known}{hint})"


def _of_labels(labels: pd.Series, classes: np.ndarray) -> str:
    """What is said of detections whose labels no true segment has."""
    near = {name.lower().strip(): name for name in classes}
    counts = labels.value_counts()
    names = []
    for name in counts.index[:MOST_SHOWN]:
        match = difflib.get_close_matches(name.lower().strip(), near, n=1)
        names.append(shown(name) + (f" (did you mean {shown(near[match[0]])}?)" if match else ""))
    return f"labels that no true segment has: {_listed(names, counts)}; detections not counted: {len(labels)}"


def _of_videos(videos: pd.Series, subset: str, annotations: Path, known_only: bool) -> str:
    """What is said of detections in videos without ground truth."""
    counts = videos.value_counts()
    names = _listed([shown(name) for name in counts.index[:MOST_SHOWN]], counts)
    how = "left out" if known_only else "counted as false positives, as the field's evaluators do (see --known-only)"
    return f"videos that are not in subset {subset!r} of {annotations}: {names}; detections {how}: {len(videos)}"


def _listed(names: list[str], counts: pd.Series) -> str:
    """How many there are, and the first ones."""
    return f"{len(counts)}, {', '.join(names)}{', …' * (len(counts) > len(names))}"
