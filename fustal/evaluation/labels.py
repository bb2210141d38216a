"""Quality of pseudo labels: precision, recall, boundary errors, agreement.

Taught in notebook 02. Labels are frames with the columns video, label, score, start, end, times in seconds.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fustal.evaluation.matching import _times, _tiou, matches, overlaps

SHARES = ("precision", "recall", "f1")
"""Measures of labels at each tIoU."""


def pseudo_label_quality(
    labels: pd.DataFrame, ground_truth: pd.DataFrame, tious: Sequence[float] = (0.3, 0.5, 0.7)
) -> pd.DataFrame:
    """What pseudo labels are worth, measured on true segments that no training sees.

    Labels and true segments of a video and class are matched one to one, the highest score first.

    Args:
        labels: video, label, score, start, end; may be empty.
        ground_truth: video, label, start, end of the same videos.
        tious: thresholds.

    Returns:
        Index tIoU; columns labels (their number), precision, recall, f1, mean_tiou of the matched labels and
        boundary_error (s), the mean distance of their starts and ends from the true ones; NaN where none is matched.

    >>> truth = pd.DataFrame({"video": ["v"], "label": ["run"], "start": [0.0], "end": [4.0]})
    >>> pseudo_label_quality(truth.assign(score=1.0, end=5.0), truth).loc[0.5].to_dict()
    {'labels': 1.0, 'precision': 1.0, 'recall': 1.0, 'f1': 1.0, 'mean_tiou': 0.8, 'boundary_error': 0.5}
    """
    found, true = _times(labels), _times(ground_truth)
    rows = []
    for match in matches(labels, ground_truth, tious):
        a, b = found[:, match >= 0], true[:, match[match >= 0]]
        rows.append(
            {
                "labels": len(labels),
                "precision": a.shape[1] / max(len(labels), 1),
                "recall": a.shape[1] / max(len(ground_truth), 1),
                "f1": 2 * a.shape[1] / max(len(labels) + len(ground_truth), 1),
                "mean_tiou": _mean(_tiou(a, b)),
                "boundary_error": _mean(np.abs(a - b)),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(tious, name="tIoU"))


def label_measures(labels: pd.DataFrame, ground_truth: pd.DataFrame) -> dict[str, float]:
    """What `metrics.json` says of the labels of one stage.

    Returns:
        Percent: precision, recall and f1 at tIoU .3, .5 and .7; mean tIoU of what is matched at .5; `coverage`.
        Seconds: boundary error of what is matched at .5. The number of labels. What is not defined is left out: without
        ground truth, all but that.
    """
    if ground_truth.empty:
        return {"labels": len(labels)}
    quality = pseudo_label_quality(labels, ground_truth)
    result = {f"{name} at {t:g}": 100 * quality.loc[t, name] for t in quality.index for name in SHARES}
    middle = quality.loc[0.5]
    result |= {"mean tIoU": 100 * middle["mean_tiou"], "boundary error (s)": middle["boundary_error"]}
    result |= {"coverage": 100 * coverage(labels, ground_truth), "labels": len(labels)}
    return {name: value for name, value in result.items() if pd.notna(value)}


def agreement(labels: pd.DataFrame, others: pd.DataFrame) -> float:
    """F1 at tIoU .5 between two sets of labels of the same videos, 0 to 1: how much they say the same.

    No true segment is asked, so that this may choose parameters.

    >>> labels = pd.DataFrame({"video": ["v"], "label": ["run"], "score": [0.5], "start": [0.0], "end": [4.0]})
    >>> agreement(labels, labels), agreement(labels, labels.assign(label="jump"))
    (1.0, 0.0)
    """
    return float(pseudo_label_quality(labels, others, [0.5])["f1"].iloc[0])


def coverage(labels: pd.DataFrame, ground_truth: pd.DataFrame) -> float:
    """Share of the classes of all videos that have at least one label; the ground truth is asked for no times.

    >>> truth = pd.DataFrame({"video": ["v", "v", "w"], "label": ["run", "run", "jump"]})
    >>> coverage(truth[:1], truth)
    0.5
    """
    known, found = (set(zip(frame.video, frame.label, strict=True)) for frame in (ground_truth, labels))
    return len(known & found) / max(len(known), 1)


def true_positive(labels: pd.DataFrame, ground_truth: pd.DataFrame, tiou: float = 0.5) -> np.ndarray:
    """Whether each label overlaps some true segment of its video and class with at least this tIoU.

    Unlike in `pseudo_label_quality`, several labels may overlap the same segment: this is the TP/FP of the paper's
    histogram over the IoU score.

    Returns:
        Booleans (N,), in the order of the labels.
    """
    found, _, overlap = overlaps(labels, ground_truth)
    result = np.zeros(len(labels), dtype=bool)
    result[found[overlap >= tiou]] = True
    return result


def overtaking(iou_scores: np.ndarray, is_true: np.ndarray, width: float = 0.1) -> float:
    """The IoU score from which on more proposals are true than false; the paper's is about .55 on THUMOS'14.

    Args:
        iou_scores: (N,) of proposals.
        is_true: (N,) booleans.
        width: of the bins of the histogram.

    Returns:
        Where the first bin with more true than false proposals begins; NaN if there is none.

    >>> overtaking(np.array([0.05, 0.06, 0.31, 0.32, 0.35]), np.array([False, True, True, True, False]))
    0.3
    """
    bins = np.arange(0, np.max(iou_scores, initial=0) + 2 * width, width)
    right, wrong = (np.histogram(iou_scores[part], bins)[0] for part in (is_true, ~is_true))
    return float(np.round(bins[np.argmax(right > wrong)], 6)) if (right > wrong).any() else float("nan")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
