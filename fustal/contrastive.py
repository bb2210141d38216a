"""Contrastive learning: snippets that are certain or doubtful, and which should look alike (METHOD.md section 2).

Taught in notebook 01. Within a video it is CoLA's contrast (Zhang et al., CVPR 2021); across videos the paper's first
contribution.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Snippets(NamedTuple):
    """Embeddings (B, k, E) of the mined snippets."""

    easy_action: Tensor
    easy_background: Tensor
    hard_action: Tensor
    hard_background: Tensor


def dilate(binary: Tensor, size: int) -> Tensor:
    """Binary dilation along time by a structure of `size` ones (scipy.ndimage's convention for even sizes).

    >>> dilate(torch.tensor([[0.0, 0, 1, 0, 0]]), 3)
    tensor([[0., 1., 1., 1., 0.]])
    """
    before = (size - 1) // 2
    return F.max_pool1d(F.pad(binary, (before, size - 1 - before)), size, stride=1)


def erode(binary: Tensor, size: int) -> Tensor:
    """Binary erosion along time by a structure of `size` ones; outside of the sequence counts as 0.

    >>> erode(torch.tensor([[0.0, 1, 1, 1, 0]]), 3)
    tensor([[0., 0., 1., 0., 0.]])
    """
    before = size // 2
    outside = F.pad(1 - binary, (before, size - 1 - before), value=1.0)
    return 1 - F.max_pool1d(outside, size, stride=1)


def mine_snippets(
    embeddings: Tensor, actionness: Tensor, *, k_easy: int, k_hard: int, small: int, large: int, dropout: float = 0.0
) -> Snippets:
    """Picks the snippets that are certainly action or background, and those at the inner and outer borders.

    Args:
        embeddings: (B, T, E).
        actionness: (B, T).
        k_easy: easy snippets per video.
        k_hard: hard snippets per video.
        small: m, length of the smaller erosion and dilation.
        large: M, length of the larger ones.
        dropout: of the mask of ones that both easy choices share.

    Returns:
        Their embeddings, float32.
    """
    keep = F.dropout(torch.ones_like(actionness), dropout, training=dropout > 0)
    peak = actionness.amax(1, keepdim=True)
    binary = (actionness > actionness.quantile(0.5, dim=1, keepdim=True)).to(actionness.dtype)
    inner = erode(binary, small) - erode(binary, large)
    outer = dilate(binary, large) - dilate(binary, small)
    scores = [
        (actionness * keep, k_easy),
        ((peak - actionness) * keep, k_easy),
        (actionness * inner, k_hard),
        (actionness * outer, k_hard),
    ]
    return _take(embeddings, [score.topk(k, dim=1).indices for score, k in scores])


def contrast(snippets: Snippets, temperature: float) -> Tensor:
    """Hard action should look like easy action, hard background like easy background, each against the other.

    Args:
        snippets: of the batch.
        temperature: tau.

    Returns:
        (B, B), the sum of both InfoNCE: [p, q] contrasts the hard snippets of video p with the easy ones of video q.
    """
    ea, eb, ha, hb = snippets
    return info_nce(ha, ea, eb, temperature) + info_nce(hb, eb, ea, temperature)


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE with cosine similarity; query and key are the means over snippets, negatives stay single.

    Args:
        queries: (P, k, E).
        keys: (Q, k', E).
        negatives: (Q, n, E).
        temperature: tau.

    Returns:
        (P, Q), the queries of each video against keys and negatives of each.
    """
    query, key = F.normalize(queries.mean(1), dim=1), F.normalize(keys.mean(1), dim=1)
    positive = (key @ query.T)[:, None]  # (Q, 1, P)
    length = torch.linalg.vector_norm(negatives, dim=2, keepdim=True).clamp(min=1e-12)
    logits = torch.cat([positive, negatives @ query.T / length], dim=1) / temperature
    return (logits.logsumexp(1) - logits[:, 0]).T


def in_video_contrast(contrasts: Tensor) -> Tensor:
    """Mean of the contrast (B, B) of each video with itself."""
    return contrasts.diagonal().mean()


def equal_label_pairs(labels: Tensor) -> Tensor:
    """Unordered pairs of videos with identical multi-hot labels.

    >>> equal_label_pairs(torch.tensor([[1, 0], [0, 1], [1, 0]]))
    tensor([[0, 2]])
    """
    return (labels[:, None] == labels[None]).all(2).triu(1).nonzero()


def cross_video_contrast(contrasts: Tensor, labels: Tensor) -> Tensor:
    """The hard snippets of one video against the easy ones of another with the same labels, both ways.

    The paper's first contribution: what is at a border in one video is compared with what is certain in another.

    Args:
        contrasts: of each video with each, (B, B).
        labels: multi-hot (B, C).

    Returns:
        Mean over all pairs; 0 where the batch has none.
    """
    first, second = equal_label_pairs(labels).unbind(1)
    if not len(first):
        return contrasts.new_zeros(())
    return (contrasts[first, second] + contrasts[second, first]).mean() / 2


def _take(embeddings: Tensor, chosen: Sequence[Tensor]) -> Snippets:
    """Snippets (B, k, E) at positions (B, k), gathered at once: each gather's gradient fills all of (B, T, E)."""
    starts = torch.arange(len(embeddings), device=embeddings.device)[:, None] * embeddings.shape[1]
    taken = embeddings.flatten(0, 1).index_select(0, (torch.cat(chosen, dim=1) + starts).flatten()).float()
    return Snippets(*taken.unflatten(0, (len(embeddings), -1)).split([part.shape[1] for part in chosen], dim=1))
