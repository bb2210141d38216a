"""Quality of pseudo labels: precision, recall, boundary errors, agreement.

Taught in notebook 02 (docs/method.md section 6). Labels are frames with the columns video, label, score, start, end;
times in seconds.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fustal.evaluation.matching import highest_tiou, matches, times_of, tiou_of

SHARES = ("precision", "recall", "f1")
"""Measures of labels at each tIoU."""


def pseudo_label_quality(
    labels: pd.DataFrame, ground_truth: pd.DataFrame, tious: Sequence[float] = (0.3, 0.5, 0.7)
) -> pd.DataFrame:
    """Precision, recall and errors of pseudo labels, measured on true segments that no training uses.

    Labels and true segments of a video and class are matched one to one, by falling score of the labels.

    Args:
        labels: video, label, score, start, end; may be empty.
        ground_truth: video, label, start, end of the same videos; may be empty.
        tious: thresholds.

    Returns:
        Index tIoU; columns labels (their number), precision, recall, f1, and of the matched labels mean_tiou,
        boundary_error (s), the mean distance of their starts and ends from the true ones, start_error and end_error
        (s), the median of the label's time minus the true one: labels that are too wide have a negative start_error
        and a positive end_error. The last four are NaN where no label is matched.

    >>> truth = pd.DataFrame({"video": ["v"], "label": ["run"], "start": [0.0], "end": [4.0]})
    >>> quality = pseudo_label_quality(truth.assign(score=1.0, end=5.0), truth).loc[0.5]
    >>> quality[["f1", "mean_tiou", "boundary_error", "start_error", "end_error"]].tolist()
    [1.0, 0.8, 0.5, 0.0, 1.0]
    """
    found = times_of(labels)
    true = times_of(ground_truth)
    rows = []
    for match in matches(labels, ground_truth, tious):
        matched = match >= 0
        count = int(matched.sum())
        a = found[:, matched]
        b = true[:, match[matched]]
        start_error, end_error = _medians(a - b)
        rows.append(
            {
                "labels": len(labels),
                "precision": count / max(len(labels), 1),
                "recall": count / max(len(ground_truth), 1),
                "f1": 2 * count / max(len(labels) + len(ground_truth), 1),
                "mean_tiou": _mean(tiou_of(a, b)),
                "boundary_error": _mean(np.abs(a - b)),
                "start_error": start_error,
                "end_error": end_error,
            }
        )
    return pd.DataFrame(rows, index=pd.Index(tious, name="tIoU"))


def label_measures(labels: pd.DataFrame, ground_truth: pd.DataFrame) -> dict[str, float]:
    """The measures of the labels of one stage in `metrics.json`.

    Args:
        labels: video, label, score, start, end; may be empty.
        ground_truth: video, label, start, end; may be empty.

    Returns:
        Percent: precision, recall and f1 at tIoU .3, .5 and .7; mean tIoU of the labels that are matched at .5;
        `coverage`. Seconds: boundary, start and end error of the labels that are matched at .5. And the number of
        labels. Measures that are not defined are left out: without ground truth, all but the number of labels.
    """
    if ground_truth.empty:
        return {"labels": len(labels)}
    quality = pseudo_label_quality(labels, ground_truth)
    result: dict[str, float] = {}
    for tiou in quality.index:
        for name in SHARES:
            result[f"{name} at {tiou:g}"] = 100 * quality.loc[tiou, name]
    result["mean tIoU"] = 100 * quality.loc[0.5, "mean_tiou"]
    for error in ("boundary", "start", "end"):
        result[f"{error} error (s)"] = quality.loc[0.5, f"{error}_error"]
    result["coverage"] = 100 * coverage(labels, ground_truth)
    result["labels"] = len(labels)
    return {name: value for name, value in result.items() if pd.notna(value)}


def agreement(labels: pd.DataFrame, others: pd.DataFrame, recall: float = 1.0) -> float:
    """F1 at tIoU .5 between two sets of labels of the same videos, or with more weight on recall.

    It uses no true segments, so it may be used to choose parameters.

    Args:
        labels: video, label, score, start, end; may be empty.
        others: video, label, start, end; may be empty.
        recall: how many times as much a label of `others` that is not found counts as a label that is not in `others`;
            the square of beta in F-beta.

    Returns:
        From 0 (no label matches) to 1 (all labels match).

    >>> labels = pd.DataFrame({"video": ["v"], "label": ["run"], "score": [0.5], "start": [0.0], "end": [4.0]})
    >>> agreement(labels, labels), agreement(labels, labels.assign(label="jump"))
    (1.0, 0.0)
    >>> more = pd.concat([labels, labels.assign(start=9.0, end=10.0, score=0.2)])
    >>> round(agreement(more, labels, recall=2), 3), round(agreement(labels, more, recall=2), 3)
    (0.75, 0.6)
    """
    matched = round(pseudo_label_quality(labels, others, [0.5]).precision.iloc[0] * len(labels))
    return float((1 + recall) * matched / max(len(labels) + recall * len(others), 1))


def coverage(labels: pd.DataFrame, ground_truth: pd.DataFrame) -> float:
    """Share of all pairs of a video and one of its classes that have at least one label. Times are not used.

    Args:
        labels: video, label; may be empty.
        ground_truth: video, label; may be empty.

    Returns:
        In [0, 1]; 0 without ground truth.

    >>> truth = pd.DataFrame({"video": ["v", "v", "w"], "label": ["run", "run", "jump"]})
    >>> coverage(truth[:1], truth)
    0.5
    """
    true = set(zip(ground_truth.video, ground_truth.label, strict=True))
    found = set(zip(labels.video, labels.label, strict=True))
    return len(true & found) / max(len(true), 1)


def true_positive(labels: pd.DataFrame, ground_truth: pd.DataFrame, tiou: float = 0.5) -> np.ndarray:
    """Whether the tIoU of each label with some true segment of its video and class reaches a threshold.

    Unlike in `pseudo_label_quality`, several labels may overlap the same segment: these are the true positives of the
    paper's histogram over the IoU score.

    Args:
        labels: video, label, score, start, end; may be empty.
        ground_truth: video, label, start, end; may be empty.
        tiou: threshold.

    Returns:
        Booleans (N,), in the order of the labels.
    """
    highest = highest_tiou(labels, ground_truth)
    return (highest > 0) & (highest >= tiou)


def overtaking(iou_scores: np.ndarray, is_true: np.ndarray, width: float = 0.1) -> float:
    """The IoU score above which true proposals outnumber false ones; about .55 on THUMOS'14 in the paper.

    Args:
        iou_scores: (N,) of proposals.
        is_true: (N,) booleans.
        width: of the bins of the histogram.

    Returns:
        Lower edge of the first bin with more true than false proposals; NaN if there is none.

    >>> overtaking(np.array([0.05, 0.06, 0.31, 0.32, 0.35]), np.array([False, True, True, True, False]))
    0.3
    """
    edges = np.arange(0, np.max(iou_scores, initial=0) + 2 * width, width)
    right = np.histogram(iou_scores[is_true], edges)[0]
    wrong = np.histogram(iou_scores[~is_true], edges)[0]
    more = right > wrong
    if not more.any():
        return float("nan")
    return float(np.round(edges[np.argmax(more)], 6))


def _mean(values: np.ndarray) -> float:
    """Mean, or NaN of no values."""
    return float(values.mean()) if values.size else float("nan")


def _medians(values: np.ndarray) -> list[float]:
    """Median of each row, or NaN of no values."""
    return np.median(values, axis=1).tolist() if values.size else [float("nan")] * len(values)
