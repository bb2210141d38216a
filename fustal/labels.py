"""From proposals, or from a teacher's detections, to labels: the IoU score and the rule by which labels are chosen.

Taught in notebook 02, used again in notebook 04. Source: docs/method.md sections 3 and 9.
"""

from collections.abc import Mapping
from statistics import median_low

import numpy as np
import pandas as pd
import torch

from fustal.evaluation.labels import agreement
from fustal.params import Params
from fustal.segments import SHORTEST, best_segments, iou_score, prior_rank

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The minimum confidences, as shares of the highest one, of which agreement chooses one."""

FALLBACK = 0.6
"""The share in the middle, where there is no second set of labels to agree with, and for a first look at durations."""

CHANCE = 0.01
"""Agreements of two generators that differ by no more than this count as equal."""

FEW = 5
"""Labels of a class that count as much as those of all other classes together, when the spread of its durations is
estimated."""

NARROWEST = 0.1
"""Minimum spread of the durations of a class: 10 %."""


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
            IoU score of at least gamma and a confidence above eta. "best": see `weigh_durations` and `best_labels`.

    Returns:
        Some of the proposals, with a new index; with "best", their scores are weighted.
    """
    if params.label_rule == "best":
        return best_labels(weigh_durations(proposals, params), params.label_share, params.label_prior)
    keep = (proposals.iou_score >= params.iou_score_min) & (proposals.score > params.confidence_min)
    return proposals[keep].reset_index(drop=True)


def weigh_durations(proposals: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Lowers the confidence of proposals whose duration is not typical of their class.

    Actions of one class often last about as long. A first choice of labels, see `best_labels`, shows how long: the
    median of the logarithm of their duration, and its spread. The weight is (1 + z^2)^-power, where z is a proposal's
    distance from the median in units of the spread. Durations of a class that vary widely thus have little effect.

    Args:
        proposals: with columns video, label, score, start, end and iou_score; may be empty.
        params: `duration_prior`, the power; `label_prior`.

    Returns:
        The proposals with other scores. Source: docs/method.md section 9.
    """
    first = best_labels(proposals, FALLBACK, params.label_prior)
    if first.empty or not params.duration_prior:
        return proposals
    duration = _log_duration(first)
    typical = duration.groupby(first.label).median()
    distance = (duration - typical.reindex(first.label).to_numpy()).abs()
    count = first.groupby("label").size()
    variance = (count * distance.groupby(first.label).median() ** 2 + FEW * distance.median() ** 2) / (count + FEW)
    spread = np.maximum(1.4826 * np.sqrt(variance), NARROWEST)  # of a normal distribution: its standard deviation
    z = (_log_duration(proposals) - typical.reindex(proposals.label).to_numpy()) / spread.reindex(
        proposals.label
    ).to_numpy()
    weight = (1 + z**2) ** -params.duration_prior
    return proposals.assign(score=proposals.score.where(proposals.score < 0, proposals.score * weight))


def _log_duration(segments: pd.DataFrame) -> pd.Series:
    """The logarithm of the duration in seconds."""
    return np.log((segments.end - segments.start).clip(lower=SHORTEST))


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


def choose_share(agreed: Mapping[float, float], params: Params, chance: float = 0.0) -> Params:
    """The parameters with `label_share: 0` replaced by the share at which two sets of labels agree most.

    What one generator finds by chance another one does not find, so that false labels lower the agreement; so do labels
    that only one of them is confident enough of. No true segment is needed (docs/method.md section 9).

    Args:
        agreed: share -> agreement, see `share_agreement`. Of equal ones the middle share is taken, of two in the middle
            the lower one. Empty if there is only one set: `FALLBACK` is taken then, and where nothing agrees.
        params: `label_share`.
        chance: agreements that differ from the highest one by no more than this count as equal.

    >>> choose_share({0.3: 0.5, 0.6: 0.8, 0.9: 0.7}, Params()).label_share, choose_share({}, Params()).label_share
    (0.6, 0.6)
    """
    if params.label_share:
        return params
    highest = max(agreed.values(), default=0.0)
    equal = [share for share, value in agreed.items() if value >= highest - chance]
    return params.model_copy(update={"label_share": median_low(equal) if highest > 0 else FALLBACK})


def share_agreement(first: pd.DataFrame, second: pd.DataFrame, params: Params) -> dict[float, float]:
    """How much the labels of two generators agree, for each of `SHARES`: the F1 between them at tIoU .5.

    Args:
        first: proposals of one generator, with iou_score.
        second: of the other one, for the same videos.
        params: `duration_prior` and `label_prior`.
    """
    others = labels_by_share(weigh_durations(second, params), params.label_prior)
    agreed = {}
    for share, labels in labels_by_share(weigh_durations(first, params), params.label_prior).items():
        agreed[share] = agreement(labels, others[share])
    return agreed


def labels_by_share(candidates: pd.DataFrame, prior: float) -> dict[float, pd.DataFrame]:
    """The labels for each of `SHARES`; arguments as those of `best_labels`."""
    # Which of overlapping candidates is kept does not depend on the share: the lowest one leaves all others.
    kept = best_labels(candidates, SHARES[0], prior)
    return {share: best_labels(kept, share, prior) for share in SHARES}
