"""Which detection takes which true segment, and how much they overlap (docs/method.md section 6)."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

PAIRS = 1 << 18
"""Maximum size of one tIoU matrix: a million detections can have billions of pairs, too many for the memory."""


def matches(detections: pd.DataFrame, ground_truth: pd.DataFrame, tious: Iterable[float]) -> list[np.ndarray]:
    """The true segment that each detection takes, at each tIoU threshold.

    Detections are visited by falling score. Each one takes, of the free true segments of its video and class, the one
    with the highest tIoU, if that reaches the threshold; of equal tIoU the last one.

    Args:
        detections: video, label, score, start, end; may be empty.
        ground_truth: video, label, start, end; may be empty.
        tious: thresholds.

    Returns:
        For each threshold the row (N,) of the true segment that each detection takes, -1 for none.
    """
    thresholds = list(tious)
    match = [np.full(len(detections), -1) for _ in thresholds]
    free = [set(range(len(ground_truth))) for _ in thresholds]
    # Groups do not affect each other. Slices of a group do: a segment that one slice takes is not free in the next.
    for rows, true_rows, tiou in _tiou_by_group(detections, ground_truth):
        pairs = _candidates(rows, true_rows, tiou)
        for number, threshold in enumerate(thresholds):
            _take_in_turn(pairs, threshold, match[number], free[number])
    return match


def _candidates(rows: np.ndarray, true_rows: np.ndarray, tiou: np.ndarray) -> list[tuple[int, int, float]]:
    """The overlapping pairs of a group in the order in which they are visited.

    That is by the detection; of one detection by falling tIoU, of equal tIoU the last true segment first.

    Args:
        rows: of the detections (D,) by falling score.
        true_rows: of the true segments (G,).
        tiou: (D, G).

    Returns:
        Row of the detection, row of the true segment, tIoU.
    """
    found, true = np.nonzero(tiou)
    overlap = tiou[found, true]
    # `lexsort` sorts by its last key first.
    order = np.lexsort((-true, -overlap, found))
    # As plain numbers: a Python loop over the elements of an array is several times slower.
    parts = rows[found[order]].tolist(), true_rows[true[order]].tolist(), overlap[order].tolist()
    return list(zip(*parts, strict=True))


def _take_in_turn(pairs: list[tuple[int, int, float]], threshold: float, match: np.ndarray, free: set[int]) -> None:
    """Visits pairs of a detection and a true segment in order; where both are free, the detection takes the segment.

    Args:
        pairs: of `_candidates`.
        threshold: minimum tIoU.
        match: row of the true segment that each detection takes (N,), -1 for none; is filled.
        free: rows of the true segments that no detection has taken; loses those that are taken.
    """
    for detection, segment, tiou in pairs:
        if tiou >= threshold and segment in free and match[detection] < 0:
            match[detection] = segment
            free.remove(segment)


def highest_tiou(detections: pd.DataFrame, ground_truth: pd.DataFrame) -> np.ndarray:
    """Highest tIoU of each detection with a true segment of its video and class.

    Args:
        detections: video, label, score, start, end; may be empty.
        ground_truth: video, label, start, end; may be empty.

    Returns:
        (N,) in [0, 1]; 0 where the video has no true segment of the class.
    """
    highest = np.zeros(len(detections))
    for rows, _, tiou in _tiou_by_group(detections, ground_truth):
        highest[rows] = tiou.max(axis=1)
    return highest


def ranking_of(detections: pd.DataFrame) -> np.ndarray:
    """Rows (N,) of the detections by falling score; equal scores stay in their order."""
    return np.argsort(-detections.score.to_numpy(float), kind="stable")


def _tiou_by_group(
    detections: pd.DataFrame, ground_truth: pd.DataFrame
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The tIoU of detections and true segments of the same video and class, group by group.

    A group with many pairs comes in slices, the detections of the highest scores first.

    Yields:
        Rows of detections (D,) by falling score, rows of true segments (G,), and their tIoU (D, G).
    """
    found, true = times_of(detections), times_of(ground_truth)
    score = detections.score.to_numpy(float)
    groups = detections.groupby(["video", "label"], sort=False).indices
    for key, true_rows in ground_truth.groupby(["video", "label"], sort=False).indices.items():
        if key not in groups:
            continue
        rows = groups[key]
        rows = rows[np.argsort(-score[rows], kind="stable")]
        # At least one detection at a time, also where one video has more true segments of a class than `PAIRS`.
        size = max(PAIRS // len(true_rows), 1)
        for begin in range(0, len(rows), size):
            part = rows[begin : begin + size]
            yield part, true_rows, tiou_of(found[:, part, None], true[:, None, true_rows])


def times_of(frame: pd.DataFrame) -> np.ndarray:
    """Starts and ends (2, N) in seconds."""
    return np.stack([frame.start.to_numpy(float), frame.end.to_numpy(float)])


def tiou_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Temporal intersection over union, in NumPy: an evaluation needs no PyTorch, and starts faster without it.

    Args:
        a: segments (2, ...), starts and ends.
        b: segments (2, ...) whose shape broadcasts with that of `a`.

    Returns:
        tIoU (...) in [0, 1]; 0 for a segment without length or with an end before its start.

    >>> tiou_of(np.array([[0.0], [2.0]]), np.array([[1.0, 5.0], [3.0, 6.0]])).round(4).tolist()
    [0.3333, 0.0]
    """
    with np.errstate(over="ignore"):  # times near the largest number have an infinite union: the tIoU is 0
        overlap = np.maximum(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]), 0)
        union = (a[1] - a[0]) + (b[1] - b[0]) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
