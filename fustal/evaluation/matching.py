"""Which detection takes which true segment, and how much they overlap."""

from collections.abc import Iterable

import numpy as np
import pandas as pd


def matches(detections: pd.DataFrame, ground_truth: pd.DataFrame, tious: Iterable[float]) -> Iterable[np.ndarray]:
    """For each tIoU the row (N,) of the true segment that each detection takes, -1 for none."""
    tious = list(tious)
    found, true, overlap = overlaps(detections, ground_truth, min(tious, default=0.0))
    ranking = ranking_of(detections)
    rank = np.empty(len(detections), dtype=int)
    rank[ranking] = np.arange(len(detections))
    order = np.lexsort((-true, -overlap, rank[found]))
    found, true, overlap = rank[found[order]], true[order], overlap[order]
    for tiou in tious:
        near = overlap >= tiou
        taker, taken = _assign(found[near], true[near], len(ground_truth))
        match = np.full(len(detections), -1)
        match[ranking[taker]] = taken
        yield match


def _assign(found: np.ndarray, true: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Lets each detection in turn take the first of its true segments that is free.

    All at once: each asks for its first choice and whatever a better one asks for is lost to it, until nothing is lost.
    This is deferred acceptance (Gale and Shapley, 1962), which ends in the same matching as turns do, since all true
    segments prefer the same detections.

    Args:
        found: ranks of the detections of the pairs (P,), ascending.
        true: rows of their true segments (P,), each detection's choices in order.
        count: number of true segments.

    Returns:
        Ranks of the detections that take one (M,), and the rows of what they take (M,).
    """
    while True:
        choice = np.flatnonzero(np.diff(found, prepend=-1))
        holder = np.full(count, found.max(initial=0))
        holder[true[choice][::-1]] = found[choice][::-1]  # the best one is written last
        kept = found <= holder[true]
        if kept.all():
            return found[choice], true[choice]
        found, true = found[kept], true[kept]


def ranking_of(detections: pd.DataFrame) -> np.ndarray:
    """Rows of the detections by falling score; equal scores stay in their order."""
    return np.argsort(-detections.score.to_numpy(float), kind="stable")


PAIRS = 1 << 22
"""How many pairs of a detection and a true segment are looked at together: a million detections can have billions."""


def overlaps(
    detections: pd.DataFrame, ground_truth: pd.DataFrame, least: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (P,) of the overlapping detections and true segments of the same video and class, and their tIoU (P,).

    Times are compared by their ranks among the true ones, and ranks of different videos and classes kept apart, all in
    integers: exact for times of any size.

    Args:
        detections: video, label, start, end.
        ground_truth: likewise.
        least: pairs of a lower tIoU are left out.
    """
    found, true = _times(detections), _times(ground_truth)
    starts, ends = np.sort(true[0]), np.sort(true[1])
    group, true_group = (key * (len(starts) + 1) for key in _keys(detections, ground_truth))
    begun = true_group + np.searchsorted(starts, true[0])
    order = np.argsort(begun, kind="stable")
    ended = np.maximum.accumulate((true_group + np.searchsorted(ends, true[1]))[order])
    # The first true segment that ends after the detection starts, and how many from there start before it ends.
    first = np.searchsorted(ended, group + np.searchsorted(ends, found[0], side="right"))
    count = np.maximum(np.searchsorted(begun[order], group + np.searchsorted(starts, found[1])) - first, 0)
    parts = []
    for rows in np.split(np.arange(len(count)), np.flatnonzero(np.diff(np.cumsum(count) // PAIRS)) + 1):
        i = np.repeat(rows, count[rows])
        j = order[np.arange(len(i)) + np.repeat(first[rows] - np.cumsum(count[rows]) + count[rows], count[rows])]
        overlap = _tiou(found[:, i], true[:, j])
        near = (overlap > 0) & (overlap >= least)
        parts.append((i[near], j[near], overlap[near]))
    i, j, overlap = map(np.concatenate, zip(*parts, strict=True))
    return i, j, overlap


def _keys(*frames: pd.DataFrame) -> list[np.ndarray]:
    """One integer a row, the same for the same video and class in all frames."""
    both = pd.concat([frame[["video", "label"]] for frame in frames])
    (video, _), (label, labels) = pd.factorize(both.video), pd.factorize(both.label)
    return np.split(video * max(len(labels), 1) + label, np.cumsum([len(frame) for frame in frames[:-1]]))


def _times(frame: pd.DataFrame) -> np.ndarray:
    """Starts and ends (2, N)."""
    return np.stack([frame.start.to_numpy(float), frame.end.to_numpy(float)])


def _tiou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Temporal IoU (N,) of the columns of two arrays of segments (2, N)."""
    with np.errstate(over="ignore"):  # of times near the largest number; the tIoU is 0
        overlap = np.maximum(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]), 0)
        union = (a[1] - a[0]) + (b[1] - b[0]) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
