"""The student as the field writes it: channels first, every head on every level, videos one by one, padding everywhere.

Written from docs/method.md sections 4 and 5 for `recipe: published`, with `video_score: softmax`, one ratio in
`score_ratios` and `label_rule: thresholds`, for comparison: with the weights of a `fustal.student.Student` it computes
the same as `fustal.student`. Vectorised where the field is (convolutions, targets
of a video, decoding of a level), in loops where the field has loops (levels, heads, videos, classes, picks of NMS).
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fustal.data.results import RESULT_COLUMNS
from tests.benchmarks.plain_post import soft_nms


class Level(NamedTuple):
    """Outputs of the student on one level of the pyramid."""

    class_logits: Tensor  # (B, C, T)
    start_logits: Tensor  # (B, C, T)
    end_logits: Tensor  # (B, C, T)
    offsets: Tensor  # (B, 2 (bins + 1), T)
    mask: Tensor  # (B, 1, T)


# --- network ---


def plain_conv(conv, x, mask):
    """Convolution of x (B, D, T) that sets padding to 0."""
    return F.conv1d(x, conv.weight, conv.bias, padding=conv.weight.shape[2] // 2) * mask


def plain_norm(norm, x):
    """Layer normalisation over the channels of x (B, D, T)."""
    centred = x - x.mean(dim=1, keepdim=True)
    variance = (centred**2).mean(dim=1, keepdim=True)
    return centred / torch.sqrt(variance + norm.eps) * norm.weight[:, None] + norm.bias[:, None]


def plain_depthwise(conv, x):
    """Convolution of each channel of x (B, D, T) with its own kernel."""
    return F.conv1d(x, conv.weight, conv.bias, padding=conv.weight.shape[2] // 2, groups=x.shape[1])


def plain_drop_path(layer, x):
    """Drops the path of whole videos and scales its channels; returns x if the student has no such layer."""
    if isinstance(layer, nn.Identity):
        return x
    if layer.training:
        keep = torch.rand(len(x), 1, 1, device=x.device) >= layer.probability
        x = x / (1 - layer.probability) * keep
    return layer.scale[:, None] * x


def plain_sgp(block, x, mask):
    """An SGP block on x (B, D, T)."""
    if block.halve:
        x = F.max_pool1d(x, 3, stride=2, padding=1)
        mask = mask[:, :, ::2]
    z = plain_norm(block.norm, x)
    context = F.relu(plain_depthwise(block.context, z.mean(dim=2, keepdim=True)))
    instant = plain_depthwise(block.instant, z)
    local = plain_depthwise(block.local, z)
    wide = plain_depthwise(block.wide, z)
    gate = plain_depthwise(block.gate, z)
    mixed = instant * context + (local + wide) * gate + z
    x = x * mask + plain_drop_path(block.drop_mix, mixed)
    group = block.group_norm
    y = F.group_norm(x, group.num_groups, group.weight, group.bias, group.eps)
    first, activation, second = block.mlp
    y = activation(F.conv1d(y, first.weight[:, :, None], first.bias))
    y = F.conv1d(y, second.weight[:, :, None], second.bias)
    return x + plain_drop_path(block.drop_mlp, y), mask


def plain_head(head, x, mask):
    """A head on one level, x (B, D, T)."""
    for layer in head.layers:
        x = F.relu(plain_norm(layer.norm, plain_conv(layer.conv, x, mask)))
    return plain_conv(head.out, x, mask)


def plain_forward(student, x, mask):
    """All levels of all heads; x (B, D, T), mask (B, 1, T)."""
    for layer in student.embedding:
        x = F.relu(plain_norm(layer.norm, plain_conv(layer.conv, x, mask)))
    for block in student.stem:
        x, mask = plain_sgp(block, x, mask)
    pyramid = [(x, mask)]
    for block in student.branch:
        x, mask = plain_sgp(block, x, mask)
        pyramid.append((x, mask))
    levels = []
    for norm, scale, (x, mask) in zip(student.norms, student.scales, pyramid, strict=True):
        x = plain_norm(norm, x)
        levels.append(
            Level(
                plain_head(student.class_head, x, mask),
                plain_head(student.start_head, x.detach(), mask),
                plain_head(student.end_head, x.detach(), mask),
                F.relu(plain_head(student.offset_head, x, mask) * scale),
                mask,
            )
        )
    return levels


def plain_decode(level, video, point, label):
    """Distances (N, 2) to start and end at some points of a level, in strides."""
    bins = level.offsets.shape[1] // 2 - 1
    before = F.pad(level.start_logits, (bins, 0)).unfold(2, bins + 1, 1)  # (B, C, T, bins + 1)
    after = F.pad(level.end_logits, (0, bins)).unfold(2, bins + 1, 1)
    offsets = level.offsets[video, :, point]
    left = (before[video, label, point] + offsets[:, : bins + 1]).softmax(dim=1)
    right = (after[video, label, point] + offsets[:, bins + 1 :]).softmax(dim=1)
    steps = torch.arange(bins + 1, dtype=left.dtype, device=left.device)
    return torch.stack([(left * steps.flip(0)).sum(dim=1), (right * steps).sum(dim=1)], dim=1)


# --- training ---


def plain_grid(levels):
    """Position, stride, minimum and maximum reach (P, 4), in snippets, of the points of all levels."""
    rows = []
    for i, level in enumerate(levels):
        position = torch.arange(level.mask.shape[2], device=level.mask.device) * 2.0**i
        stride = torch.full_like(position, 2.0**i)
        low = torch.full_like(position, 2.0 ** (i + 1) if i else 0.0)
        high = torch.full_like(position, 2.0 ** (i + 2) if i < len(levels) - 1 else np.inf)
        rows.append(torch.stack([position, stride, low, high], dim=1))
    return torch.cat(rows)


def plain_targets(grid, segments, labels, num_classes, radius):
    """Classes (P, C) and offsets (P, 2) that the points should predict in one video."""
    if not len(segments):
        return grid.new_zeros(len(grid), num_classes), grid.new_zeros(len(grid), 2)
    position, stride, low, high = grid[:, :, None].unbind(dim=1)  # (P, 1) each
    start = segments[None, :, 0]
    end = segments[None, :, 1]
    left = position - start
    right = end - position
    length = (end - start).repeat(len(grid), 1)
    length[(left <= 0) | (right <= 0)] = np.inf
    length[(position - (start + end) / 2).abs() >= radius * stride] = np.inf
    farthest = torch.maximum(left, right)
    length[(farthest < low) | (farthest > high)] = np.inf
    shortest, winner = length.min(dim=1)
    near = (length <= shortest[:, None] + 1e-3) & (length < np.inf)
    classes = (near.float() @ F.one_hot(labels, num_classes).float()).clamp(0, 1)
    offsets = torch.stack([left, right], dim=2)[torch.arange(len(grid)), winner] / stride
    return classes, offsets


def plain_iou(offsets, targets):
    """IoU (N,) and length of the hull (N,) of segments round a common point."""
    overlap = torch.min(offsets[:, 0], targets[:, 0]) + torch.min(offsets[:, 1], targets[:, 1])
    union = offsets.sum(dim=1) + targets.sum(dim=1) - overlap
    hull = torch.max(offsets[:, 0], targets[:, 0]) + torch.max(offsets[:, 1], targets[:, 1])
    return overlap / union.clamp(min=1e-8), hull


def plain_diou(offsets, targets):
    """Distance-IoU loss (N,)."""
    iou, hull = plain_iou(offsets, targets)
    distance = 0.5 * (offsets[:, 0] - offsets[:, 1] - targets[:, 0] + targets[:, 1])
    return 1 - iou + (distance / hull.clamp(min=1e-8)) ** 2


def plain_focal(logits, targets, alpha=0.25, gamma=2.0):
    """Focal loss of each element."""
    probability = torch.sigmoid(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    of_truth = probability * targets + (1 - probability) * (1 - targets)
    return (alpha * targets + (1 - alpha) * (1 - targets)) * entropy * (1 - of_truth) ** gamma


def plain_mil(level, video_labels, params, training):
    """Video-level loss on the finest level, with the top-k of the whole batch's length."""
    logits = F.dropout(level.class_logits, params.mil_dropout, training)
    k = min(max(int(level.mask.sum()) // int(params.score_ratios), 1), logits.shape[2])
    score = torch.softmax(torch.sort(logits, dim=2, descending=True)[0][:, :, :k].mean(dim=2), dim=1)
    return F.binary_cross_entropy(score, video_labels / video_labels.sum(dim=1, keepdim=True))


def plain_losses(student, levels, truth, params):
    """Losses of a batch by name; updates the moving number of positives of the student."""
    logits = torch.cat([level.class_logits for level in levels], dim=2).permute(0, 2, 1)  # (B, P, C)
    valid = torch.cat([level.mask for level in levels], dim=2)[:, 0]
    grid = plain_grid(levels)
    class_targets = []
    offset_targets = []
    for segments, labels in zip(truth.segments, truth.labels, strict=True):
        of_classes, of_offsets = plain_targets(grid, segments, labels, logits.shape[2], params.center_radius)
        class_targets.append(of_classes)
        offset_targets.append(of_offsets)
    classes = torch.stack(class_targets) * valid[:, :, None]
    offsets = torch.stack(offset_targets)
    if student.training:
        count = max(int((classes.sum(dim=2) > 0).sum()), 1)
        student.positives.copy_(0.9 * student.positives + 0.1 * count)

    weight = torch.ones_like(logits)
    diou = 0.0
    first = 0
    for level in levels:
        last = first + level.mask.shape[2]
        video, point, label = torch.where(classes[:, first:last] > 0)
        if len(video):
            decoded = plain_decode(level, video, point, label)
            target = offsets[video, point + first]
            iou = plain_iou(decoded, target)[0]
            found = iou > 0  # the derivative of the power is infinite at 0
            weight[video[found], point[found] + first, label[found]] = iou[found] ** 0.2
            weight[video[~found], point[~found] + first, label[~found]] = 0
            diou = diou + plain_diou(decoded, target).sum()
        first = last
    focal = (plain_focal(logits[valid], classes[valid]) * weight[valid]).sum() / student.positives
    diou = diou / student.positives
    mil = plain_mil(levels[0], truth.video_labels, params, student.training)
    return {"loss": focal + diou + params.mil_weight * mil, "focal": focal, "diou": diou, "mil": mil}


def plain_optimizer(student, params):
    """AdamW without weight decay on biases, norms and scales, a loop over lists of weights."""
    decayed = []
    others = []
    for weight in student.parameters():
        if weight.ndim > 1:
            decayed.append(weight)
        else:
            others.append(weight)
    groups = [
        {"params": decayed, "weight_decay": params.student_weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=params.student_lr, foreach=True)


def plain_step(student, ema, optimizer, batch, params, decay):
    """One step of training on a `fustal.student.batches.Batch`, and of the average; the losses as numbers."""
    student.train()
    x = batch.x.permute(0, 2, 1).contiguous()
    mask = batch.mask.permute(0, 2, 1)
    x = x + params.input_noise * torch.randn_like(x)
    levels = plain_forward(student, x, mask)
    losses = plain_losses(student, levels, batch.truth, params)
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        for average, weight in zip(ema.parameters(), student.parameters(), strict=True):
            average.copy_(decay * average + (1 - decay) * weight)
    return {name: value.item() for name, value in losses.items()}


# --- inference ---


def plain_detect(levels, params):
    """Segments (N, 2) in snippets, scores and labels (N,) of the only video of a batch, after soft-NMS."""
    segments = []
    scores = []
    labels = []
    for i, level in enumerate(levels):
        score = (level.class_logits.sigmoid() * level.mask)[0].T.flatten()
        chosen = torch.where(score > params.pre_nms_score)[0]
        ranked, order = score[chosen].sort(descending=True)
        best = chosen[order[: params.pre_nms_topk]]
        ranked = ranked[: params.pre_nms_topk]
        point = best // level.class_logits.shape[1]
        label = best % level.class_logits.shape[1]
        reach = plain_decode(level, torch.zeros_like(point), point, label) * 2**i
        segment = torch.stack([point * 2**i - reach[:, 0], point * 2**i + reach[:, 1]], dim=1)
        keep = segment[:, 1] - segment[:, 0] > params.min_duration_snippets
        segments.append(segment[keep])
        scores.append(ranked[keep])
        labels.append(label[keep])
    return plain_suppress(torch.cat(segments), torch.cat(scores), torch.cat(labels), params)


def plain_suppress(segments, scores, labels, params):
    """Soft-NMS class by class, the best `max_detections` of all."""
    options = {
        "sigma": params.soft_nms_sigma,
        "min_score": params.soft_nms_score,
        "max_segments": params.max_detections,
    }
    return soft_nms(segments, scores, labels, **options)


def plain_pad(features, params):
    """One video (T, D) as a batch (1, D, T') with its mask, at least as long as a training sequence."""
    multiple = 2 ** (params.student_levels - 1)
    length = -(-max(len(features), params.max_snippets) // multiple) * multiple
    x = torch.zeros(1, features.shape[1], length)
    mask = torch.zeros(1, 1, length, dtype=torch.bool)
    x[0, :, : len(features)] = torch.from_numpy(features.T)
    mask[0, 0, : len(features)] = True
    return x, mask


@torch.no_grad()
def plain_localize(student, store, videos, params):
    """Detections of videos as a frame, one video after the other."""
    student.eval()
    device = next(student.parameters()).device
    rows = []
    for video in videos:
        features = np.concatenate([np.load(path) for path in store.paths(video)], axis=1).astype(np.float32)
        x, mask = plain_pad(features, params)
        levels = plain_forward(student, x.to(device), mask.to(device))
        segments, scores, labels = plain_detect(levels, params)
        seconds = store.grid_of(video).to_seconds(segments.double()).clamp(0.0, store.duration(video))
        for (start, end), score, label in zip(seconds.tolist(), scores.tolist(), labels.tolist(), strict=True):
            rows.append((video, store.dataset.classes[label], score, start, end))
    return pd.DataFrame(rows, columns=RESULT_COLUMNS)


@torch.no_grad()
def plain_relabel(teacher, batch, params):
    """The teacher's labels of a batch, or None if a video has none: a full pass of inference for each video."""
    teacher.eval()
    segments = []
    labels = []
    for x, mask in zip(batch.x, batch.mask, strict=True):
        levels = plain_forward(teacher, x.T[None].contiguous(), mask.T[None])
        found, scores, classes = plain_detect(levels, params)
        keep = scores > params.relabel_confidence
        if len(scores) and not keep.any():
            keep[scores.argmax()] = True
        segments.append(found[keep].clamp(0, float(mask.sum())))
        labels.append(classes[keep])
    if not all(map(len, labels)):
        return None
    return batch.truth._replace(segments=segments, labels=labels)
