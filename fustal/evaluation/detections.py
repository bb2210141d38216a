"""Mean average precision of detections, precision and recall.

Taught in notebook 05. Detections are frames with the columns video, label, score, start, end, true segments the same
without score, times in seconds (docs/method.md section 6).
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from fustal.evaluation.matching import matches, ranking_of
from fustal.exceptions import InputError


def mean_average_precision(
    detections: pd.DataFrame, ground_truth: pd.DataFrame, tious: Iterable[float]
) -> pd.DataFrame:
    """Interpolated average precision of each class at each tIoU, as the ActivityNet evaluator computes it.

    Detections of a class are visited by falling score. Each one takes the free true segment of its video and class with
    the highest tIoU, if that reaches the threshold. Otherwise it is a false positive, also where its video has no true
    segment. Detections of classes without any true segment are not counted.

    Of true segments with equal tIoU the last one is taken, as in the field's evaluators. Detections of equal score are
    visited in their order (a stable sort). The evaluators' own sorts are not stable: the sort of scores, and the sort
    of tIoU where a video has more than 16 true segments of a class. There their result depends on the processor. This
    changes the mAP at tIoU .1 of published detections on THUMOS'14 by .03 %, and nothing at .3 and above.

    Source: docs/method.md section 6.

    Args:
        detections: video, label, score, start, end; may be empty. One that ends before it starts matches nothing.
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
    match = np.stack(matches(detections, ground_truth, tious), axis=1)  # (N, K)
    hits = match[ranking] >= 0
    class_number = counts.index.get_indexer(detections.label)[ranking]  # -1: a class without true segments
    ap = []
    for number, count in enumerate(counts):
        ap.append(interpolated(hits[class_number == number], count))
    return pd.DataFrame(ap, index=counts.index.rename("class"), columns=pd.Index(tious, name="tIoU"))


def averages(ap: pd.DataFrame) -> dict[str, float]:
    """The mAP at each tIoU and its averages over ranges of tIoU.

    Args:
        ap: result of `mean_average_precision`.

    Returns:
        mAP in [0, 1] by tIoU ("0.1", …) and by range. The ranges are "0.1:0.5", "0.3:0.7" and "0.1:0.7" on the grid
        .1:.1:.7. On other grids of more than one value it is the whole range ("0.5:0.95" for ActivityNet).

    >>> averages(pd.DataFrame([[0.5, 0.25], [0.25, 0.0]], columns=[0.3, 0.5]))
    {'0.3': 0.375, '0.5': 0.125, '0.3:0.5': 0.25}
    """
    values = ap.mean()
    result = {f"{tiou:g}": float(value) for tiou, value in values.items()}
    ranges = []
    if np.array_equal(np.round(10 * values.index, 4), np.arange(1, 8)):
        ranges = [(0.1, 0.5), (0.3, 0.7), (0.1, 0.7)]  # those that the field reports on THUMOS'14
    elif len(values) > 1:
        ranges = [(values.index[0], values.index[-1])]
    for low, high in ranges:
        inside = (values.index > low - 1e-6) & (values.index < high + 1e-6)  # thresholds are rounded differently
        result[f"{low:g}:{high:g}"] = float(values[inside].mean())
    return result


def summary(stages: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The mAP of stages in percent at each tIoU, and the averages of `averages`.

    Args:
        stages: name of a stage -> its average precision, result of `mean_average_precision`.

    Returns:
        One row per stage.

    >>> summary({"student": pd.DataFrame([[0.5, 0.25]], columns=[0.3, 0.5])})
              0.3   0.5  0.3:0.5
    student  50.0  25.0     37.5
    """
    columns = {name: averages(ap) for name, ap in stages.items()}
    return 100 * pd.DataFrame(columns).T


def video_level_average_precision(detections: pd.DataFrame, ground_truth: pd.DataFrame) -> pd.Series:
    """How well the best score of a class in each video predicts which videos have the class.

    Only video-level labels are used, and no times. So this measure may be used to choose parameters on videos that are
    held out from training.

    Args:
        detections: video, label, score; may be empty.
        ground_truth: video, label; not empty.

    Returns:
        Average precision in [0, 1] of each class.

    Raises:
        InputError: the ground truth is empty.

    >>> truth = pd.DataFrame({"video": ["v", "w"], "label": ["run", "jump"]})
    >>> video_level_average_precision(truth.assign(score=[0.9, 0.3]), truth).to_dict()
    {'jump': 1.0, 'run': 1.0}
    """
    best = detections.groupby(["video", "label"], as_index=False).score.max()
    known = ground_truth[["video", "label"]].drop_duplicates()
    # With the same times for all, a detection is a hit exactly when its video has its class.
    best = best.assign(start=0.0, end=1.0)
    known = known.assign(start=0.0, end=1.0)
    return mean_average_precision(best, known, [0.5])[0.5]


def precision_recall(detections: pd.DataFrame, ground_truth: pd.DataFrame, tiou: float) -> pd.DataFrame:
    """Precision and recall of all classes together, over the number of detections that count, highest scores first.

    Args:
        detections: video, label, score, start, end; may be empty.
        ground_truth: video, label, start, end; may be empty.
        tiou: threshold.

    Returns:
        Columns score, precision, recall: one row per detection, by falling score.
    """
    ranking = ranking_of(detections)
    hits = matches(detections, ground_truth, [tiou])[0][ranking] >= 0
    right = np.cumsum(hits)
    return pd.DataFrame(
        {
            "score": detections.score.to_numpy()[ranking],
            "precision": right / np.arange(1, len(hits) + 1),
            "recall": right / max(len(ground_truth), 1),
        }
    )


def interpolated(hits: np.ndarray, count: int) -> np.ndarray:
    """Interpolated average precision of one class (docs/method.md section 6).

    Args:
        hits: whether each detection (N, K), by falling score, is a hit at each of K thresholds.
        count: number of true segments.

    Returns:
        Average precision (K,) in [0, 1].
    """
    precision = np.cumsum(hits, axis=0) / np.arange(1, len(hits) + 1)[:, None]
    # Interpolated: the highest precision at this recall or any higher one.
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    return (hits * envelope).sum(axis=0) / count
