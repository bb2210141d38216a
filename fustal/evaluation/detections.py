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
