"""Pure functions on temporal segments, rows `(start, end)` of an (N, 2) tensor: tIoU, NMS, voting, the IoU score."""

import numpy as np
import torch
from torch import Tensor


def tiou_matrix(a: Tensor, b: Tensor, *, plus_one: bool = False) -> Tensor:
    """Temporal intersection over union of every segment of `a` with every segment of `b`.

    Args:
        a: (N, 2) starts and ends, any unit.
        b: (M, 2) starts and ends, the same unit.
        plus_one: add 1 to every length and intersection, as the released generator does (METHOD.md section 7).

    Returns:
        (N, M) in [0, 1]; 0 where both segments are empty.

    >>> tiou_matrix(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 3.0], [0.0, 2.0], [5.0, 6.0]]))
    tensor([[0.3333, 1.0000, 0.0000]])
    """
    overlap = torch.minimum(a[:, None, 1], b[None, :, 1]) - torch.maximum(a[:, None, 0], b[None, :, 0])
    overlap = (overlap + plus_one).clamp(min=0)
    union = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None] + 2 * plus_one - overlap
    return torch.where(union > 0, overlap / union, 0.0)


def iou_score(segments: Tensor) -> Tensor:
    """How densely other segments surround each one: the sum of its tIoU with all others (METHOD.md section 3).

    Taught in notebook 02; FuSTAL's prior-based filter keeps the proposals of a video where this is high.

    Args:
        segments: (N, 2) all proposals of one video, whatever their class.

    Returns:
        (N,) at least 0.

    >>> iou_score(torch.tensor([[0.0, 2.0], [0.0, 2.0], [1.0, 3.0]]))
    tensor([1.3333, 1.3333, 0.6667])
    """
    return tiou_matrix(segments, segments).fill_diagonal_(0).sum(dim=1)


def hard_nms(segments: Tensor, scores: Tensor, threshold: float, *, plus_one: bool = False) -> Tensor:
    """Greedy non-maximum suppression: what overlaps a better segment by at least `threshold` goes.

    Args:
        segments: (N, 2) segments of one class.
        scores: (N,) confidences.
        threshold: tIoU.
        plus_one: the released generator's lengths (METHOD.md section 7: `recipe: published`).

    Returns:
        (K,) indices of what stays, best first.

    >>> hard_nms(torch.tensor([[0.0, 4.0], [0.0, 5.0], [8.0, 9.0]]), torch.tensor([0.2, 0.9, 0.5]), 0.5).tolist()
    [1, 2]
    """
    order, kept = scores.argsort(descending=True, stable=True), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[tiou_matrix(segments[best][None], segments[order], plus_one=plus_one)[0] < threshold]
    return torch.stack(kept) if kept else order


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
    """Gaussian soft-NMS: each pick multiplies the scores of the others by exp(-tIoU²/sigma) (METHOD.md section 4).

    The picks come in descending score over all classes, so that the loop ends after `max_segments` of them; each one
    touches only the segments of its own class.

    Args:
        segments: (N, 2) detections of one video.
        scores: (N,) confidences.
        labels: (N,) integer classes.
        sigma: width of the Gaussian.
        min_score: what falls below it goes.
        max_segments: at most so many are returned.
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
    picked, decayed = _soft_picks(segments, scores, groups, sigma, min_score, max_segments)
    result = segments[picked]
    if voting_tiou is not None:
        result = vote(result, segments, scores, voting_tiou)
    return result, decayed, labels[picked]


def _soft_picks(
    segments: Tensor, scores: Tensor, groups: Tensor, sigma: float, min_score: float, max_segments: int
) -> tuple[Tensor, Tensor]:
    """Indices (K,) that soft-NMS picks, in order, and their decayed scores (K,)."""
    start, end, order, first, last = _neighbourhoods(segments.detach().cpu().numpy(), groups.cpu().numpy())
    score = scores.detach().cpu().numpy()[order]
    length, scale = np.maximum(end - start, 1e-12), np.asarray(-1 / sigma, score.dtype)
    picked, decayed = [], []
    while len(picked) < min(max_segments, len(score)) and score[i := score.argmax()] >= min_score:
        picked.append(order[i])
        decayed.append(score[i])
        near = slice(first[i], last[i])
        overlap = np.minimum(end[near], end[i]) - np.maximum(start[near], start[i])
        np.maximum(overlap, 0, out=overlap)
        tiou = overlap / (length[near] + length[i] - overlap)
        score[near] *= np.exp(scale * tiou * tiou)
        score[i] = -np.inf
    return torch.tensor(picked, dtype=torch.long, device=scores.device), scores.new_tensor(np.array(decayed))


def _neighbourhoods(segments: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sorts by group and start, so that what can overlap a segment lies in one slice `first:last` around it.

    Returns:
        Sorted starts and ends, the order that sorts, and the slices, (N,) each.
    """
    order = np.lexsort((segments[:, 0], groups))
    start, end = np.ascontiguousarray(segments[order].T)
    longest = np.max(end - start, initial=0)
    apart = groups[order] * (np.max(end, initial=0) - np.min(start, initial=0) + longest + 1.0)
    first = np.searchsorted(apart + start, apart + start - longest)
    return start, end, order, first, np.searchsorted(apart + start, apart + end, side="right")


def vote(segments: Tensor, voters: Tensor, scores: Tensor, tiou: float) -> Tensor:
    """Replaces each segment by the average of the voters around it, weighted by their scores (METHOD.md section 4).

    Args:
        segments: (N, 2) to refine.
        voters: (M, 2) segments that vote, usually the detections before NMS.
        scores: (M,) their confidences.
        tiou: least tIoU of a voter with the segment.

    Returns:
        (N, 2); a segment without voters stays as it is.

    >>> vote(torch.tensor([[0.0, 4.0]]), torch.tensor([[0.0, 4.0], [0.0, 5.0], [7.0, 9.0]]), torch.ones(3), 0.7)
    tensor([[0.0000, 4.5000]])
    """
    weight = (tiou_matrix(segments, voters) >= tiou) * scores
    total = weight.sum(dim=1, keepdim=True)
    return torch.where(total > 0, weight @ voters / total.clamp(min=torch.finfo(total.dtype).tiny), segments)
