"""What kind of errors detections make, and on which actions: in the manner of DETAD.

Taught in notebook 05. Source: Alwassel et al., Diagnosing Error in Temporal Action Detectors, ECCV 2018; of segments by
length COCO's rule (Lin et al., 2014). Frames are those of `fustal.evaluation`.
"""

from itertools import pairwise

import numpy as np
import pandas as pd

from fustal.evaluation.detections import interpolated
from fustal.evaluation.matching import matches, overlaps, ranking_of

TOUCH = 0.1
"""Least tIoU with an action at which a detection is about it, and not about background."""

KINDS = ("right", "double", "localisation", "wrong label", "background")
"""What a detection can be."""


def kinds_of_detections(detections: pd.DataFrame, ground_truth: pd.DataFrame, tiou: float = 0.5) -> pd.Series:
    """What each of the best detections is: right, or wrong in which way.

    As many detections of each class count as it has true segments, those of the highest scores.

    Args:
        detections: video, label, score, start, end; may be empty.
        ground_truth: video, label, start, end.
        tiou: from which a detection is right.

    Returns:
        One of `KINDS` for each detection that counts, in their order: right; double, as its action is taken by a better
        one; localisation, its tIoU with an action of its class is lower than `tiou`, but at least `TOUCH`; wrong label,
        only actions of other classes are as near; background, none is.

    >>> truth = pd.DataFrame({"video": ["v"] * 2, "label": ["run"] * 2, "start": [0.0, 9.0], "end": [4.0, 12.0]})
    >>> found = truth.assign(score=[0.9, 0.8], start=[0.0, 6.0], end=[4.0, 10.0])
    >>> kinds_of_detections(found, truth).tolist()
    ['right', 'localisation']
    """
    best = _best(detections, ground_truth)
    (match,) = matches(best, ground_truth, [tiou])
    own = _highest(best, ground_truth)
    other = _highest(best.assign(label=""), ground_truth.assign(label=""))
    conditions = [match >= 0, own >= tiou, own >= TOUCH, other >= TOUCH]
    return pd.Series(np.select(conditions, KINDS[:4], KINDS[4]), index=best.index, dtype=object)


def error_shares(detections: pd.DataFrame, ground_truth: pd.DataFrame, tiou: float = 0.5) -> pd.Series:
    """Shares of the kinds among the best detections, and the share of actions that none of these finds ("missed").

    Args:
        detections: as for `kinds_of_detections`.
        ground_truth: likewise; not empty.
        tiou: likewise.

    Returns:
        Index `KINDS`, which sum to 1 where there are detections, and "missed".
    """
    kinds = kinds_of_detections(detections, ground_truth, tiou)
    shares = kinds.value_counts().reindex(KINDS, fill_value=0) / max(len(kinds), 1)
    return pd.concat([shares, pd.Series({"missed": 1 - (kinds == "right").sum() / len(ground_truth)})])


def average_precision_by_length(
    detections: pd.DataFrame, ground_truth: pd.DataFrame, tiou: float = 0.5, bins: int = 5
) -> pd.Series:
    """MAP of short and of long actions.

    In each bin only true segments of its lengths count. A detection that takes one of another length, or takes none and
    has itself another length, counts neither as right nor as wrong.

    Args:
        detections: as for `kinds_of_detections`.
        ground_truth: likewise; not empty.
        tiou: likewise.
        bins: so many, each with about the same number of true segments.

    Returns:
        mAP in [0, 1] over the classes that have actions of the length; index: the range in seconds, as text. A range
        without any action is left out.
    """
    length = (ground_truth.end - ground_truth.start).to_numpy(float)
    edges = np.unique(np.quantile(length, np.linspace(0, 1, bins + 1)))
    edges = edges if len(edges) > 1 else edges.repeat(2)  # all of one length
    ranking = ranking_of(detections)
    found = (detections.end - detections.start).to_numpy(float)[ranking]
    (match,) = matches(detections, ground_truth, [tiou])
    match, label = match[ranking], detections.label.to_numpy()[ranking]
    true_bin, found_bin = _bin(length, edges), _bin(np.where(match >= 0, length[match], found), edges)
    result = {}
    for number, (low, high) in enumerate(pairwise(edges)):
        inside = found_bin == number
        counts = ground_truth.label[true_bin == number].value_counts()
        if counts.empty:
            continue
        ap = [interpolated((match >= 0)[inside & (label == name), None], count)[0] for name, count in counts.items()]
        result[f"{low:.1f}–{high:.1f} s"] = float(np.mean(ap))
    return pd.Series(result, dtype=float)


def _bin(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Number of the bin of each value, the last edge included; -1 where it is in none."""
    outside = (values < edges[0]) | (values > edges[-1])
    return np.where(outside, -1, np.searchsorted(edges[1:-1], values, side="right"))


def _best(detections: pd.DataFrame, ground_truth: pd.DataFrame) -> pd.DataFrame:
    """As many detections of each class as it has true segments, the best ones, best first."""
    ranked = detections.iloc[ranking_of(detections)]
    wanted = ranked.label.map(ground_truth.label.value_counts()).fillna(0)
    return ranked[ranked.groupby("label").cumcount() < wanted]


def _highest(detections: pd.DataFrame, ground_truth: pd.DataFrame) -> np.ndarray:
    """Highest tIoU of each detection (N,) with a true segment of its video and class."""
    found, _, overlap = overlaps(detections, ground_truth)
    highest = np.zeros(len(detections))
    np.maximum.at(highest, found, overlap)
    return highest
