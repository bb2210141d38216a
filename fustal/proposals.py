"""From class activations to proposals, and from proposals to pseudo labels.

Taught in notebook 01, section "Proposals", and notebook 02. Source: docs/method.md sections 2 and 3.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from fustal.data.features import FeatureStore
from fustal.data.results import results_frame
from fustal.engine.video_score import pooled_ratios, with_video_score
from fustal.evaluation.labels import agreement
from fustal.generator import Generator, activations, video_score
from fustal.params import Params, parse_grid
from fustal.segments import best_segments, hard_nms, iou_score, prior_rank


def propose_videos(
    models: Sequence[Generator], store: FeatureStore, videos: Sequence[str], params: Params, *, known: bool = False
) -> pd.DataFrame:
    """Proposals of videos.

    Args:
        models: trained generators; their activations and scores are averaged.
        store: features on the generator's grid.
        videos: their names.
        params: thresholds and recipe.
        known: the labels of the videos are known (training videos): `recipe: corrected` then proposes only these.

    Returns:
        Frame with video, label, score, start (s), end (s).
    """
    dataset = store.dataset
    params = with_video_score(params, dataset)
    minimum = torch.stack([model.class_minimum for model in models]).mean(0).numpy(force=True)
    found = []
    for video, labels in zip(videos, dataset.labels(videos), strict=True):
        cas, actionness, score = mean_activations(models, store, video, params)
        if known and params.corrected:
            classes = np.flatnonzero(labels)
        else:
            classes = predicted_classes(score, minimum)
        seconds = store.seconds_per_sample(video, len(cas))
        rows = propose(cas, actionness, score, classes, seconds, params)
        if params.corrected:
            # The times of the snippets that were really sampled, in the place of even ones.
            even = seconds * np.arange(len(cas) + 1)
            times = np.interp(rows[["start", "end"]], even, store.sample_starts(video, len(cas)))
            rows = rows.assign(start=times[:, 0], end=times[:, 1])
            rows = centred(rows, store.grid_of(video).to_seconds(0), store.covered(video))
        found.append(rows.to_numpy(float))
    return results_frame(videos, found, dataset.classes)


def mean_activations(
    models: Sequence[Generator], store: FeatureStore, video: str, params: Params
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class activation sequence (T, C), actionness (T,) and video score (C,), averaged over generators.

    Args:
        models: trained generators.
        store: features on the generator's grid.
        video: its name.
        params: `generator_snippets`, and `video_score`, not "auto".
    """
    cas = []
    actionness = []
    scores = []
    for model in models:
        output = activations(model, store, video, params)
        cas.append(output.cas[0])
        actionness.append(output.actionness[0])
        scores.append(video_score(output.cas, pooled_ratios(model.first_ratio.cpu(), params), params)[0])
    means = [torch.stack(values).mean(0).numpy() for values in (cas, actionness, scores)]
    return means[0], means[1], means[2]


def predicted_classes(score: np.ndarray, minimum: np.ndarray) -> np.ndarray:
    """Indices of the classes whose video score (C,) is at least their minimum (C,), else the closest one alone.

    >>> score = np.array([0.5, 0.3, 0.2])
    >>> predicted_classes(score, np.full(3, 0.25)), predicted_classes(score, np.array([0.9, 0.6, 0.9]))
    (array([0, 1]), array([1]))
    """
    above = score - minimum
    chosen = np.flatnonzero(above >= 0)
    return chosen if len(chosen) else np.array([above.argmax()])


def centred(proposals: pd.DataFrame, first_centre: float, last_end: float) -> pd.DataFrame:
    """Moves proposals by half a window: a snippet stands for the middle of its window (docs/method.md section 2).

    In the released code it stands for the beginning, so that all proposals are half a window early.

    Args:
        proposals: frame with start and end (s), counted as if the first snippet were at 0 s; a start of 0 stays 0.
        first_centre: s, when the first snippet is.
        last_end: s, when the window of the last snippet ends. What lies behind is left out.

    >>> centred(pd.DataFrame({"start": [0.0, 2.0, 6.0], "end": [1.0, 5.0, 7.0]}), first_centre=0.5, last_end=5.0)
       start  end
    0    0.0  1.5
    1    2.5  5.0
    """
    # A proposal that starts at the first snippet starts with the video.
    start = (proposals.start + first_centre).where(proposals.start > 0, 0)
    end = (proposals.end + first_centre).clip(upper=last_end)
    return proposals.assign(start=start, end=end)[start < end]


def propose(
    cas: np.ndarray,
    actionness: np.ndarray,
    score: np.ndarray,
    classes: np.ndarray,
    snippet_seconds: float,
    params: Params,
) -> pd.DataFrame:
    """Proposals of one video: every run of every threshold, scored by outer-inner contrast, after NMS.

    Args:
        cas: class activation sequence (T, C).
        actionness: (T,).
        score: video score (C,).
        classes: indices of the classes to propose for.
        snippet_seconds: seconds from one of the T snippets to the next.
        params: thresholds, NMS and recipe.

    Returns:
        Frame with label (class index), score, start (s), end (s).
    """
    action = upsample(normalise(actionness), params.upscale)
    position_seconds = snippet_seconds / params.upscale
    rows = [np.empty((0, 4))]
    for label in classes:
        activation = upsample(normalise(cas[:, label]), params.upscale)
        first, last, contrast = contrasted_runs(activation, action, params)
        candidates = np.stack([first * position_seconds, (last + 1) * position_seconds], axis=1)
        confidence = contrast + params.oic_video_weight * score[label]
        kept = apply_hard_nms(candidates, confidence, params)
        rows.append(np.column_stack([np.full(len(kept), label), confidence[kept], candidates[kept]]))
    found = pd.DataFrame(np.concatenate(rows), columns=["label", "score", "start", "end"])
    return found.astype({"label": int})


def normalise(sequence: np.ndarray) -> np.ndarray:
    """Min-max normalisation over time, with maximum and minimum at least 0 and a zero range counting as 1.

    >>> normalise(np.array([1.0, 2.0, 3.0])), normalise(np.array([2.0, 2.0]))
    (array([0. , 0.5, 1. ]), array([0., 0.]))
    """
    low = max(sequence.min(), 0.0)
    high = max(sequence.max(), 0.0)
    extent = (high - low) or 1.0
    return np.clip((sequence.astype(float) - low) / extent, 0, 1)


def upsample(sequence: np.ndarray, factor: int) -> np.ndarray:
    """Linear interpolation to `factor` positions a snippet, extrapolated after the last one.

    >>> upsample(np.array([0.0, 1.0]), 2)
    array([0. , 0.5, 1. , 1.5])
    """
    length = len(sequence)
    if length == 1:
        return np.repeat(sequence.astype(float), factor)
    position = np.arange(length * factor) / factor
    left = np.minimum(position.astype(int), length - 2)
    return sequence[left] + (position - left) * (sequence[left + 1] - sequence[left])


def contrasted_runs(
    activation: np.ndarray, action: np.ndarray, params: Params
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs over all thresholds of one class's activation and of the actionness, with their outer-inner contrast.

    Args:
        activation: normalised, upsampled CAS of the class (N,).
        action: normalised, upsampled actionness (N,).
        params: the threshold grids and the flank.

    Returns:
        First and last position and contrast of each run.
    """
    firsts = []
    lasts = []
    contrasts = []
    # Thresholds on the CAS: inside and flanks count only what lies above.
    for threshold in parse_grid(params.cas_thresholds):
        above = activation * (activation >= threshold)  # what lies below the threshold counts as 0
        first, last = find_runs(above > 0)
        firsts.append(first)
        lasts.append(last)
        contrasts.append(outer_inner_contrast(above, first, last, params.oic_flank))
    # Thresholds on the actionness: runs of any class, contrasted by the CAS of this one.
    runs = [find_runs((action >= threshold) & (action > 0)) for threshold in parse_grid(params.actionness_thresholds)]
    first = np.concatenate([run[0] for run in runs])
    last = np.concatenate([run[1] for run in runs])
    firsts.append(first)
    lasts.append(last)
    contrasts.append(outer_inner_contrast(activation, first, last, params.oic_flank))
    return np.concatenate(firsts), np.concatenate(lasts), np.concatenate(contrasts)


def find_runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of at least two consecutive true positions.

    Args:
        mask: boolean (N,).

    Returns:
        First and last position of each run.

    >>> find_runs(np.array([0, 1, 1, 0, 1, 0, 1, 1, 1], bool))
    (array([1, 6]), array([2, 8]))
    """
    framed = np.concatenate([[False], mask, [False]])
    change = np.flatnonzero(framed[1:] != framed[:-1])  # where each run begins, and one behind its end, in turn
    first = change[::2]
    last = change[1::2] - 1
    long = last > first
    return first[long], last[long]


def outer_inner_contrast(values: np.ndarray, first: np.ndarray, last: np.ndarray, flank: float) -> np.ndarray:
    """Mean inside a run minus mean in its two flanks (OIC; Shou et al. 2018, docs/method.md section 2).

    Args:
        values: (N,).
        first: first position of each run (R,).
        last: last position of each run (R,).
        flank: length of a flank as a share of the run; flanks end with the sequence, no flank counts 0.

    Returns:
        Contrast (R,).
    """
    # The sum over any range is a difference of two cumulative sums.
    total = np.zeros(len(values) + 1)  # total[n] sums the first n values
    np.cumsum(values, out=total[1:])
    length = last - first + 1
    reach = flank * length
    low = np.maximum(0, np.trunc(first - reach)).astype(int)
    high = np.minimum(len(values) - 1, np.trunc(last + reach)).astype(int)
    inside = total[last + 1] - total[first]
    outside = total[high + 1] - total[low] - inside
    flanks = (first - low) + (high - last)
    return inside / length - outside / np.maximum(flanks, 1)


def apply_hard_nms(segments: np.ndarray, scores: np.ndarray, params: Params) -> np.ndarray:
    """Indices of the proposals of one class that stay after hard NMS.

    Many runs have equal scores, where the class has no activation: the first one stays (`published`: the one that
    numpy's unstable sort puts last, as in the released code).
    """
    # `hard_nms` sorts again: this order only decides ties.
    if params.corrected:
        order = np.argsort(-scores, kind="stable")
    else:
        order = np.argsort(scores)[::-1].copy()
    kept = hard_nms(
        torch.from_numpy(segments[order]),
        torch.from_numpy(scores[order]),
        params.proposal_nms,
        plus_one=not params.corrected,
    )
    return order[kept.numpy()]


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


SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The minimum confidences, as shares of the highest one, of which agreement chooses one."""

FALLBACK = 0.6
"""The share in the middle, where there is no second opinion to agree with."""


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

    A minimum that is a share of the best confidence has no unit, and leaves every class of a video at least one label.

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
        highest = confidence[rows].max().item()
        minimum = min(share * highest, highest)  # of negative confidences the highest stays
        best = best_segments(segments[rows], confidence[rows], rank[rows], minimum)
        kept.append(rows[best.numpy()])
    return candidates.iloc[np.sort(np.concatenate(kept))].reset_index(drop=True)


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
    agreed = {}
    for share in SHARES:
        agreed[share] = agreement(best_labels(first, share, prior), best_labels(second, share, prior))
    return agreed
