"""The score of each class in a video, from its activation at each snippet, and the loss against the video's labels.

Used by the generator and by the student's video-level (MIL) loss. Taught in notebook 01. Source: docs/method.md
sections 2 and 9.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fustal.data.cards import Dataset
from fustal.params import Params, parse_ratios

SEVERAL = 1.5
"""Classes of a labelled video, on average, from which on they must not compete for the video."""

EMPTY = 0.05
"""Share of training videos without a class from which on a softmax, which always chooses a class, is unsuitable."""

FILLED = 0.6
"""A ratio fits a class if its actions fill at least so much of the top snippets."""

POOLED = 3
"""Ratios of a class whose scores are averaged: the first that fits, and the next ones."""


def choose_video_score(labels: np.ndarray) -> tuple[str, str]:
    """Which video score fits a data set, and why: "softmax" or "sigmoid" (docs/method.md section 9).

    Args:
        labels: multi-hot labels of the training videos (N, C).

    >>> choose_video_score(np.array([[1, 0], [0, 1]]))
    ('softmax', 'a labelled training video has 1.00 classes on average, and 0 % have none')
    >>> choose_video_score(np.array([[1, 1], [0, 1]]))[0], choose_video_score(np.array([[1, 0], [0, 0]]))[0]
    ('sigmoid', 'sigmoid')
    """
    classes = labels.sum(axis=1)
    labelled = classes > 0
    mean = classes[labelled].mean() if labelled.any() else 0.0
    empty = 1 - labelled.mean() if len(labels) else 0.0
    kind = "sigmoid" if mean >= SEVERAL or empty >= EMPTY else "softmax"
    return kind, f"a labelled training video has {mean:.2f} classes on average, and {100 * empty:.0f} % have none"


def with_video_score(params: Params, dataset: Dataset) -> Params:
    """The parameters with `video_score: auto` replaced by what fits the training videos of a data set."""
    if params.video_score != "auto":
        return params
    kind, _ = choose_video_score(dataset.labels(dataset.split("train")))
    return params.model_copy(update={"video_score": kind})


def first_fitting(filled: Tensor) -> Tensor:
    """The first of `score_ratios` that fits each class: the most snippets of which its actions fill at least `FILLED`.

    Args:
        filled: (R, C) how far the actions of a class fill the top `T // r` snippets of its videos, 0 to 1.

    Returns:
        (C,) index of a ratio; the last one if none fits.

    >>> first_fitting(torch.tensor([[0.9, 0.3, 0.1], [1.0, 0.7, 0.2]])).tolist()
    [0, 1, 1]
    """
    fits = filled >= FILLED
    fits[-1] = True
    return fits.to(torch.uint8).argmax(dim=0)


def pooled_ratios(first: Tensor, params: Params) -> Tensor:
    """The ratios of each class whose video scores are averaged (K, C): `POOLED` of `score_ratios`.

    Args:
        first: (C,) index of the first one, see `first_fitting`.
        params: `score_ratios`.
    """
    ratios = torch.tensor(parse_ratios(params.score_ratios), device=first.device)
    count = min(POOLED, len(ratios))
    steps = torch.arange(count, device=first.device)[:, None]
    return ratios[first.clamp(max=len(ratios) - count) + steps]


def video_scores(values: Tensor, valid: Tensor, ratios: Tensor, params: Params) -> Tensor:
    """The score of each class in each video, once for each of its ratios.

    Args:
        values: (B, C, T) activations; sigmoid: probabilities. What is not finite does not take part.
        valid: number of snippets of each video, (B, 1), or (B, C) if it differs between classes.
        ratios: (K, C), see `pooled_ratios`.
        params: `video_score`, not "auto".

    Returns:
        (K, B, C): the mean of the top `valid // r` snippets, at least one; softmax: over classes.
    """
    # The number of positions differs between videos and classes, so that topk does not serve: sort all.
    ranked = values.sort(dim=2, descending=True).values
    rank = torch.arange(values.shape[2], device=values.device)
    scores = []
    for ratio in ratios:
        count = (valid // ratio).clamp(1, values.shape[2])
        top = (rank < count[..., None]) & ranked.isfinite()
        mean = ranked.masked_fill(~top, 0).sum(dim=2) / count
        scores.append(mean.softmax(dim=1) if params.video_score == "softmax" else mean.clamp(max=1))  # 1 + rounding
    return torch.stack(scores)


def video_loss(scores: Tensor, labels: Tensor, params: Params) -> Tensor:
    """Binary cross-entropy of video scores, averaged over ratios, videos and classes.

    Args:
        scores: (K, B, C), see `video_scores`.
        labels: (B, C) multi-hot.
        params: `video_score`; softmax: the classes of a video share a target of 1.

    Returns:
        Scalar.
    """
    target = labels
    if params.video_score == "softmax":
        target = labels / labels.sum(dim=1, keepdim=True).clamp(min=1)  # a video without labels has the target 0
    return F.binary_cross_entropy(scores, target.expand_as(scores))
