"""From the heads' numbers to segments: the Trident decoding and the detections of a video (METHOD.md section 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fustal.params import Params
from fustal.segments import soft_nms
from fustal.student.network import StudentOutput
from fustal.student.targets import points

Detections = tuple[Tensor, Tensor, Tensor]
"""Segments (N, 2), scores (N,) and labels (N,) of one video, times in snippets."""


def decode(output: StudentOutput, video: Tensor, point: Tensor, label: Tensor) -> Tensor:
    """Offsets that the Trident head predicts at some points: the expected bin of a softmax over neighbours.

    The logit of the bin j to the left of a point is the start logit of the class j points to the left, plus the
    offset head's bin at the point itself; to the right likewise with end logits. Beyond the sequence the logits are 0.

    Args:
        output: of a batch of B videos, P points on all levels together.
        video: (N,) rows of the batch.
        point: (N,) points, counted through the levels.
        label: (N,) classes.

    Returns:
        (N, 2) distances to start and end, in strides of the point's level, from 0 to the number of bins.

    Source: Shi et al., TriDet, CVPR 2023, section 3.3.
    """
    bins = output.offsets[0].shape[1] // 2 - 1
    level = points([mask.shape[-1] for mask in output.masks], point.device).level[point]
    # Levels padded by `bins` on one side, one after the other: both windows of a point begin at the same place.
    start = torch.cat([F.pad(logits, (bins, 0)) for logits in output.start_logits], dim=-1)
    end = torch.cat([F.pad(logits, (0, bins)) for logits in output.end_logits], dim=-1)
    bin_index = torch.arange(bins + 1, device=point.device)
    window = (video[:, None], label[:, None], (point + bins * level)[:, None] + bin_index)
    offsets = torch.cat(output.offsets, dim=-1)[video, :, point]  # (N, 2 (bins + 1))
    left = (start[window] + offsets[:, : bins + 1]).softmax(dim=1) @ bin_index.flip(0).to(offsets)
    right = (end[window] + offsets[:, bins + 1 :]).softmax(dim=1) @ bin_index.to(offsets)
    return torch.stack([left, right], dim=1)


def candidates(output: StudentOutput, params: Params) -> list[Detections]:
    """Detections before NMS: the best-scoring pairs of point and class of each level, decoded.

    Args:
        output: of a batch of B videos.
        params: `pre_nms_score`, `pre_nms_topk`, `min_duration_snippets`.

    Returns:
        Per video segments (N, 2) in snippets, scores (N,), labels (N,).
    """
    grid = points([mask.shape[-1] for mask in output.masks], output.masks[0].device)
    scores = [(logits.sigmoid() * mask).mT for logits, mask in zip(output.class_logits, output.masks, strict=True)]
    result = []
    for video in range(len(scores[0])):
        score, point, label = _strongest([level[video] for level in scores], params)
        reach = decode(output, torch.full_like(point, video), point, label) * grid.stride[point, None]
        segments = grid.position[point, None] + reach * reach.new_tensor([-1, 1])
        keep = reach.sum(dim=1) > params.min_duration_snippets
        result.append((segments[keep], score[keep], label[keep]))
    return result


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


def detect(output: StudentOutput, params: Params) -> list[Detections]:
    """Detections of each video of a batch, best first.

    Args:
        output: of a batch of B videos.
        params: thresholds and settings of soft-NMS.

    Returns:
        Per video segments (N, 2) in snippets, which may reach beyond the video, scores (N,), labels (N,).
    """
    return [suppress(found, params) for found in candidates(output, params)]


def _strongest(levels: list[Tensor], params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """Score, point and class of the best entries of each level's scores (T_l, C)."""
    parts, first = [], 0
    for scores in levels:
        best = scores.flatten().topk(min(params.pre_nms_topk, scores.numel()))
        keep = best.values > params.pre_nms_score
        index = best.indices[keep]
        parts.append((best.values[keep], first + index // scores.shape[1], index % scores.shape[1]))
        first += len(scores)
    score, point, label = (torch.cat(part) for part in zip(*parts, strict=True))
    return score, point, label
