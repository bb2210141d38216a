"""The losses of the student: focal, distance-IoU, and the video-level (MIL) loss (docs/method.md sections 4 and 7)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fustal.engine.video_score import video_loss, video_scores
from fustal.params import Params
from fustal.student.decoding import decode
from fustal.student.network import Student, StudentOutput
from fustal.student.targets import Truth, assign, points

IOU_POWER = 0.2
"""Exponent of the IoU that weights a positive point in the focal loss."""

POSITIVES_MOMENTUM = 0.9
"""Momentum of the moving average of the number of positive points, by which the losses are divided."""


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss of each element (Lin et al., 2017).

    Args:
        logits: any shape.
        targets: the same shape, 0 or 1.
        alpha: weight of the positives; 1 - alpha is that of the negatives.
        gamma: the larger, the less well-classified elements count.

    >>> focal_loss(torch.zeros(2), torch.tensor([0.0, 1.0]))
    tensor([0.1300, 0.0433])
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    error = (logits.sigmoid() - targets).abs()
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * error**gamma * entropy


def offset_iou(offsets: Tensor, targets: Tensor) -> Tensor:
    """IoU of segments given as offsets (N, 2) to left and right of a common point; (N,).

    >>> offset_iou(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 3.0]]))
    tensor([0.5000])
    """
    overlap = torch.minimum(offsets, targets).sum(dim=1)
    union = offsets.sum(dim=1) + targets.sum(dim=1) - overlap
    return overlap / union.clamp(min=1e-8)


def iou_weight(iou: Tensor) -> Tensor:
    """Weight of positive points in the focal loss, IoU^0.2; where the IoU is 0, weight and gradient are 0.

    The derivative of the power is infinite at 0. The offsets are expectations of a softmax: as one of them goes to 0,
    so does the gradient of the weight with respect to its logits. So 0 is the limit.

    Args:
        iou: (N,) in [0, 1].

    >>> iou_weight(torch.tensor([1.0, 0.03125, 0.0]))
    tensor([1.0000, 0.5000, 0.0000])
    """
    positive = iou > 0
    return torch.where(positive, iou, 1) ** IOU_POWER * positive


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


def mil_loss(logits: Tensor, mask: Tensor, video_labels: Tensor, ratios: Tensor, params: Params) -> Tensor:
    """Video-level loss: the mean of the top positions of each class must match the labels of the video.

    Args:
        logits: class logits of the finest level (B, C, T), 0 at padding.
        mask: (B, 1, T) or (B, C, T) valid positions.
        video_labels: (B, C) multi-hot.
        ratios: (K, C), see `fustal.engine.video_score.pooled_ratios`.
        params: `video_score`, not "auto", `recipe`. Corrected: the top positions are a share of the
            video's own valid ones, and padding is left out; published: of those of the whole batch, and padding takes
            part (docs/method.md section 7).

    Returns:
        Scalar.
    """
    values = logits.sigmoid() if params.video_score == "sigmoid" else logits
    if params.corrected:
        valid = mask.sum(dim=2)  # (B, 1 or C)
        values = values.masked_fill(~mask, -torch.inf)
    else:
        valid = mask.sum().expand(len(mask), 1)
    return video_loss(video_scores(values, valid, ratios, params), video_labels, params)


def student_loss(model: Student, output: StudentOutput, truth: Truth, params: Params) -> dict[str, Tensor]:
    """All losses of a batch; while the model trains, its moving count of positives is updated.

    Args:
        model: the student.
        output: of the student.
        truth: what the batch is trained on.
        params: `center_radius`, `mil_weight`, `mil_dropout`, `recipe`, and those of `mil_loss`.

    Returns:
        Scalars "loss" (the weighted sum), "focal", "diou", "mil".
    """
    logits = output.class_logits
    classes, offsets, label_weights = batch_targets(output, truth, params)
    positives = classes.any(dim=-1).sum().clamp(min=1)
    if model.training:  # before it is used: the losses of this batch are divided by it
        model.positives.lerp_(positives.to(model.positives), 1 - POSITIVES_MOMENTUM)

    video, point, label = classes.nonzero(as_tuple=True)
    borders = model.borders(output, video, point)
    decoded = decode(borders, output.lengths, video, point, label)
    target = offsets[video, point]
    label_weight = label_weights[video, point]
    # A well placed point counts more for its class. Published: the focal loss can also fall by a lower weight, so its
    # gradient moves offsets away from their targets, against the DIoU loss. Corrected: offsets learn from DIoU alone.
    placed = decoded.detach() if params.corrected else decoded
    weight = torch.ones_like(logits)
    weight[video, point, label] = iou_weight(offset_iou(placed, target)) * label_weight
    focal = (focal_loss(logits, classes) * weight * output.mask).sum() / model.positives
    diou = (diou_loss(decoded, target) * label_weight).sum() / model.positives

    # The video-level loss uses the finest level, which has a point for every snippet.
    finest, mask = drop_logits(output, params, model.training)
    mil = mil_loss(finest, mask, truth.video_labels, truth.ratios, params)
    return {"loss": focal + diou + params.mil_weight * mil, "focal": focal, "diou": diou, "mil": mil}


def batch_targets(output: StudentOutput, truth: Truth, params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """Targets of all points of a batch.

    Returns:
        Classes (B, P, C), 0 or 1, 0 at padding; offsets (B, P, 2) in strides, and the weight (B, P) of the label that
        the point is responsible for: both meaningful at positive points only.
    """
    grid = points(output.lengths, output.mask.device)
    num_classes = output.class_logits.shape[2]
    classes = []
    offsets = []
    winners = []
    for segments, labels in zip(truth.segments, truth.labels, strict=True):
        video_classes, video_offsets, winner = assign(grid, segments, labels, num_classes, params.center_radius)
        classes.append(video_classes)
        offsets.append(video_offsets)
        winners.append(winner)
    weights = pad_sequence(list(truth.weights), batch_first=True)  # (B, largest N)
    if weights.shape[1] == 0:  # no video of the batch has a label
        weights = weights.new_zeros(len(weights), 1)
    label_weights = weights.gather(1, torch.stack(winners))
    return torch.stack(classes) * output.mask, torch.stack(offsets), label_weights


def drop_logits(output: StudentOutput, params: Params, training: bool) -> tuple[Tensor, Tensor]:
    """Dropout of the finest level's class logits, for the MIL loss.

    The released code sets dropped logits to 0. As all logits start at -4.6, the dropped ones are then the largest, and
    the video score is uniform as long as they fill the top k. Corrected: dropped positions are left out.

    Returns:
        Logits (B, C, T) and the mask of the positions that take part, (B, 1, T) or (B, C, T).
    """
    length = output.lengths[0]
    logits = output.class_logits[:, :length].mT
    mask = output.mask[:, :length].mT
    if not params.corrected:
        return F.dropout(logits, params.mil_dropout, training), mask
    if training:
        kept = mask & (torch.rand_like(logits) >= params.mil_dropout)
        mask = torch.where(kept.any(dim=2, keepdim=True), kept, mask)  # a class without any position has no score
    return logits, mask
