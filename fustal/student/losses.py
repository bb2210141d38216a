"""The student's losses: focal, distance-IoU, and the video-level (MIL) loss (docs/method.md sections 4 and 7)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fustal.params import Params
from fustal.student.decoding import decode
from fustal.student.network import Student, StudentOutput
from fustal.student.targets import assign, points

IOU_POWER = 0.2
"""Exponent of the IoU that weights a positive point in the focal loss."""

POSITIVES_MOMENTUM = 0.9
"""Of the moving average of the number of positive points, by which the losses are divided."""


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss of each element (Lin et al., 2017).

    Args:
        logits: any shape.
        targets: the same shape, 0 or 1.
        alpha: weight of the positives; 1 - alpha is that of the negatives.
        gamma: how much well-classified elements count less.

    >>> focal_loss(torch.zeros(2), torch.tensor([0.0, 1.0]))
    tensor([0.1300, 0.0433])
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    miss = (logits.sigmoid() - targets).abs()
    return (alpha * targets + (1 - alpha) * (1 - targets)) * miss**gamma * entropy


def offset_iou(offsets: Tensor, targets: Tensor) -> Tensor:
    """IoU of segments given as offsets (N, 2) to left and right of a common point; (N,).

    >>> offset_iou(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 3.0]]))
    tensor([0.5000])
    """
    overlap = torch.minimum(offsets, targets).sum(dim=1)
    union = offsets.sum(dim=1) + targets.sum(dim=1) - overlap
    return overlap / union.clamp(min=1e-8)


def diou_loss(offsets: Tensor, targets: Tensor) -> Tensor:
    """Distance-IoU loss: 1 - IoU, plus the squared distance of the centres over the length of the common hull.

    Args:
        offsets: (N, 2) to left and right of a common point, at least 0.
        targets: (N, 2) likewise.

    Returns:
        (N,).

    >>> diou_loss(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 3.0]]))
    tensor([0.5625])
    """
    hull = torch.maximum(offsets, targets).sum(dim=1).clamp(min=1e-8)
    distance = (offsets - targets).diff(dim=1)[:, 0] / 2
    return 1 - offset_iou(offsets, targets) + (distance / hull) ** 2


def mil_loss(logits: Tensor, mask: Tensor, video_labels: Tensor, ratio: int, *, corrected: bool = True) -> Tensor:
    """Video-level loss: the top positions of each class make a video score that must match the video's labels.

    Args:
        logits: class logits of the finest level (B, C, T), 0 at padding.
        mask: (B, 1, T) or (B, C, T) valid positions.
        video_labels: (B, C) multi-hot.
        ratio: the top `n // ratio` positions count, at least 1.
        corrected: n counts the video's own valid positions, and only they take part; published: n counts those of the
            whole batch, and padding takes part (docs/method.md section 7).

    Returns:
        Scalar.
    """
    valid = mask.sum(dim=-1) if corrected else mask.sum().expand(len(mask), 1)  # (B, 1 or C)
    count = (valid // ratio).clamp(1, mask.shape[-1])[..., None]
    if corrected:
        logits = logits.masked_fill(~mask, -torch.inf)
    ranked = logits.sort(dim=-1, descending=True).values
    among = (torch.arange(logits.shape[-1], device=logits.device) < count) & ranked.isfinite()  # (B, C, T)
    video_score = (ranked.masked_fill(~among, 0).sum(dim=-1) / count[..., 0]).softmax(dim=1)
    target = video_labels / video_labels.sum(dim=1, keepdim=True).clamp(min=1)
    return F.binary_cross_entropy(video_score, target)


def student_loss(
    model: Student,
    output: StudentOutput,
    segments: Sequence[Tensor],
    labels: Sequence[Tensor],
    video_labels: Tensor,
    weights: Sequence[Tensor] | None,
    params: Params,
) -> dict[str, Tensor]:
    """All losses of a batch; while the model trains, its count of positives is updated.

    Args:
        model: the student.
        output: what it said.
        segments: per video (N, 2), snippets; N may be 0.
        labels: per video (N,) classes.
        video_labels: (B, C) multi-hot.
        weights: per video (N,), what each label counts; None: 1.
        params: `center_radius`, `mil_weight`, `mil_ratio`, `mil_dropout`, `recipe`.

    Returns:
        Scalars "loss" (the weighted sum), "focal", "diou", "mil".
    """
    logits, valid, grid = output.class_logits, output.mask, points(output.lengths, output.mask.device)
    truth = list(zip(segments, labels, strict=True))
    targets = [assign(grid, *pair, logits.shape[2], params.center_radius) for pair in truth]
    classes, offsets, winner = (torch.stack(parts) for parts in zip(*targets, strict=True))
    classes = classes * valid
    positives = classes.any(dim=-1).sum().clamp(min=1)
    if model.training:
        model.positives.lerp_(positives.to(model.positives), 1 - POSITIVES_MOMENTUM)

    video, point, label = classes.nonzero(as_tuple=True)
    borders = model.borders(output, video, point)
    decoded, wanted = decode(borders, output.lengths, video, point, label), offsets[video, point]
    counts = pad_sequence(list(weights), batch_first=True)[video, winner[video, point]] if weights else 1.0
    weight = torch.ones_like(logits)
    weight[video, point, label] = offset_iou(decoded.detach(), wanted) ** IOU_POWER * counts
    focal = (focal_loss(logits, classes) * weight * valid).sum() / model.positives
    diou = (diou_loss(decoded, wanted) * counts).sum() / model.positives

    finest, mask = _drop(output, params, model.training)
    mil = mil_loss(finest, mask, video_labels, params.mil_ratio, corrected=params.corrected)
    return {"loss": focal + diou + params.mil_weight * mil, "focal": focal, "diou": diou, "mil": mil}


def _drop(output: StudentOutput, params: Params, training: bool) -> tuple[Tensor, Tensor]:
    """Dropout of the finest level's class logits, for the MIL loss: logits (B, C, T) and mask of those that take part.

    The released code sets dropped logits to 0. As real ones begin at -4.6, the top-k then is dropped ones only, the
    video score is uniform, and no gradient comes of it. Corrected: what is dropped does not take part.
    """
    logits, mask = (part[:, : output.lengths[0]].mT for part in (output.class_logits, output.mask))
    if not params.corrected:
        return F.dropout(logits, params.mil_dropout, training), mask
    return logits, mask & (torch.rand_like(logits) >= params.mil_dropout) if training else mask
