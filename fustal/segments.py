"""Pure functions on temporal segments, rows `(start, end)` of an (N, 2) tensor: tIoU, NMS, voting, the IoU score."""

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

LEVEL = 1 << 16
"""How many decays soft-NMS works out at once."""


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
    overlap = torch.minimum(a[:, None, 1], b[None, :, 1]) - torch.maximum(a[:, None, 0], b[None, :, 0])
    overlap = (overlap + plus_one).clamp(min=0)
    union = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None] + 2 * plus_one - overlap
    return torch.where(union > 0, overlap / union, 0.0)


def iou_score(segments: Tensor, weights: Tensor | None = None) -> Tensor:
    """How densely other segments surround each one: the sum of its tIoU with all others (docs/method.md section 3).

    Taught in notebook 02; FuSTAL's prior-based filter keeps the proposals of a video where this is high.

    Args:
        segments: (N, 2) all proposals of one video, whatever their class.
        weights: (N,) how much each counts for the others; 1 if not given.

    Returns:
        (N,) at least 0.

    >>> iou_score(torch.tensor([[0.0, 2.0], [0.0, 2.0], [1.0, 3.0]]))
    tensor([1.3333, 1.3333, 0.6667])
    """
    a, b, tiou = _overlaps(segments.detach().cpu().numpy())
    weight = None if weights is None else weights.detach().cpu().numpy()
    to_a, to_b = (tiou, tiou) if weight is None else (tiou * weight[b], tiou * weight[a])
    score = np.bincount(a, to_a, len(segments)) + np.bincount(b, to_b, len(segments))
    return torch.from_numpy(score.astype(tiou.dtype)).to(segments.device)


def hard_nms(segments: Tensor, scores: Tensor, threshold: float, *, plus_one: bool = False) -> Tensor:
    """Greedy non-maximum suppression: what overlaps a better segment by at least `threshold` goes.

    Args:
        segments: (N, 2) segments of one class.
        scores: (N,) confidences.
        threshold: tIoU, above 0.
        plus_one: the released generator's lengths (docs/method.md section 7: `recipe: published`).

    Returns:
        (K,) indices of what stays, best first.

    >>> hard_nms(torch.tensor([[0.0, 4.0], [0.0, 5.0], [8.0, 9.0]]), torch.tensor([0.2, 0.9, 0.5]), 0.5).tolist()
    [1, 2]
    """
    order = scores.argsort(descending=True, stable=True)
    a, b, tiou = _overlaps(segments[order].detach().cpu().numpy(), plus_one)
    near = tiou >= threshold
    better, worse = np.minimum(a, b)[near], np.maximum(a, b)[near]
    dropped = np.zeros(len(order), bool)
    while len(worse):  # what no better one rivals stays, its rivals go, and so on with the rest
        beaten = np.zeros(len(order), bool)
        beaten[worse] = True
        dropped[worse[~beaten[better]]] = True
        undecided = ~(dropped[better] | dropped[worse])
        better, worse = better[undecided], worse[undecided]
    return order[torch.from_numpy(~dropped).to(order.device)]


def _overlaps(segments: np.ndarray, plus_one: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each pair of rows of an (N, 2) array that overlap, (P,) and (P,), and its tIoU (P,)."""
    order = np.argsort(segments[:, 0], kind="stable")
    start, end = segments[order].T
    reach = np.searchsorted(start, end + plus_one)  # those from the next one up to here begin inside a segment
    count = np.maximum(reach - np.arange(1, len(order) + 1), 0)
    a = np.repeat(np.arange(len(order)), count)
    b = np.arange(len(a)) + np.repeat(reach - np.cumsum(count), count)
    overlap = np.minimum(end[a], end[b]) - start[b] + plus_one
    length = end - start
    return order[a], order[b], overlap / (length[a] + length[b] + 2 * plus_one - overlap)


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

    Classes leave each other alone, so that of many classes the best segment of each is picked in the same step.

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
    arrays = (part.detach().cpu().numpy() for part in (segments, scores, groups))
    found = _soft_picks(*arrays, sigma, min_score, max_segments)
    picked, decayed = (torch.from_numpy(part).to(segments.device) for part in found)
    result = segments[picked]
    if voting_tiou is not None:
        result = vote(result, segments, scores, voting_tiou)
    return result, decayed, labels[picked]


def _soft_picks(
    segments: np.ndarray, scores: np.ndarray, groups: np.ndarray, sigma: float, min_score: float, max_segments: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (K,) that soft-NMS picks, in order, and their decayed scores (K,).

    Scores lie in cells: a group's segments by start, then `width` empty cells, so that all that a segment can overlap
    is in one window of `width` cells. The work goes down through levels of the score: the decays by a level's
    candidates are computed at once, and what an early stop leaves unpicked costs nothing.
    """
    if not len(scores):
        return np.zeros(0, int), scores
    order, group, first, width = _neighbourhoods(segments, groups)
    size = np.bincount(group)
    in_step = 4 * size.max() < len(order)
    room = width + (np.full_like(size, size.max()) if in_step else size)
    shift = (np.cumsum(room - size) - room + size)[group]
    cell = np.arange(len(order)) + shift
    score, index = np.full(room.sum(), -np.inf, scores.dtype), np.zeros(room.sum(), int)
    score[cell], index[cell] = scores[order], np.arange(len(order))
    start, end = np.concatenate([segments[order], np.zeros((width, 2), segments.dtype)]).T
    around = _windows(np.stack([start, end, np.maximum(end - start, 1e-12)]), width)
    decay, new = np.empty((len(order), width), scores.dtype), np.ones(len(order), bool)
    batch, floor, picks = min(LEVEL // width + 1, max_segments), np.inf, [(order[:0], score[:0])]
    while floor > min_score and sum(len(picked) for picked, _ in picks) < max_segments:
        left = score[cell]
        floor = max(np.partition(left, -batch)[-batch], min_score) if batch < len(left) else min_score
        fresh = np.flatnonzero(new & (left >= floor))
        new[fresh], decay[fresh] = False, _decays(around, fresh, first, scores.dtype.type(-1 / sigma))
        pick = _pick_in_step if in_step else _pick_one_by_one
        picks.append(pick(score.reshape(len(size) if in_step else 1, -1), index, first + shift, decay, floor))
    picked, decayed = (np.concatenate(part)[:max_segments] for part in zip(*picks, strict=True))
    return order[picked], decayed


def _neighbourhoods(segments: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Sorts by group and start, so that what can overlap a segment lies in one slice around it.

    Returns:
        The order that sorts, the number of the group and the first of the slice of each (N,), the longest slice.
    """
    start, end = segments.T.astype(float)
    apart = groups * (segments.max() - segments.min() + 1.0)
    order = np.argsort(apart + start, kind="stable")
    key, reach, groups = (apart + start)[order], (apart + np.maximum(start, end))[order], groups[order]
    group = np.zeros(len(order), int)
    np.cumsum(groups[1:] != groups[:-1], out=group[1:])
    first = np.searchsorted(np.maximum.accumulate(reach), key)
    return order, group, first, np.max(np.searchsorted(key, reach, side="right") - first)


def _windows(values: np.ndarray, width: int) -> np.ndarray:
    """View (…, N - width + 1, width) of the windows of an array (…, N): a quick `sliding_window_view` to write to."""
    shape = (*values.shape[:-1], values.shape[-1] - width + 1, width)
    return as_strided(values, shape, (*values.strides, values.strides[-1]))


def _decays(around: np.ndarray, i: np.ndarray, first: np.ndarray, scale: np.floating) -> np.ndarray:
    """Factors (R, width) that the picks `i` bring to the scores from their `first` neighbour on."""
    start, end, length = around[:, i, :1]
    near_start, near_end, near_length = (part[first[i]] for part in around)
    overlap = np.minimum(near_end, end, out=near_end)
    overlap -= np.maximum(near_start, start, out=near_start)
    np.maximum(overlap, 0, out=overlap)
    near_length += length
    near_length -= overlap
    overlap /= near_length
    overlap *= np.multiply(scale, overlap, out=near_length)
    np.exp(overlap, out=overlap)
    return np.maximum(overlap, np.finfo(overlap.dtype).tiny, out=overlap)  # a picked score of -inf stays so


def _pick_in_step(
    table: np.ndarray, index: np.ndarray, begin: np.ndarray, decay: np.ndarray, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Picks the best of every row of the table of scores in each step, down to the floor; sorted by score."""
    score, corner = table.reshape(-1), np.arange(len(table)) * table.shape[1]
    near, limit = _windows(score, decay.shape[1]), np.full(len(table), floor, score.dtype)
    cells, values = [], []
    while True:
        best = table.argmax(axis=1) + corner
        value = score[best]
        cells.append(best)
        values.append(value)
        best = best[value >= limit]
        if not len(best):
            break
        i = index[best]
        window = begin[i]
        near[window] = near[window] * decay.take(i, axis=0)
        score[best] = -np.inf
    value = np.array(values).T.reshape(-1)  # by row, as of equal scores the first row's goes first
    best = np.argsort(-value, kind="stable")[: np.count_nonzero(value >= floor)]
    return index[np.array(cells).T.reshape(-1)[best]], value[best]


def _pick_one_by_one(
    table: np.ndarray, index: np.ndarray, begin: np.ndarray, decay: np.ndarray, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Picks the best of all, one after the other, down to the floor."""
    score, picks, values = table[0], [], []
    near = _windows(score, decay.shape[1])
    while (value := score[best := score.argmax()]) >= floor:
        i = index[best]
        window = near[begin[i]]
        np.multiply(window, decay[i], out=window)
        score[best] = -np.inf
        picks.append(i)
        values.append(value)
    return np.array(picks, int), np.array(values, score.dtype)


def vote(segments: Tensor, voters: Tensor, scores: Tensor, tiou: float) -> Tensor:
    """Replaces each segment by the average of the voters around it, weighted by their scores (docs/method.md section 4).

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
    overlap = tiou_matrix(segments, voters)
    weight = (overlap >= tiou) * scores
    total = weight.sum(dim=1, keepdim=True)
    return torch.where(total > 0, weight @ voters / total.clamp(min=torch.finfo(total.dtype).tiny), segments)
