"""Kinds of errors of detections, and mAP by the length of actions.

Taught in notebook 05. Sources: Alwassel et al., Diagnosing Error in Temporal Action Detectors (DETAD), ECCV 2018; for
lengths, the rule of COCO for object sizes (Lin et al., 2014). `fustal.evaluation.detections` describes the frames.
"""

from itertools import pairwise

import numpy as np
import pandas as pd

from fustal.evaluation.detections import interpolated
from fustal.evaluation.matching import highest_tiou, matches, ranking_of

TOUCH = 0.1
"""Minimum tIoU of a detection with an action; below it the detection counts as background."""

KINDS = ("right", "double", "localisation", "wrong label", "background")
"""Kinds of detections."""


def kinds_of_detections(detections: pd.DataFrame, ground_truth: pd.DataFrame, tiou: float = 0.5) -> pd.Series:
    """The kind of each of the best detections: right, or one of the kinds of errors.

    Of each class only the detections of the highest scores count, as many as the class has true segments.

    Args:
        detections: video, label, score, start, end; may be empty.
        ground_truth: video, label, start, end.
        tiou: minimum tIoU of a right detection.

    Returns:
        One of `KINDS` for each detection that counts, by falling score; the index is that of `detections`.

        - right: it takes an action of its class.
        - double: its tIoU with an action of its class reaches `tiou`, but a better detection has taken the action.
        - localisation: its highest tIoU with an action of its class is at least `TOUCH`, but less than `tiou`.
        - wrong label: only with an action of another class is its tIoU at least `TOUCH`.
        - background: its tIoU with every action is less than `TOUCH`.

    >>> truth = pd.DataFrame({"video": ["v"] * 2, "label": ["run"] * 2, "start": [0.0, 9.0], "end": [4.0, 12.0]})
    >>> found = truth.assign(score=[0.9, 0.8], start=[0.0, 6.0], end=[4.0, 10.0])
    >>> kinds_of_detections(found, truth).tolist()
    ['right', 'localisation']
    """
    best = _best(detections, ground_truth)
    match = matches(best, ground_truth, [tiou])[0]
    own = highest_tiou(best, ground_truth)
    other = highest_tiou(best.assign(label=""), ground_truth.assign(label=""))  # all classes are one
    conditions = [match >= 0, own >= tiou, own >= TOUCH, other >= TOUCH]  # the first that holds decides
    return pd.Series(np.select(conditions, KINDS[:4], KINDS[4]), index=best.index, dtype=object)


def error_shares(detections: pd.DataFrame, ground_truth: pd.DataFrame, tiou: float = 0.5) -> pd.Series:
    """Shares of the kinds among the best detections, and the share of missed actions.

    Args:
        detections: as for `kinds_of_detections`.
        ground_truth: as for `kinds_of_detections`; not empty.
        tiou: as for `kinds_of_detections`.

    Returns:
        Index `KINDS`, whose shares sum to 1 if there are detections, and "missed": the share of the true segments that
        none of the best detections takes.
    """
    kinds = kinds_of_detections(detections, ground_truth, tiou)
    shares = kinds.value_counts().reindex(KINDS, fill_value=0) / max(len(kinds), 1)
    missed = 1 - (kinds == "right").sum() / len(ground_truth)
    return pd.concat([shares, pd.Series({"missed": missed})])


def average_precision_by_length(
    detections: pd.DataFrame, ground_truth: pd.DataFrame, tiou: float = 0.5, bins: int = 5
) -> pd.Series:
    """The mAP of actions of similar length, from short to long ones.

    Each bin of lengths counts its own true segments only. A detection belongs to the bin of the true segment that it
    takes, or of its own length if it takes none. In all other bins it is ignored: neither right nor wrong.

    Args:
        detections: as for `kinds_of_detections`.
        ground_truth: as for `kinds_of_detections`; not empty.
        tiou: as for `kinds_of_detections`.
        bins: number of bins, each with about the same number of true segments.

    Returns:
        mAP in [0, 1] over the classes with actions in the bin; index: the range of the bin in seconds, as text. A bin
        without actions is left out.
    """
    length = (ground_truth.end - ground_truth.start).to_numpy(float)
    edges = np.unique(np.quantile(length, np.linspace(0, 1, bins + 1)))
    if len(edges) == 1:  # all true segments have the same length
        edges = edges.repeat(2)
    true_bin = _bin(length, edges)

    ranking = ranking_of(detections)
    match = matches(detections, ground_truth, [tiou])[0][ranking]
    label = detections.label.to_numpy()[ranking]
    own_length = (detections.end - detections.start).to_numpy(float)[ranking]
    found_bin = _bin(np.where(match >= 0, length[match], own_length), edges)

    result = {}
    for number, (low, high) in enumerate(pairwise(edges)):
        counts = ground_truth.label[true_bin == number].value_counts()
        if counts.empty:
            continue
        ap = []
        for name, count in counts.items():
            of_class = (found_bin == number) & (label == name)
            hits = match[of_class] >= 0
            ap.append(interpolated(hits[:, None], count)[0])
        result[f"{low:.1f}–{high:.1f} s"] = float(np.mean(ap))
    return pd.Series(result, dtype=float)


def _bin(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Number of the bin of each value (N,); the last bin includes its upper edge; -1 outside of all bins."""
    outside = (values < edges[0]) | (values > edges[-1])
    return np.where(outside, -1, np.searchsorted(edges[1:-1], values, side="right"))


def _best(detections: pd.DataFrame, ground_truth: pd.DataFrame) -> pd.DataFrame:
    """The best detections of each class, as many as the class has true segments; by falling score."""
    ranked = detections.iloc[ranking_of(detections)]
    count = ranked.label.map(ground_truth.label.value_counts()).fillna(0)
    return ranked[ranked.groupby("label").cumcount() < count]
