"""How good detections and pseudo labels are: mean average precision, precision and recall, boundary errors.

Taught in notebook 05; the quality of pseudo labels in notebook 02. Detections and pseudo labels are frames with the
columns video, label, score, start, end, true segments the same without score, times in seconds (METHOD.md section 6).
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from fustal import InputError

SHARES = ("precision", "recall", "f1")
"""Measures of labels at each tIoU."""


def mean_average_precision(
    detections: pd.DataFrame, ground_truth: pd.DataFrame, tious: Iterable[float]
) -> pd.DataFrame:
    """Interpolated average precision of each class at each tIoU, as the ActivityNet evaluator computes it.

    Detections of a class are visited by falling score; each one takes the free true segment of its video and class with
    the highest tIoU, if that reaches the threshold, and is a false positive otherwise, also where its video has no true
    segment. Detections of classes without any true segment are not counted.

    Of true segments with equal tIoU the last one is taken, as by the field's evaluators. Detections of equal score are
    visited in their order (a stable sort). The evaluators' own sorts are not stable: of scores, and of tIoU where a
    video has more than 16 true segments of a class. There their result depends on the processor, which moves the mAP at
    tIoU .1 of published detections on THUMOS'14 by .03 %, and at .3 and above by nothing.

    Args:
        detections: video, label, score, start, end; may be empty. One that ends before it begins matches nothing.
        ground_truth: video, label, start, end.
        tious: thresholds.

    Returns:
        Average precision in [0, 1]: index class (all of the ground truth, sorted), columns tIoU. Their mean is the mAP.

    Raises:
        InputError: the ground truth is empty.

    >>> truth = pd.DataFrame({"video": ["v", "v"], "label": ["run", "run"], "start": [0.0, 9.0], "end": [4.0, 12.0]})
    >>> found = truth.assign(score=[0.9, 0.8], end=[4.0, 10.0])
    >>> mean_average_precision(found, truth, [0.3, 0.5]).loc["run"].tolist()
    [1.0, 0.5]
    """
    if ground_truth.empty:
        raise InputError("there are no true segments to evaluate against")
    tious = list(tious)
    counts = ground_truth.label.value_counts().sort_index()
    ranking = ranking_of(detections)
    hits = np.stack([match[ranking] >= 0 for match in matches(detections, ground_truth, tious)], axis=1)  # (N, K)
    label = counts.index.get_indexer(detections.label)[ranking]
    ap = [interpolated(hits[label == number], count) for number, count in enumerate(counts)]
    return pd.DataFrame(ap, index=counts.index.rename("class"), columns=pd.Index(tious, name="tIoU"))


def averages(ap: pd.DataFrame) -> dict[str, float]:
    """The mAP at each tIoU and its averages over ranges of tIoU.

    Args:
        ap: of `mean_average_precision`.

    Returns:
        mAP in [0, 1] by tIoU ("0.1", …) and by range: "0.1:0.5", "0.3:0.7" and "0.1:0.7" on the grid .1:.1:.7, the
        whole range otherwise ("0.5:0.95" for ActivityNet), if it has more than one value.

    >>> averages(pd.DataFrame([[0.5, 0.25], [0.25, 0.0]], columns=[0.3, 0.5]))
    {'0.3': 0.375, '0.5': 0.125, '0.3:0.5': 0.25}
    """
    values = ap.mean()
    first, last = values.index[0], values.index[-1]
    wtal = np.array_equal(np.round(10 * values.index, 4), np.arange(1, 8))
    ranges = [(0.1, 0.5), (0.3, 0.7), (0.1, 0.7)] if wtal else [(first, last)]
    result = {f"{tiou:g}": float(value) for tiou, value in values.items()}
    for low, high in ranges if len(values) > 1 else []:
        inside = (values.index > low - 1e-6) & (values.index < high + 1e-6)
        result[f"{low:g}:{high:g}"] = float(values[inside].mean())
    return result


def summary(stages: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a stage: its mAP in percent at each tIoU, and the averages.

    Args:
        stages: name of a stage -> its average precisions, of `mean_average_precision`.

    >>> summary({"student": pd.DataFrame([[0.5, 0.25]], columns=[0.3, 0.5])})
              0.3   0.5  0.3:0.5
    student  50.0  25.0     37.5
    """
    return 100 * pd.DataFrame({name: averages(ap) for name, ap in stages.items()}).T


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


def video_level_average_precision(detections: pd.DataFrame, ground_truth: pd.DataFrame) -> pd.Series:
    """How well the best detection of each class tells which videos have it; the ground truth is asked for no times.

    This needs video-level labels only, so that it may be used to choose parameters, on videos held out from training.

    Returns:
        Average precision in [0, 1] of each class.

    >>> truth = pd.DataFrame({"video": ["v", "w"], "label": ["run", "jump"]})
    >>> video_level_average_precision(truth.assign(score=[0.9, 0.3]), truth).to_dict()
    {'jump': 1.0, 'run': 1.0}
    """
    best = detections.groupby(["video", "label"], as_index=False).score.max().assign(start=0.0, end=1.0)
    known = ground_truth[["video", "label"]].drop_duplicates().assign(start=0.0, end=1.0)
    return mean_average_precision(best, known, [0.5])[0.5]


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


def precision_recall(detections: pd.DataFrame, ground_truth: pd.DataFrame, tiou: float) -> pd.DataFrame:
    """Precision and recall of all classes together, as more and more detections count, the highest score first.

    Returns:
        Columns score, precision, recall: one row a detection.
    """
    ranking = ranking_of(detections)
    hits = next(matches(detections, ground_truth, [tiou]))[ranking] >= 0
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    columns = {"score": detections.score.to_numpy()[ranking], "precision": precision}
    return pd.DataFrame(columns | {"recall": right / max(len(ground_truth), 1)})


def interpolated(hits: np.ndarray, count: int) -> np.ndarray:
    """Interpolated AP (K,) of ranked hits (N, K) of one class with `count` true segments."""
    precision = np.cumsum(hits, axis=0) / np.arange(1, len(hits) + 1)[:, None]
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    return (hits * envelope).sum(axis=0) / count


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


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
