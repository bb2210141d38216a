"""Uncertainty of the mAP from the choice of the test videos: a bootstrap over videos.

A data set of a hundred test videos is a sample. Other videos would give another mAP, for every seed of a training in
the same direction. So the spread over seeds does not show this uncertainty. Notebook 06 explains it.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from fustal.evaluation.matching import matches, ranking_of

AT_ONCE = 100
"""Resamples that are computed together: more need more memory."""


def draw_videos(videos: int, times: int, seed: int = 0) -> np.ndarray:
    """Draws as many videos as there are, with replacement.

    Args:
        videos: their number V.
        times: number of resamples R.
        seed: of the random numbers; the same seed draws the same videos.

    Returns:
        How many copies of each video each resample contains (R, V); each row sums to V.

    >>> draw_videos(4, times=2).sum(axis=1).tolist()
    [4, 4]
    """
    return np.random.default_rng(seed).multinomial(videos, np.full(videos, 1 / videos), size=times)


def resampled_map(
    detections: pd.DataFrame, ground_truth: pd.DataFrame, tious: Iterable[float], copies: pd.DataFrame
) -> np.ndarray:
    """The mAP of each resample of the videos, averaged over tIoU thresholds.

    A video that was drawn twice counts as two videos with the same detections and true segments. Detections and true
    segments are matched once, as videos do not affect each other. A class counts only in resamples that have a true
    segment of it.

    Args:
        detections: video, label, score, start, end; may be empty.
        ground_truth: video, label, start, end.
        tious: thresholds.
        copies: number of copies of each video in each resample: R rows, and a column for each video of the frames.

    Returns:
        mAP in [0, 1] of each resample (R,); NaN of a resample without any true segment. With one copy of each video it
        is the mean of `mean_average_precision`.

    >>> truth = pd.DataFrame({"video": ["v", "w"], "label": ["run"] * 2, "start": [0.0, 0.0], "end": [4.0, 4.0]})
    >>> found = truth.assign(score=[0.9, 0.8], end=[4.0, 1.0])  # right in v, wrong in w
    >>> resampled_map(found, truth, [0.5], pd.DataFrame({"v": [1, 2, 0], "w": [1, 0, 2]})).tolist()
    [0.5, 1.0, 0.0]
    """
    ranking = ranking_of(detections)
    hits = np.stack(matches(detections, ground_truth, tious))[:, ranking] >= 0  # (K, N)
    label = detections.label.to_numpy()[ranking]
    column = copies.columns.get_indexer(detections.video)[ranking]
    drawn = copies.to_numpy()
    ap = []
    for name, true in ground_truth.groupby("label"):
        chosen = label == name
        count = drawn[:, copies.columns.get_indexer(true.video)].sum(axis=1)
        parts = []
        for begin in range(0, len(drawn), AT_ONCE):
            weights = drawn[begin : begin + AT_ONCE, column[chosen]]
            parts.append(_weighted(hits[:, chosen], weights, count[begin : begin + AT_ONCE]))
        ap.append(np.concatenate(parts))
    frame = pd.DataFrame(ap)  # a row per class, a column per resample; a mean leaves NaN out
    return frame.mean().to_numpy()


def _weighted(hits: np.ndarray, weights: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Interpolated average precision of one class, averaged over thresholds.

    Equal copies follow each other in the ranking. Of the copies of a hit the last one has the highest precision, and a
    false positive never has a higher one than the hits before it. So the precision at the last copy of each hit is
    enough for the interpolation.

    Args:
        hits: whether each detection, by falling score, is a hit at each threshold (K, N).
        weights: number of copies of each detection in each resample (R, N).
        count: number of true segments of each resample (R,).

    Returns:
        Average precision (R,); NaN where there is no true segment.
    """
    visited = weights.cumsum(axis=1)
    total = np.zeros(len(weights))
    for row in hits:
        right = weights[:, row]
        precision = right.cumsum(axis=1) / np.maximum(visited[:, row], 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        total += (right * envelope).sum(axis=1)
    return np.divide(total, len(hits) * count, out=np.full(len(count), np.nan), where=count > 0)
