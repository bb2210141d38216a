"""From the heads' numbers to segments: the Trident decoding and the detections of a video (docs/method.md section 4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fustal.params import Params
from fustal.segments import soft_nms
from fustal.student.network import Borders, Student, StudentOutput
from fustal.student.targets import points

Detections = tuple[Tensor, Tensor, Tensor]
"""Segments (N, 2), scores (N,) and labels (N,) of one video, times in snippets."""


def decode(borders: Borders, lengths: Sequence[int], video: Tensor, point: Tensor, label: Tensor) -> Tensor:
    """Offsets that the Trident head predicts at some points: the expected bin of a softmax over neighbours.

    The logit of the bin j to the left of a point is the start logit of the class j points to the left, plus the
    offset head's bin at the point itself; to the right likewise with end logits. Beyond the sequence the logits are 0.

    Args:
        borders: of a batch of B videos, P points on all levels together.
        lengths: points of each level.
        video: (N,) rows of the batch.
        point: (N,) points, counted through the levels.
        label: (N,) classes.

    Returns:
        (N, 2) distances to start and end, in strides of the point's level, from 0 to the number of bins.

    Source: Shi et al., TriDet, CVPR 2023, section 3.3.
    """
    last_of = torch.tensor(lengths, device=point.device).cumsum(0) - 1
    level = torch.searchsorted(last_of, point)
    first, last = (last_of - torch.tensor(lengths, device=point.device) + 1)[level, None], last_of[level, None]
    step = torch.arange(borders.offsets.shape[2] // 2, device=point.device)
    bins = len(step) - 1

    def at(logits: Tensor, neighbour: Tensor) -> Tensor:
        values = logits[video[:, None], neighbour.clamp(first, last), label[:, None]]
        return values * ((neighbour >= first) & (neighbour <= last))

    offsets = borders.offsets[video, point]  # (N, 2 (bins + 1))
    left = (at(borders.start_logits, point[:, None] - bins + step) + offsets[:, : bins + 1]).softmax(dim=1)
    right = (at(borders.end_logits, point[:, None] + step) + offsets[:, bins + 1 :]).softmax(dim=1)
    return torch.stack([left @ step.flip(0).to(left), right @ step.to(right)], dim=1)


def class_scores(output: StudentOutput) -> Tensor:
    """Score of each class at each point, (B, P, C), 0 at padding."""
    return output.class_logits.sigmoid() * output.mask


def candidates(model: Student, output: StudentOutput, scores: Tensor, params: Params) -> list[Detections]:
    """Detections before NMS: the best-scoring pairs of point and class of each level, decoded.

    Args:
        model: whose boundary heads are asked.
        output: what it said, of a batch of B videos.
        scores: (B, P, C), see `class_scores`; what is 0 is no candidate.
        params: `pre_nms_score`, `pre_nms_topk`, `min_duration_snippets`.

    Returns:
        Per video segments (N, 2) in snippets, scores (N,), labels (N,).
    """
    video, point, label = _strongest(scores, output.lengths, params)
    score, grid = scores[video, point, label], points(output.lengths, scores.device)
    reach = decode(model.borders(output, video, point), output.lengths, video, point, label) * grid.stride[point, None]
    keep = reach.sum(dim=1) > params.min_duration_snippets
    segments = grid.position[point, None] + reach * reach.new_tensor([-1, 1])
    counts = video[keep].bincount(minlength=len(scores)).tolist()
    parts = (part[keep].split(counts) for part in (segments, score, label))
    return list(zip(*parts, strict=True))


def suppress(found: Detections, params: Params) -> Detections:
    """Soft-NMS of the detections of one video, with voting in class-agnostic mode."""
    return soft_nms(
        *found,
        sigma=params.soft_nms_sigma,
        min_score=params.soft_nms_score,
        max_segments=params.max_detections,
        class_agnostic=params.class_agnostic_nms,
        voting_tiou=params.voting_tiou if params.class_agnostic_nms else None,
    )


def detect(model: Student, output: StudentOutput, params: Params) -> list[Detections]:
    """Detections of each video of a batch, best first.

    Args:
        model: whose boundary heads are asked.
        output: what it said, of a batch of B videos.
        params: thresholds and settings of soft-NMS.

    Returns:
        Per video segments (N, 2) in snippets, which may reach beyond the video, scores (N,), labels (N,).
    """
    return [suppress(found, params) for found in candidates(model, output, class_scores(output), params)]


def _strongest(scores: Tensor, lengths: Sequence[int], params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """Video, point and class of the best entries of each level's scores, ordered by video."""
    classes, parts, first = scores.shape[2], [], 0
    for level in scores.split(list(lengths), dim=1):
        best = level.flatten(1).topk(min(params.pre_nms_topk, level[0].numel()))
        parts.append(torch.where(best.values > params.pre_nms_score, best.indices + first * classes, -1))
        first += level.shape[1]
    index = torch.cat(parts, dim=1)  # (B, K)
    video, kept = (index >= 0).nonzero(as_tuple=True)
    return video, index[video, kept] // classes, index[video, kept] % classes
