"""Pure functions on temporal segments, rows `(start, end)` of an (N, 2) tensor: tIoU, IoU score, NMS, voting."""

import numpy as np
import torch
from torch import Tensor

SHORTEST = 1e-12
"""Length in place of 0 of an empty segment, whose tIoU would be 0 / 0."""

OVERLAP = 1e-6
"""The tIoU from which on segments overlap: touching ones do not, whatever the rounding."""

ROWS = 256
"""Rows of a tIoU matrix that are in memory at the same time: a file can have tens of thousands of proposals a video."""


def tiou_matrix(a: Tensor, b: Tensor, *, plus_one: bool = False) -> Tensor:
    """Temporal intersection over union of every segment of `a` with every segment of `b`.

    Args:
        a: (N, 2) starts and ends, any unit.
        b: (M, 2) starts and ends, the same unit.
        plus_one: add 1 to every length and intersection, as the released generator does (docs/method.md section 7).

    Returns:
        (N, M) in [0, 1]; 0 where both segments are empty.

    >>> tiou_matrix(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 3.0], [0.0, 2.0], [5.0, 6.0]]))
    tensor([[0.3333, 1.0000, 0.0000]])
    """
    extra = 1 if plus_one else 0
    start = torch.maximum(a[:, None, 0], b[None, :, 0])
    end = torch.minimum(a[:, None, 1], b[None, :, 1])
    overlap = (end - start + extra).clamp(min=0)
    length_a = a[:, 1] - a[:, 0]
    length_b = b[:, 1] - b[:, 0]
    union = length_a[:, None] + length_b[None] + 2 * extra - overlap
    return torch.where(union > 0, overlap / union, 0.0)


def iou_score(segments: Tensor, weights: Tensor | None = None) -> Tensor:
    """How densely other segments surround each one: the sum of its tIoU with all others (docs/method.md section 3).

    Taught in notebook 02; FuSTAL's prior-based filter keeps the proposals of a video where this is high.

    Args:
        segments: (N, 2) proposals of one video; the paper compares all of them, "class-aware" those of one class.
        weights: (N,) factor on the tIoU with each segment; 1 if not given.

    Returns:
        (N,) at least 0.

    >>> iou_score(torch.tensor([[0.0, 2.0], [0.0, 2.0], [1.0, 3.0]]))
    tensor([1.3333, 1.3333, 0.6667])
    """
    parts = [segments.new_zeros(0)]
    for rows in torch.arange(len(segments), device=segments.device).split(ROWS):
        tiou = tiou_matrix(segments[rows], segments)
        tiou[torch.arange(len(rows)), rows] = 0  # of each with itself
        if weights is not None:
            tiou = tiou * weights
        parts.append(tiou.sum(dim=1))
    return torch.cat(parts)


def hard_nms(segments: Tensor, scores: Tensor, threshold: float, *, plus_one: bool = False) -> Tensor:
    """Greedy non-maximum suppression: a segment that overlaps a better one by at least `threshold` is removed.

    Args:
        segments: (N, 2) segments of one class.
        scores: (N,) confidences.
        threshold: tIoU, above 0.
        plus_one: the released generator's lengths (docs/method.md section 7: `recipe: published`).

    Returns:
        (K,) indices of the segments that stay, best first.

    >>> hard_nms(torch.tensor([[0.0, 4.0], [0.0, 5.0], [8.0, 9.0]]), torch.tensor([0.2, 0.9, 0.5]), 0.5).tolist()
    [1, 2]
    """
    order = scores.argsort(descending=True, stable=True)
    start, end = segments[order].detach().cpu().numpy().T.copy()
    extra = 1 if plus_one else 0
    length = np.maximum(end - start + extra, SHORTEST)
    removed = np.zeros(len(order), dtype=bool)
    kept = []
    # Only the tIoU with kept segments is computed: all pairs of thousands of proposals would fill the memory.
    for i in range(len(order)):
        if removed[i]:
            continue
        kept.append(i)
        rest = slice(i, None)
        removed[rest] |= _tiou_with(i, rest, start, end, length, extra) >= threshold
    return order[kept]


def prior_rank(scores: Tensor, iou_scores: Tensor, power: float) -> Tensor:
    """Confidence times IoU score ^ power: of two equally confident segments the more densely surrounded is better.

    Args:
        scores: (N,) confidences; those below 0 count as 0.
        iou_scores: (N,), see `iou_score`.
        power: 0: the IoU score has no effect.

    Returns:
        (N,), docs/method.md section 9.
    """
    return scores.clamp(min=0) * iou_scores.clamp(min=SHORTEST) ** power


def best_segments(segments: Tensor, scores: Tensor, ranks: Tensor, share: float) -> Tensor:
    """The labels of one class in one video: segments that do not overlap, and are nearly as confident as the best one.

    Actions of one class do not overlap: of overlapping segments the one with the highest rank is kept. Then a minimum
    that is a share of the highest confidence has no unit, and leaves at least one label (docs/method.md section 9).

    Args:
        segments: (N, 2) of one class in one video, N may be 0.
        scores: (N,) confidences.
        ranks: (N,), see `prior_rank`.
        share: minimum confidence, as a share of the highest one that is kept; if that is not above 0, only it is left.

    Returns:
        (K,) indices, highest rank first.

    >>> segments = torch.tensor([[0.0, 4.0], [1.0, 4.0], [5.0, 9.0], [9.0, 12.0]])
    >>> scores = torch.tensor([0.8, 0.7, 0.6, 0.3])
    >>> best_segments(segments, scores, scores, 0.5).tolist(), best_segments(segments, scores, scores, 0.3).tolist()
    ([0, 2], [0, 2, 3])
    """
    kept = hard_nms(segments, ranks, OVERLAP)
    if not len(kept):
        return kept
    highest = scores[kept].max()
    minimum = share * highest if highest > 0 else highest
    return kept[scores[kept] >= minimum]


def soft_nms(
    segments: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    sigma: float,
    min_score: float,
    max_segments: int,
    class_agnostic: bool = False,
    voting_tiou: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussian soft-NMS: each pick multiplies the scores of the others by exp(-tIoU²/sigma) (docs/method.md section 4).

    Args:
        segments: (N, 2) detections of one video.
        scores: (N,) confidences.
        labels: (N,) integer classes.
        sigma: width of the Gaussian.
        min_score: detections whose score falls below it are removed.
        max_segments: maximum number of results.
        class_agnostic: segments of different classes suppress each other.
        voting_tiou: if given, each result becomes the average of the inputs that overlap it so much, see `vote`.

    Returns:
        Segments (K, 2), scores (K,) and labels (K,), best first.

    >>> pairs, classes = torch.tensor([[0.0, 4.0], [0.0, 4.0], [8.0, 9.0]]), torch.zeros(3, dtype=torch.long)
    >>> options = dict(sigma=0.5, min_score=0.001, max_segments=10)
    >>> soft_nms(pairs, torch.tensor([0.9, 0.8, 0.5]), classes, **options)[1]
    tensor([0.9000, 0.5000, 0.1083])
    """
    groups = torch.zeros_like(labels) if class_agnostic else labels
    picked, decayed = _pick(
        segments.detach().cpu().numpy(),
        scores.detach().cpu().numpy(),
        groups.cpu().numpy(),
        sigma,
        min_score,
        max_segments,
    )
    chosen = torch.from_numpy(picked).to(segments.device)
    result = segments[chosen]
    if voting_tiou is not None:
        result = vote(result, segments, scores, voting_tiou)
    return result, torch.from_numpy(decayed).to(segments.device), labels[chosen]


def _pick(
    segments: np.ndarray, scores: np.ndarray, groups: np.ndarray, sigma: float, min_score: float, max_segments: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (K,) of the picks of soft-NMS, in order, and their decayed scores (K,).

    Written with NumPy: its calls on small arrays take a fifth of the time of PyTorch's.
    """
    # Sorted by group, the segments that a pick can suppress are one slice: the arrays stay small and need no mask.
    order = np.lexsort((segments[:, 0], groups))
    start, end = segments[order].T.copy()
    scores = scores[order]
    length = np.maximum(end - start, SHORTEST)
    ranked_groups = groups[order]
    members = {}
    for group in np.unique(groups):
        members[group] = slice(np.searchsorted(ranked_groups, group), np.searchsorted(ranked_groups, group, "right"))
    picks: list[int] = []
    values = []
    scale = scores.dtype.type(-1 / sigma)
    smallest = np.finfo(scores.dtype).tiny  # above 0: the score of a pick is -inf, and 0 times that is NaN
    while len(picks) < min(max_segments, len(order)):
        best = int(scores.argmax())
        if scores[best] < min_score:
            break
        picks.append(best)
        values.append(scores[best])
        near = members[ranked_groups[best]]
        tiou = _tiou_with(best, near, start, end, length)
        decay = np.exp(tiou * (scale * tiou))  # exp(-tIoU² / sigma), in the precision of the scores
        scores[near] *= np.maximum(decay, smallest)
        scores[best] = -np.inf
    return order[picks], np.array(values, scores.dtype)


def _tiou_with(
    i: int, others: slice, start: np.ndarray, end: np.ndarray, length: np.ndarray, extra: int = 0
) -> np.ndarray:
    """TIoU of one segment with some others; `extra` is added to intersections, and is in the lengths already."""
    overlap = np.minimum(end[others], end[i]) - np.maximum(start[others], start[i]) + extra
    overlap = np.maximum(overlap, 0)
    return overlap / (length[others] + length[i] - overlap)


def vote(segments: Tensor, voters: Tensor, scores: Tensor, tiou: float) -> Tensor:
    """Replaces each segment by the average of the voters near it, weighted by their scores (docs/method.md section 4).

    Args:
        segments: (N, 2) to refine.
        voters: (M, 2) segments that vote, usually the detections before NMS.
        scores: (M,) their confidences.
        tiou: minimum tIoU of a voter with the segment.

    Returns:
        (N, 2); a segment without voters stays as it is.

    >>> vote(torch.tensor([[0.0, 4.0]]), torch.tensor([[0.0, 4.0], [0.0, 5.0], [7.0, 9.0]]), torch.ones(3), 0.7)
    tensor([[0.0000, 4.5000]])
    """
    weight = (tiou_matrix(segments, voters) >= tiou) * scores
    total = weight.sum(dim=1, keepdim=True)
    average = weight @ voters / total.clamp(min=torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, average, segments)
