"""From the outputs of the heads to segments: Trident decoding and the detections of a video.

Source: docs/method.md section 4; Shi et al., TriDet, CVPR 2023, section 3.3. Taught in notebook 03.
"""

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
    """
    # Points are counted through the levels; neighbours must lie on the level of the point.
    ends = torch.tensor(lengths, device=point.device).cumsum(0)
    level = torch.searchsorted(ends, point, right=True)
    level_end = ends[level, None]
    level_start = level_end - torch.tensor(lengths, device=point.device)[level, None]

    def neighbours(logits: Tensor, place: Tensor) -> Tensor:
        """Logits of the class at neighbouring places (N, bins + 1), 0 where they are not on the point's level."""
        inside = (place >= level_start) & (place < level_end)
        place = place.clamp(level_start, level_end - 1)
        return logits[video[:, None], place, label[:, None]] * inside

    bins = borders.offsets.shape[2] // 2 - 1
    step = torch.arange(bins + 1, device=point.device)
    offsets = borders.offsets[video, point]  # (N, 2 (bins + 1))
    left = neighbours(borders.start_logits, point[:, None] - bins + step) + offsets[:, : bins + 1]
    right = neighbours(borders.end_logits, point[:, None] + step) + offsets[:, bins + 1 :]
    distance_left = left.softmax(dim=1) @ step.flip(0).to(left)  # the last bin to the left is the point itself
    distance_right = right.softmax(dim=1) @ step.to(right)
    return torch.stack([distance_left, distance_right], dim=1)


def class_scores(output: StudentOutput) -> Tensor:
    """Score of each class at each point, (B, P, C), 0 at padding."""
    return output.class_logits.sigmoid() * output.mask


def candidates(model: Student, output: StudentOutput, scores: Tensor, params: Params) -> list[Detections]:
    """Detections before NMS: the best-scoring pairs of point and class of each level, decoded.

    Args:
        model: its boundary heads are evaluated.
        output: of the model, for a batch of B videos.
        scores: (B, P, C), see `class_scores`; 0 is no candidate.
        params: `pre_nms_score`, `pre_nms_topk`, `min_duration_snippets`.

    Returns:
        Per video segments (N, 2) in snippets, scores (N,), labels (N,).
    """
    video, point, label = _strongest(scores, output.lengths, params)
    # The boundary heads are evaluated only where a candidate needs them.
    borders = model.borders(output, video, point)
    offsets = decode(borders, output.lengths, video, point, label)
    grid = points(output.lengths, scores.device)
    distances = offsets * grid.stride[point, None]
    position = grid.position[point]
    segments = torch.stack([position - distances[:, 0], position + distances[:, 1]], dim=1)

    keep = distances.sum(dim=1) > params.min_duration_snippets
    score = scores[video, point, label]
    counts = video[keep].bincount(minlength=len(scores)).tolist()
    return list(zip(segments[keep].split(counts), score[keep].split(counts), label[keep].split(counts), strict=True))


def _strongest(scores: Tensor, lengths: Sequence[int], params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """Video, point and class of the best `pre_nms_topk` entries of each level's scores, ordered by video."""
    num_classes = scores.shape[2]
    parts = []
    start = 0
    # For each level: the finest has half of all points, and would leave no room for the others.
    for length in lengths:
        level = scores[:, start : start + length].flatten(1)
        best = level.topk(min(params.pre_nms_topk, level.shape[1]))
        index = best.indices + start * num_classes  # of point and class, counted through all levels
        parts.append(torch.where(best.values > params.pre_nms_score, index, -1))
        start += length
    index = torch.cat(parts, dim=1)  # (B, K)
    video, place = (index >= 0).nonzero(as_tuple=True)
    index = index[video, place]
    return video, index // num_classes, index % num_classes


def apply_soft_nms(found: Detections, params: Params) -> Detections:
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
        model: its boundary heads are evaluated.
        output: of the model, for a batch of B videos.
        params: thresholds and settings of soft-NMS.

    Returns:
        Per video segments (N, 2) in snippets, which may reach beyond the video, scores (N,), labels (N,).
    """
    found = candidates(model, output, class_scores(output), params)
    return [apply_soft_nms(detections, params) for detections in found]
