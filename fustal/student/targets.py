"""Which ground-truth segment each point of the pyramid is responsible for (docs/method.md section 4)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Truth(NamedTuple):
    """What the sequences of a batch are trained on; N labels a video, N may be 0."""

    segments: Sequence[Tensor]  # per video (N, 2), snippets
    labels: Sequence[Tensor]  # per video (N,) classes
    weights: Sequence[Tensor]  # per video (N,), factor on the loss of each label
    video_labels: Tensor  # (B, C) multi-hot
    ratios: Tensor  # (K, C) of the video score of each class, see `fustal.engine.video_score.pooled_ratios`


class Points(NamedTuple):
    """The points of all levels, one after the other; P = sum of the levels' lengths."""

    position: Tensor  # (P,) snippets
    stride: Tensor  # (P,) snippets between neighbours on the level
    level: Tensor  # (P,)
    low: Tensor  # (P,) snippets, the shortest distance to a border that the level regresses
    high: Tensor  # (P,) snippets, the longest; infinite on the last level


def points(lengths: Sequence[int], device: torch.device | str = "cpu") -> Points:
    """The points of a pyramid; level l has stride 2^l and regresses distances of 2^(l+1) to 2^(l+2) snippets.

    Args:
        lengths: points of each level, finest first.
        device: of the tensors.

    >>> points([4, 2]).position.tolist(), points([4, 2]).high.tolist()
    ([0.0, 1.0, 2.0, 3.0, 0.0, 2.0], [4.0, 4.0, 4.0, 4.0, inf, inf])
    """
    counts = torch.tensor(lengths, device=device)
    level = torch.arange(len(lengths), device=device).repeat_interleave(counts)
    stride = 2.0**level
    position = torch.cat([torch.arange(length, device=device) for length in lengths]) * stride
    low = torch.where(level == 0, 0.0, 2 * stride)
    high = torch.where(level == len(lengths) - 1, torch.inf, 4 * stride)
    return Points(position, stride, level, low, high)


def assign(
    points: Points, segments: Tensor, labels: Tensor, num_classes: int, radius: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Targets of one video.

    A point is positive for a segment that covers it, whose centre is less than `radius` strides away and whose farther
    border lies within the distances of the point's level. The shortest such segment wins.

    Args:
        points: of the pyramid.
        segments: (N, 2) starts and ends, snippets; N may be 0.
        labels: (N,) classes.
        num_classes: C.
        radius: strides.

    Returns:
        Classes (P, C), 0 or 1: those of all segments within 1e-3 snippets of the shortest; offsets (P, 2) to start and
        end of the shortest, in strides, and its row (P,): both meaningful at positive points only.

    >>> assign(points([4]), torch.tensor([[0.5, 2.5]]), torch.tensor([1]), num_classes=2, radius=1.5)[0].tolist()
    [[0.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
    """
    if not len(segments):
        count = len(points.position)
        return (
            segments.new_zeros(count, num_classes),
            segments.new_zeros(count, 2),
            torch.zeros(count, dtype=torch.long, device=segments.device),
        )
    position = points.position[:, None]
    left = position - segments[:, 0]  # (P, N)
    right = segments[:, 1] - position
    covers = torch.minimum(left, right) > 0
    central = (position - segments.mean(dim=1)).abs() < radius * points.stride[:, None]
    farthest = torch.maximum(left, right)
    in_range = (farthest >= points.low[:, None]) & (farthest <= points.high[:, None])
    length = torch.where(covers & central & in_range, segments[:, 1] - segments[:, 0], torch.inf)
    # Of several segments the shortest wins: a longer one has other points, on its own level.
    shortest, winner = length.min(dim=1)

    # Segments of equal length but different classes: the point is positive for all of these classes.
    as_short = (length <= shortest[:, None] + 1e-3) & length.isfinite()
    classes = (as_short.float() @ F.one_hot(labels, num_classes).float()).clamp(max=1)
    point = torch.arange(len(winner), device=winner.device)
    distances = torch.stack([left[point, winner], right[point, winner]], dim=1)
    return classes, distances / points.stride[:, None], winner
