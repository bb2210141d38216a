"""The classification-based generator: network, snippet mining, in-video and cross-video contrast, training.

Taught in notebook 01. Source: paper section 3.2; METHOD.md section 2.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fustal.annotations import Dataset
from fustal.features import FeatureStore, sample_test, sample_train
from fustal.params import Params
from fustal.proposals import propose
from fustal.training import epoch_order, fit, pick_device


class Activations(NamedTuple):
    """What the generator sees in a batch: embeddings (B, T, E), CAS (B, T, C), actionness (B, T)."""

    embeddings: Tensor
    cas: Tensor
    actionness: Tensor


class Snippets(NamedTuple):
    """Embeddings (B, k, E) of the mined snippets."""

    easy_action: Tensor
    easy_background: Tensor
    hard_action: Tensor
    hard_background: Tensor


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
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Conv1d(dim, num_classes, 1, bias=False)

    @classmethod
    def from_params(cls, params: Params, in_dim: int, num_classes: int) -> "Generator":
        """The generator that the parameters describe."""
        return cls(in_dim, num_classes, params.generator_dim, params.generator_dropout)

    def forward(self, features: Tensor) -> Activations:
        """Features (B, T, D) to embeddings, class activation sequence and actionness."""
        embeddings = F.relu(self.embed(features.mT))
        cas = F.relu(self.classify(self.dropout(embeddings))).mT
        return Activations(embeddings.mT, cas, cas.sum(2))


def video_score(cas: Tensor, k: int) -> Tensor:
    """Softmax over classes of the mean of each class's top-k activations.

    Args:
        cas: (B, T, C).
        k: how many snippets speak for the video.

    Returns:
        (B, C), each row sums to 1.
    """
    return cas.topk(k, dim=1).values.mean(1).softmax(1)


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
    """
    keep = F.dropout(torch.ones_like(actionness), dropout, training=dropout > 0)
    peak = actionness.amax(1, keepdim=True)
    binary = (actionness > actionness.quantile(0.5, dim=1, keepdim=True)).to(actionness.dtype)
    inner = erode(binary, small) - erode(binary, large)
    outer = dilate(binary, large) - dilate(binary, small)
    return Snippets(
        _take(embeddings, actionness * keep, k_easy),
        _take(embeddings, (peak - actionness) * keep, k_easy),
        _take(embeddings, actionness * inner, k_hard),
        _take(embeddings, actionness * outer, k_hard),
    )


def in_video_contrast(snippets: Snippets, temperature: float) -> Tensor:
    """Hard action should look like easy action, hard background like easy background, each against the other.

    Returns:
        InfoNCE of both, averaged over the batch.
    """
    ea, eb, ha, hb = snippets
    return info_nce(ha, ea, eb, temperature) + info_nce(hb, eb, ea, temperature)


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE with cosine similarity; query and key are the means over snippets, negatives stay single.

    Args:
        queries: (B, k, E).
        keys: (B, k', E).
        negatives: (B, n, E).
        temperature: tau.
    """
    query, key = F.normalize(queries.mean(1), dim=1), F.normalize(keys.mean(1), dim=1)
    positive = (query * key).sum(1, keepdim=True)  # (B, 1)
    negative = torch.einsum("be,bne->bn", query, F.normalize(negatives, dim=2))
    logits = torch.cat([positive, negative], dim=1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def equal_label_pairs(labels: Tensor) -> Tensor:
    """Unordered pairs of videos with identical multi-hot labels.

    >>> equal_label_pairs(torch.tensor([[1, 0], [0, 1], [1, 0]]))
    tensor([[0, 2]])
    """
    return (labels[:, None] == labels[None]).all(2).triu(1).nonzero()


def cross_video_contrast(snippets: Snippets, labels: Tensor, temperature: float) -> Tensor:
    """The hard snippets of one video against the easy ones of another with the same labels, both ways.

    The paper's first contribution: what is at a border in one video is compared with what is certain in another.

    Args:
        snippets: of the batch.
        labels: multi-hot (B, C).
        temperature: tau.

    Returns:
        Mean over all pairs; 0 where the batch has none.
    """
    first, second = equal_label_pairs(labels).unbind(1)
    if not len(first):
        return snippets.easy_action.new_zeros(())
    easy, hard = torch.cat([first, second]), torch.cat([second, first])
    ea, eb, ha, hb = snippets
    return in_video_contrast(Snippets(ea[easy], eb[easy], ha[hard], hb[hard]), temperature)


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
        parts["in_video"] = in_video_contrast(snippets, params.contrast_temperature)
        contrast = parts["in_video"]
        if params.generator_contrast == "cross-video":
            parts["cross_video"] = cross_video_contrast(snippets, labels, params.contrast_temperature)
            contrast = contrast + params.cross_video_weight * parts["cross_video"]
        return {"loss": parts["classification"] + params.contrast_weight * contrast, **parts}
    return {"loss": parts["classification"], **parts}


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
    labels = torch.from_numpy(dataset.labels(videos))
    torch.manual_seed(params.seed)
    model = Generator.from_params(params, store.dim, len(dataset.classes)).to(device)
    optimizer = torch.optim.Adam(
        model.parameters(), params.generator_lr, (0.9, 0.999), weight_decay=params.generator_weight_decay
    )

    def step(i: int) -> dict[str, Tensor]:
        chosen = batch_of_step(len(videos), params.generator_batch, i, params.seed)
        features = torch.stack([_sample(store, videos[n], params.generator_snippets) for n in chosen])
        return _losses(model(features.to(device)), labels[chosen].to(device), params)

    log = fit(
        step,
        {"generator": model},
        optimizer,
        last_step=params.generator_steps,
        seed=params.seed,
        folder=folder,
        description="generator",
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


@torch.inference_mode()
def activations(model: Generator, store: FeatureStore, video: str, count: int) -> Activations:
    """Runs the generator on one video, at most `count` evenly spaced snippets, without the batch axis."""
    features = store[video]
    features = torch.from_numpy(features[sample_test(len(features), count).numpy()])
    device = next(model.parameters()).device
    return Activations(*(part[0].cpu() for part in model(features[None].to(device))))


def localize(
    model: Generator,
    dataset: Dataset,
    store: FeatureStore,
    videos: Sequence[str],
    params: Params,
    *,
    known: bool = False,
) -> pd.DataFrame:
    """Proposals of videos.

    Args:
        model: the trained generator.
        dataset: for names and labels.
        store: features on the generator's grid.
        videos: which.
        params: thresholds and recipe.
        known: the videos' labels are known (training videos): `recipe: corrected` then proposes only those.

    Returns:
        Frame with video, label, score, start (s), end (s).
    """
    labels, frames = dataset.labels(videos), []
    for video, label in zip(videos, labels, strict=True):
        seen = activations(model, store, video, params.generator_snippets)
        score = video_score(seen.cas[None], max(1, len(seen.cas) // params.easy_ratio))[0].numpy()
        chosen = (
            np.flatnonzero(label) if known and params.corrected else predicted_classes(score, params.class_threshold)
        )
        seconds = snippet_seconds(store, video, len(seen.cas))
        rows = propose(seen.cas.numpy(), seen.actionness.numpy(), score, chosen, seconds, params)
        frames.append(rows.assign(video=video, label=[dataset.classes[c] for c in rows.label]))
    return pd.concat(frames, ignore_index=True)[["video", "label", "score", "start", "end"]]


def predicted_classes(score: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the classes with at least this video score, else the best one alone.

    >>> predicted_classes(np.array([0.5, 0.3, 0.2]), 0.25), predicted_classes(np.array([0.5, 0.3, 0.2]), 0.6)
    (array([0, 1]), array([0]))
    """
    return np.flatnonzero(score >= threshold) if (score >= threshold).any() else score.argmax(keepdims=True)


def snippet_seconds(store: FeatureStore, video: str, sampled: int) -> float:
    """Seconds that one sampled snippet stands for."""
    grid = store.grid_of(video)
    return grid.stride * store.length(video) / (sampled * grid.fps)


def _losses(seen: Activations, labels: Tensor, params: Params) -> dict[str, Tensor]:
    length = seen.cas.shape[1]
    snippets = mine_snippets(
        seen.embeddings,
        seen.actionness,
        k_easy=max(1, length // params.easy_ratio),
        k_hard=max(1, length // params.hard_ratio),
        small=params.erosion_small,
        large=params.erosion_large,
        dropout=params.mining_dropout,
    )
    return generator_loss(video_score(seen.cas, max(1, length // params.easy_ratio)), labels, snippets, params)


def _sample(store: FeatureStore, video: str, count: int) -> Tensor:
    features = store[video]
    return torch.from_numpy(features[sample_train(len(features), count).numpy()])


def _take(embeddings: Tensor, score: Tensor, k: int) -> Tensor:
    chosen = score.topk(k, dim=1).indices
    return embeddings.gather(1, chosen[..., None].expand(-1, -1, embeddings.shape[2]))
