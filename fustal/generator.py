"""The classification-based generator: network, losses, training, proposals.

Taught in notebook 01. Source: paper section 3.2; docs/method.md section 2.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fustal.data.cards import Dataset
from fustal.data.features import FeatureStore, sample_test, sample_train
from fustal.engine.checkpoint import fingerprint
from fustal.engine.cpu import convolve
from fustal.engine.device import epoch_order, pick_device, precision, random_generator, send
from fustal.engine.loop import fit
from fustal.params import Params


class Activations(NamedTuple):
    """What the generator sees in a batch: embeddings (B, T, E), CAS (B, T, C), actionness (B, T).

    The latter two are float32, whatever the network's arithmetic.
    """

    embeddings: Tensor
    cas: Tensor
    actionness: Tensor


class Generator(nn.Module):
    """Two convolutions: snippets to embeddings, embeddings to class activations.

    Args:
        in_dim: features per snippet, D.
        num_classes: C.
        dim: width of the embeddings, E.
        dropout: between the two.
    """

    def __init__(self, in_dim: int, num_classes: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Conv1d(in_dim, dim, 3, padding=1)
        self.dropout = dropout
        self.classify = nn.Conv1d(dim, num_classes, 1, bias=False)

    @classmethod
    def from_params(cls, params: Params, in_dim: int, num_classes: int) -> "Generator":
        """The generator that the parameters describe."""
        return cls(in_dim, num_classes, params.generator_dim, params.generator_dropout)

    def forward(self, features: Tensor) -> Activations:
        """Features (B, T, D) to embeddings, class activation sequence and actionness."""
        embeddings = F.relu(convolve(features, self.embed.weight, self.embed.bias), inplace=True)
        seen = dropout(embeddings, self.dropout) if self.training else embeddings
        cas = F.relu(F.linear(seen, self.classify.weight[..., 0])).float()
        return Activations(embeddings, cas, cas.sum(2))


def dropout(x: Tensor, share: float) -> Tensor:
    """Dropout, on a CPU from 16 random bits a value: they are drawn ten times as fast as PyTorch draws a decision.

    Args:
        x: of any shape.
        share: of the values that become 0; on a CPU a multiple of 2**-16.

    Returns:
        The others, divided by their share.
    """
    if x.device.type != "cpu":
        return F.dropout(x, share)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = round(share * 2**16)
    kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
    return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))


def video_score(cas: Tensor, k: int) -> Tensor:
    """Softmax over classes of the mean of each class's top-k activations.

    Args:
        cas: (B, T, C).
        k: how many snippets speak for the video.

    Returns:
        (B, C), each row sums to 1.
    """
    return cas.topk(k, dim=1).values.mean(1).softmax(1)


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


def mined(seen: Activations, params: Params, dropout: float = 0.0) -> Snippets:
    """The certain and the doubtful snippets of a batch, see `mine_snippets`; their numbers are shares of its length."""
    length = seen.cas.shape[1]
    return mine_snippets(
        seen.embeddings,
        seen.actionness,
        k_easy=max(1, length // params.easy_ratio),
        k_hard=max(1, length // params.hard_ratio),
        small=params.erosion_small,
        large=params.erosion_large,
        dropout=dropout,
    )


def _take(embeddings: Tensor, chosen: Sequence[Tensor]) -> Snippets:
    """Snippets (B, k, E) at positions (B, k), gathered at once: each gather's gradient fills all of (B, T, E)."""
    starts = torch.arange(len(embeddings), device=embeddings.device)[:, None] * embeddings.shape[1]
    taken = embeddings.flatten(0, 1).index_select(0, (torch.cat(chosen, dim=1) + starts).flatten()).float()
    return Snippets(*taken.unflatten(0, (len(embeddings), -1)).split([part.shape[1] for part in chosen], dim=1))


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


def generator_loss(score: Tensor, labels: Tensor, snippets: Snippets | None, params: Params) -> dict[str, Tensor]:
    """Video classification plus contrast.

    Args:
        score: video scores (B, C).
        labels: multi-hot (B, C).
        snippets: mined ones, or None for no contrast.
        params: weights, temperature, and which contrast.

    Returns:
        "loss" and its parts.
    """
    parts = {"classification": F.binary_cross_entropy(score, labels / labels.sum(1, keepdim=True).clamp(min=1))}
    if snippets is not None and params.generator_contrast != "none":
        contrasts = contrast(snippets, params.contrast_temperature)
        parts["in_video"] = total = in_video_contrast(contrasts)
        if params.generator_contrast == "cross-video":
            parts["cross_video"] = cross_video_contrast(contrasts, labels)
            total = total + params.cross_video_weight * parts["cross_video"]
        return {"loss": parts["classification"] + params.contrast_weight * total, **parts}
    return {"loss": parts["classification"], **parts}


def _losses(seen: Activations, labels: Tensor, params: Params) -> dict[str, Tensor]:
    count = max(1, seen.cas.shape[1] // params.easy_ratio)
    score = video_score(seen.cas, count)
    return generator_loss(score, labels, mined(seen, params, params.mining_dropout), params)


def train_generator(
    params: Params, dataset: Dataset, store: FeatureStore, folder: Path
) -> tuple[Generator, pd.DataFrame]:
    """Trains the generator on the training videos and their video-level labels.

    Args:
        params: of the run.
        dataset: whose training videos.
        store: features on the generator's grid.
        folder: for the log and the checkpoints.

    Returns:
        The generator after the last step, in eval mode, and the training log.
    """
    device, videos = pick_device(params), dataset.split("train")
    arithmetic = precision(params, device)
    labels = torch.from_numpy(dataset.labels(videos))
    torch.manual_seed(params.seed)
    model = Generator.from_params(params, store.dim, len(dataset.classes)).to(device)
    optimizer = torch.optim.Adam(
        model.parameters(), params.generator_lr, (0.9, 0.999), weight_decay=params.generator_weight_decay, fused=True
    )

    def chosen(i: int) -> list[int]:
        return batch_of_step(len(videos), params.generator_batch, i, params.seed)

    def load(i: int) -> tuple[Tensor, Tensor]:
        rows, random = chosen(i), random_generator(params.seed, i)
        features = sample_batch(store, [videos[n] for n in rows], params.generator_snippets, random, device)
        return features, send(labels[rows], device)

    def step(batch: tuple[Tensor, Tensor], _: int) -> dict[str, Tensor]:
        features, labels = batch
        with arithmetic:
            seen = model(features)
        return _losses(seen, labels, params)

    log = fit(
        load,
        step,
        {"generator": model},
        optimizer,
        last_step=params.generator_steps,
        seed=params.seed,
        folder=folder,
        description="generator",
        about=fingerprint(params),
        videos_of=lambda i: [videos[n] for n in chosen(i)],
    )
    return model.eval(), log


def batch_of_step(count: int, batch: int, step: int, seed: int) -> list[int]:
    """The videos of a step, when epochs of shuffled videos follow each other without a gap.

    >>> sorted(batch_of_step(4, 2, 0, seed=0) + batch_of_step(4, 2, 1, seed=0))
    [0, 1, 2, 3]
    """
    positions = range(step * batch, (step + 1) * batch)
    orders = {epoch: epoch_order(count, epoch, seed) for epoch in {p // count for p in positions}}
    return [int(orders[p // count][p % count]) for p in positions]


def sample_batch(
    store: FeatureStore, videos: Sequence[str], count: int, random: torch.Generator, device: torch.device
) -> Tensor:
    """Training samples (B, count, D) of videos, on the device."""
    features = torch.empty(len(videos), count, store.dim, pin_memory=device.type == "cuda")
    for video, row in zip(videos, features, strict=True):
        positions = sample_train(store.length(video), count, random)
        store.read(video, positions.numpy(), row)
    return send(features, device)


@torch.inference_mode()
def activations(model: Generator, store: FeatureStore, video: str, params: Params) -> Activations:
    """Runs the generator on one video, on evenly spaced snippets where it is long, without the batch axis."""
    device = next(model.parameters()).device
    features = store.read(video, sample_test(store.length(video), params.generator_snippets).numpy())
    with precision(params, device):
        seen = model(send(features[None], device))
    return Activations(*(part[0].cpu() for part in seen))


def mined_embeddings(
    model: Generator, store: FeatureStore, videos: Sequence[str], params: Params
) -> dict[str, np.ndarray]:
    """Embeddings (N, E) of the mined snippets of some videos, by kind: to look at."""
    seen = [Activations(*(part[None] for part in activations(model, store, video, params))) for video in videos]
    kinds = zip(*(mined(part, params) for part in seen), strict=True)
    names = (name.replace("_", " ") for name in Snippets._fields)
    return {name: torch.cat(parts, dim=1)[0].numpy() for name, parts in zip(names, kinds, strict=True)}
