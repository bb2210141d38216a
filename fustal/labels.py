"""From proposals, or from a teacher's detections, to labels: the IoU score and the rule by which labels are chosen.

Taught in notebook 02, used again in notebook 04. Source: docs/method.md sections 3 and 9.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from fustal.data.features import FeatureStore
from fustal.evaluation.labels import agreement
from fustal.params import Params
from fustal.segments import best_segments, iou_score, prior_rank

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The minimum confidences, as shares of the highest one, of which agreement chooses one."""

FALLBACK = 0.6
"""The share in the middle, where there is no second opinion to agree with."""

SIDE = 0.5
"""Length of the stretch on each side of a border that is compared, as a share of the label's length."""

CLEAR = 0.7
"""A change is clear if at least this share of its squared size is not noise."""


def add_iou_score(proposals: pd.DataFrame, kind: str = "paper") -> pd.DataFrame:
    """Adds the column `iou_score`: the sum of a proposal's tIoU with other proposals of its video.

    A classification-based generator proposes more densely around true actions, so a high score is evidence for a
    proposal. Source: paper section 3.3; docs/method.md section 3.

    Args:
        proposals: video, label, score, start, end.
        kind: "paper": all others count, whatever their class; or, beyond the paper and the default of `Params`,
            "class-aware": only others of the same class count, each as much as its confidence, and of exact
            duplicates only the most confident one is kept.

    Returns:
        The proposals, without duplicates if "class-aware", with a new index and the column iou_score.
    """
    if kind == "class-aware":
        ranked = proposals.sort_values("score", ascending=False, kind="stable")
        unique = ranked.drop_duplicates(["video", "label", "start", "end"])
        proposals = unique.sort_index().reset_index(drop=True)
    score = np.zeros(len(proposals))
    segments = torch.from_numpy(proposals[["start", "end"]].to_numpy(float))
    confidence = torch.from_numpy(proposals.score.to_numpy(float)).clamp(min=0)
    groups = proposals.groupby(["video"] if kind == "paper" else ["video", "label"])
    for rows in groups.indices.values():
        weights = None if kind == "paper" else confidence[rows]
        score[rows] = iou_score(segments[rows], weights).numpy()
    return proposals.assign(iou_score=score)


def select(proposals: pd.DataFrame, params: Params) -> pd.DataFrame:
    """The pseudo labels among proposals.

    Args:
        proposals: with columns video, label, score and iou_score, see `add_iou_score`.
        params: `label_rule` and what it uses; `label_share` is not 0, see `choose_share`. "thresholds", the paper's: an
            IoU score of at least gamma and a confidence above eta. "best": see `best_labels`.

    Returns:
        Some of the proposals, with a new index.
    """
    if params.label_rule == "best":
        return best_labels(proposals, params.label_share, params.label_prior)
    keep = (proposals.iou_score >= params.iou_score_min) & (proposals.score > params.confidence_min)
    return proposals[keep].reset_index(drop=True)


def best_labels(candidates: pd.DataFrame, share: float, prior: float) -> pd.DataFrame:
    """The best candidates of each class in each video, see `fustal.segments.best_segments`.

    Args:
        candidates: with columns video, label, score, start, end and iou_score.
        share: minimum confidence, as a share of the highest one.
        prior: power of the IoU score, see `fustal.segments.prior_rank`.

    Returns:
        Some of the candidates, with a new index.
    """
    segments = torch.from_numpy(candidates[["start", "end"]].to_numpy(float))
    confidence = torch.from_numpy(candidates.score.to_numpy(float))
    rank = prior_rank(confidence, torch.from_numpy(candidates.iou_score.to_numpy(float)), prior)
    kept = [np.empty(0, int)]
    for rows in candidates.groupby(["video", "label"]).indices.values():
        best = best_segments(segments[rows], confidence[rows], rank[rows], share)
        kept.append(rows[best.numpy()])
    return candidates.iloc[np.sort(np.concatenate(kept))].reset_index(drop=True)


def move_borders(labels: pd.DataFrame, store: FeatureStore) -> pd.DataFrame:
    """Moves the borders of labels to where the features change, if they change clearly there.

    Windows and convolutions blur the curves from which labels are cut, so that labels of short actions are too long. A
    teacher that learns from its own labels moves them a little each time. Features do not move
    (docs/method.md section 9).

    Args:
        labels: frame with video, label, start (s), end (s).
        store: features on the student's grid.

    Returns:
        The labels with other starts and ends.
    """
    starts = labels.start.to_numpy(float, copy=True)
    ends = labels.end.to_numpy(float, copy=True)
    for video, rows in labels.groupby("video").indices.items():
        features = store[video].astype(float)
        grid = store.grid_of(video)
        last = store.duration(video)
        for row in rows:
            start, end = grid.to_snippets(np.array([starts[row], ends[row]]))
            side = max(2, int(np.ceil(SIDE * (end - start))))
            start = change_point(features, start, side)
            end = change_point(features, end, side)
            if start < end:
                starts[row], ends[row] = grid.to_seconds(np.array([start, end])).clip(0, last)
    return labels.assign(start=starts, end=ends)


def change_point(features: np.ndarray, border: float, side: int) -> float:
    """Where the features change from their mean before a border to their mean behind it.

    The features are projected on the difference of both means. A window that lies half before and half behind the
    border has features about in the middle, so that the border is where the projection crosses the middle.

    Args:
        features: (T, D).
        border: position in snippets, with fractions.
        side: number of snippets on each side.

    Returns:
        Position of the crossing nearest to the border; the border itself if the change is not `CLEAR`, or if one of the
        sides has less than two snippets.

    >>> change_point(np.array([[0.0], [0], [0], [0], [1], [4], [4], [4]]), border=3.0, side=3)
    4.166666666666667
    """
    middle = int(np.clip(round(border), 0, len(features) - 1))
    first = max(0, middle - side)
    before = features[first:middle]
    behind = features[middle + 1 : middle + 1 + side]
    if min(len(before), len(behind)) < 2:
        return border
    change = behind.mean(axis=0) - before.mean(axis=0)
    size = change @ change
    spread = ((before - before.mean(axis=0)) ** 2).sum() + ((behind - behind.mean(axis=0)) ** 2).sum()
    # What the squared size would be on average without any change.
    noise = spread / (len(before) + len(behind) - 2) * (1 / len(before) + 1 / len(behind))
    if size <= 0 or noise > (1 - CLEAR) * size:
        return border
    projection = (features[first : middle + 1 + side] - before.mean(axis=0)) @ change / size
    rises = np.flatnonzero((projection[1:] >= 0.5) & (projection[:-1] < 0.5)) + 1
    if not len(rises):
        return border
    low = projection[rises - 1]
    crossings = first + rises - 1 + (0.5 - low) / (projection[rises] - low)
    return float(crossings[np.abs(crossings - border).argmin()])


def choose_share(agreed: Mapping[float, float], params: Params) -> Params:
    """The parameters with `label_share: 0` replaced by the share at which two sets of labels agree most.

    What one generator finds by chance another one does not find, so that false labels lower the agreement; so do labels
    that only one of them is confident enough of. No true segment is needed (docs/method.md section 9).

    Args:
        agreed: share -> agreement, see `share_agreement`; empty if there is only one set: `FALLBACK` is taken then.
        params: `label_share`.

    >>> choose_share({0.3: 0.5, 0.6: 0.8, 0.9: 0.7}, Params()).label_share, choose_share({}, Params()).label_share
    (0.6, 0.6)
    """
    if params.label_share:
        return params
    share = max(agreed, key=agreed.__getitem__) if agreed else FALLBACK
    return params.model_copy(update={"label_share": share})


def share_agreement(first: pd.DataFrame, second: pd.DataFrame, prior: float) -> dict[float, float]:
    """How much the labels of two generators agree, for each of `SHARES`: the F1 between them at tIoU .5.

    Args:
        first: proposals of one generator, with iou_score.
        second: of the other one, for the same videos.
        prior: power of the IoU score, see `fustal.segments.prior_rank`.
    """
    others = labels_by_share(second, prior)
    agreed = {}
    for share, labels in labels_by_share(first, prior).items():
        agreed[share] = agreement(labels, others[share])
    return agreed


def labels_by_share(candidates: pd.DataFrame, prior: float) -> dict[float, pd.DataFrame]:
    """The labels for each of `SHARES`; arguments as those of `best_labels`."""
    # Which of overlapping candidates is kept does not depend on the share: the lowest one leaves all others.
    kept = best_labels(candidates, SHARES[0], prior)
    return {share: best_labels(kept, share, prior) for share in SHARES}
