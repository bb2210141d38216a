"""From class activations to proposals, and from proposals to pseudo labels.

Taught in notebook 01, section "Proposals", and notebook 02. Source: docs/method.md sections 2 and 3.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from fustal.data.cards import Dataset
from fustal.data.features import FeatureStore
from fustal.generator import Generator, activations, video_score
from fustal.params import Params, grid
from fustal.segments import hard_nms, iou_score


def propose_videos(
    model: Generator,
    dataset: Dataset,
    store: FeatureStore,
    videos: Sequence[str],
    params: Params,
    *,
    known: bool = False,
) -> pd.DataFrame:
    """Proposals of videos.

    Args:
        model: the trained generator.
        dataset: for names and labels.
        store: features on the generator's grid.
        videos: which.
        params: thresholds and recipe.
        known: the videos' labels are known (training videos): `recipe: corrected` then proposes only those.

    Returns:
        Frame with video, label, score, start (s), end (s).
    """
    labels, found = dataset.labels(videos), [np.empty((0, 4))]
    for video, label in zip(videos, labels, strict=True):
        seen = activations(model, store, video, params)
        score = video_score(seen.cas[None], max(1, len(seen.cas) // params.easy_ratio))[0].numpy()
        chosen = (
            np.flatnonzero(label) if known and params.corrected else predicted_classes(score, params.class_threshold)
        )
        seconds = snippet_seconds(store, video, len(seen.cas))
        rows = propose(seen.cas.numpy(), seen.actionness.numpy(), score, chosen, seconds, params)
        if params.corrected:
            rows = centred(rows, store.grid_of(video).to_seconds(0), store.covered(video))
        found.append(rows.to_numpy(float))  # a frame for each video would take ten times the memory
    label, score, start, end = np.concatenate(found).T
    whose = np.repeat(np.array(videos, dtype=object), [len(part) for part in found[1:]])
    what = np.array(dataset.classes, dtype=object)[label.astype(int)]
    return pd.DataFrame({"video": whose, "label": what, "score": score, "start": start, "end": end})


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
        snippet_seconds: seconds that one of the T snippets stands for.
        params: thresholds, NMS and recipe.

    Returns:
        Frame with label (class index), score, start (s), end (s).
    """
    action = upsample(normalise(actionness), params.upscale)
    position = snippet_seconds / params.upscale
    found = [(np.empty(0, int), np.empty(0), np.empty((0, 2)))]
    for c in classes:
        activation = upsample(normalise(cas[:, c]), params.upscale)
        first, last, contrast = contrasted_runs(activation, action, params)
        segments = np.stack([first * position, (last + 1) * position], axis=1)
        scores = contrast + params.oic_video_weight * score[c]
        kept = suppress(segments, scores, params)
        found.append((np.full(len(kept), c), scores[kept], segments[kept]))
    label, scores, segments = (np.concatenate(part) for part in zip(*found, strict=True))
    return pd.DataFrame({"label": label, "score": scores, "start": segments[:, 0], "end": segments[:, 1]})


def suppress(segments: np.ndarray, scores: np.ndarray, params: Params) -> np.ndarray:
    """Indices of the proposals of one class that survive hard NMS.

    Runs where the class is silent have equal scores: the first one stays (`published`: the one that numpy's unstable
    sort happens to put last, as in the released code).
    """
    order = np.argsort(-scores, kind="stable") if params.corrected else np.argsort(scores)[::-1].copy()
    ordered = torch.from_numpy(segments[order]), torch.from_numpy(scores[order])
    return order[hard_nms(*ordered, params.proposal_nms, plus_one=not params.corrected).numpy()]


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
    found = []
    for threshold in grid(params.cas_thresholds):  # one by one, so that its arrays stay in the processor's cache
        above = (activation * (activation >= threshold))[None]  # what lies under the threshold is silent
        row, first, last = runs(above > 0)
        found.append((first, last, outer_inner_contrast(above, row, first, last, params.oic_flank)))
    _, first, last = runs((action >= grid(params.actionness_thresholds)[:, None]) & (action > 0))
    row = np.zeros_like(first)
    found.append((first, last, outer_inner_contrast(activation[None], row, first, last, params.oic_flank)))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def normalise(sequence: np.ndarray) -> np.ndarray:
    """Min-max normalisation over time, with maximum and minimum at least 0 and a zero range counting as 1.

    >>> normalise(np.array([1.0, 2.0, 3.0])), normalise(np.array([2.0, 2.0]))
    (array([0. , 0.5, 1. ]), array([0., 0.]))
    """
    low, high = max(sequence.min(), 0.0), max(sequence.max(), 0.0)
    return np.clip((sequence.astype(float) - low) / ((high - low) or 1.0), 0, 1)


def upsample(sequence: np.ndarray, factor: int) -> np.ndarray:
    """Linear interpolation to `factor` positions a snippet, extrapolated after the last one.

    >>> upsample(np.array([0.0, 1.0]), 2)
    array([0. , 0.5, 1. , 1.5])
    """
    length = len(sequence)
    if length == 1:
        return np.repeat(sequence.astype(float), factor)
    at = np.arange(length * factor) / factor
    left = np.minimum(at.astype(int), length - 2)
    return sequence[left] + (at - left) * (sequence[left + 1] - sequence[left])


def runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of at least two consecutive true positions in each row.

    Args:
        mask: boolean (K, N).

    Returns:
        Row, first and last position of each run.

    >>> runs(np.array([[0, 1, 1, 0, 1], [1, 1, 1, 1, 1]], bool))
    (array([0, 1]), array([1, 0]), array([2, 4]))
    """
    count, length = mask.shape
    framed = np.zeros((count, length + 2), bool)
    framed[:, 1:-1] = mask
    flat = framed.reshape(-1)
    change = np.flatnonzero(flat[1:] != flat[:-1])  # before the first and at the last position of each run, in turn
    row, first = np.divmod(change[::2], length + 2)
    last = change[1::2] % (length + 2) - 1
    long = last > first
    return row[long], first[long], last[long]


def outer_inner_contrast(
    values: np.ndarray, row: np.ndarray, first: np.ndarray, last: np.ndarray, flank: float
) -> np.ndarray:
    """Mean inside a run minus mean in its two flanks (OIC; Shou et al. 2018, docs/method.md section 2).

    Args:
        values: (K, N).
        row: row of each run (R,).
        first: first position of each run.
        last: last position of each run.
        flank: length of a flank as a share of the run; flanks end with the sequence, no flank counts 0.

    Returns:
        Contrast (R,).
    """
    total = np.zeros((len(values), values.shape[1] + 1))  # total[:, n] sums the first n values
    total[:, 1:] = torch.from_numpy(values).cumsum(dim=1).numpy()  # numpy takes four times as long
    reach = flank * (last - first + 1)
    low = np.maximum(0, np.trunc(first - reach)).astype(int)
    high = np.minimum(values.shape[1] - 1, np.trunc(last + reach)).astype(int)
    inside = total[row, last + 1] - total[row, first]
    outside = total[row, high + 1] - total[row, low] - inside
    flanks = (first - low) + (high - last)
    return inside / (last - first + 1) - outside / np.maximum(flanks, 1)


def predicted_classes(score: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the classes with at least this video score, else the best one alone.

    >>> predicted_classes(np.array([0.5, 0.3, 0.2]), 0.25), predicted_classes(np.array([0.5, 0.3, 0.2]), 0.6)
    (array([0, 1]), array([0]))
    """
    return np.flatnonzero(score >= threshold) if (score >= threshold).any() else score.argmax(keepdims=True)


def centred(proposals: pd.DataFrame, first_centre: float, last_end: float) -> pd.DataFrame:
    """Puts proposals where their snippets are: a snippet stands for the middle of its window (docs/method.md section 1).

    The released code lets it stand for the beginning, so that all that it proposes is half a window early.

    Args:
        proposals: frame with start and end (s) after the first snippet; what starts with it starts with the video.
        first_centre: s, when the first snippet is.
        last_end: s, when the window of the last snippet ends. What lies behind is left out.

    >>> centred(pd.DataFrame({"start": [0.0, 2.0, 6.0], "end": [1.0, 5.0, 7.0]}), first_centre=0.5, last_end=5.0)
       start  end
    0    0.0  1.5
    1    2.5  5.0
    """
    start = (proposals.start + first_centre).where(proposals.start > 0, 0)
    end = (proposals.end + first_centre).clip(upper=last_end)
    return proposals.assign(start=start, end=end)[start < end]


def snippet_seconds(store: FeatureStore, video: str, sampled: int) -> float:
    """Seconds that one sampled snippet stands for."""
    grid = store.grid_of(video)
    return grid.stride * store.length(video) / (sampled * grid.fps)


def add_iou_score(proposals: pd.DataFrame, kind: str = "paper") -> pd.DataFrame:
    """Adds `iou_score`: the sum of a proposal's tIoU with all others of its video, whatever their class.

    Source: paper section 3.3; docs/method.md section 3. A classification-based generator proposes more densely round true
    actions, so a high score is a reason to believe a proposal.

    Args:
        proposals: video, label, score, start, end.
        kind: "paper"; or, beyond it and the default of `Params`, "class-aware": only proposals of the same class count,
            each as much as its confidence, and of exact duplicates only the most confident one is kept.
    """
    if kind == "class-aware":
        ranked = proposals.sort_values("score", ascending=False, kind="stable")
        proposals = ranked.drop_duplicates(["video", "label", "start", "end"]).sort_index().reset_index(drop=True)
    score, segments = np.zeros(len(proposals)), torch.from_numpy(proposals[["start", "end"]].to_numpy(float))
    confidence = torch.from_numpy(proposals.score.to_numpy(float)).clamp(min=0)
    for rows in proposals.groupby(["video"] if kind == "paper" else ["video", "label"]).indices.values():
        score[rows] = iou_score(segments[rows], None if kind == "paper" else confidence[rows]).numpy()
    return proposals.assign(iou_score=score)


def select(proposals: pd.DataFrame, iou_score_min: float, confidence_min: float) -> pd.DataFrame:
    """The pseudo labels: proposals with an IoU score of at least gamma and a confidence above eta.

    Args:
        proposals: with columns video, label, score and iou_score.
        iou_score_min: gamma.
        confidence_min: eta.
    """
    keep = (proposals.iou_score >= iou_score_min) & (proposals.score > confidence_min)
    return proposals[keep].reset_index(drop=True)
