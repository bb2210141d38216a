"""The classification-based generator: network, losses, training, proposals.

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

from fustal.contrastive import Snippets, contrast, cross_video_contrast, in_video_contrast, mine_snippets
from fustal.convolution import convolve
from fustal.dataset import Dataset
from fustal.features import FeatureStore, sample_test, sample_train
from fustal.parallel import gather, launch, share
from fustal.params import Params
from fustal.proposals import propose
from fustal.training import epoch_order, fingerprint, fit, generator_of, pick_device, precision, send


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


def generator_loss(score: Tensor, labels: Tensor, snippets: Snippets | None, params: Params) -> dict[str, Tensor]:
    """Video classification plus contrast.

    Args:
        score: video scores (B, C).
        labels: multi-hot (B, C).
        snippets: mined ones of the process's share of the videos, or None for no contrast.
        params: weights, temperature, and which contrast.

    Returns:
        "loss" and its parts.
    """
    parts = {"classification": F.binary_cross_entropy(score, labels / labels.sum(1, keepdim=True).clamp(min=1))}
    if snippets is not None and params.generator_contrast != "none":
        # Each process has its easy snippets, and hears of the hard ones of all videos.
        hard = [gather(part.mean(1, keepdim=True), len(labels)) for part in snippets[2:]]
        contrasts = contrast(Snippets(*snippets[:2], *hard), params.contrast_temperature)
        contrasts = gather(contrasts.T, len(labels)).T
        parts["in_video"] = total = in_video_contrast(contrasts)
        if params.generator_contrast == "cross-video":
            parts["cross_video"] = cross_video_contrast(contrasts, labels)
            total = total + params.cross_video_weight * parts["cross_video"]
        return {"loss": parts["classification"] + params.contrast_weight * total, **parts}
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
    launch(params, params.generator_batch, train_generator, params, dataset, store, folder)
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
        rows, random = chosen(i), generator_of(params.seed, i)
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
    """Training samples (B, count, D) of the process's share of videos, on the device."""
    drawn = [(video, sample_train(store.length(video), count, random).numpy()) for video in videos][share(len(videos))]
    features = torch.empty(len(drawn), count, store.dim, pin_memory=device.type == "cuda")
    for (video, positions), out in zip(drawn, features, strict=True):
        store.read(video, positions, out)
    return send(features, device)


@torch.inference_mode()
def activations(model: Generator, store: FeatureStore, video: str, params: Params) -> Activations:
    """Runs the generator on one video, on evenly spaced snippets where it is long, without the batch axis."""
    device = next(model.parameters()).device
    features = store.read(video, sample_test(store.length(video), params.generator_snippets).numpy())
    with precision(params, device):
        seen = model(send(features[None], device))
    return Activations(*(part[0].cpu() for part in seen))


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
    labels, found = dataset.labels(videos), [np.empty((0, 4))]
    for video, label in zip(videos, labels, strict=True):
        seen = activations(model, store, video, params)
        score = video_score(seen.cas[None], max(1, len(seen.cas) // params.easy_ratio))[0].numpy()
        chosen = (
            np.flatnonzero(label) if known and params.corrected else predicted_classes(score, params.class_threshold)
        )
        seconds = snippet_seconds(store, video, len(seen.cas))
        rows = propose(seen.cas.numpy(), seen.actionness.numpy(), score, chosen, seconds, params)
        if params.corrected:
            rows = centred(rows, store.grid_of(video).to_seconds(0), store.covered(video))
        found.append(rows.to_numpy(float))  # a frame for each video would take ten times the memory
    label, score, start, end = np.concatenate(found).T
    whose = np.repeat(np.array(videos, dtype=object), [len(part) for part in found[1:]])
    what = np.array(dataset.classes, dtype=object)[label.astype(int)]
    return pd.DataFrame({"video": whose, "label": what, "score": score, "start": start, "end": end})


def centred(proposals: pd.DataFrame, first_centre: float, last_end: float) -> pd.DataFrame:
    """Puts proposals where their snippets are: a snippet stands for the middle of its window (METHOD.md section 1).

    The released code lets it stand for the beginning, so that all that it proposes is half a window early.

    Args:
        proposals: frame with start and end (s) after the first snippet; what starts with it starts with the video.
        first_centre: s, when the first snippet is.
        last_end: s, when the window of the last snippet ends. What lies behind is left out.

    >>> centred(pd.DataFrame({"start": [0.0, 2.0, 6.0], "end": [1.0, 5.0, 7.0]}), first_centre=0.5, last_end=5.0)
       start  end
    0    0.0  1.5
    1    2.5  5.0
    """
    start = (proposals.start + first_centre).where(proposals.start > 0, 0)
    end = (proposals.end + first_centre).clip(upper=last_end)
    return proposals.assign(start=start, end=end)[start < end]


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


def mined_embeddings(
    model: Generator, store: FeatureStore, videos: Sequence[str], params: Params
) -> dict[str, np.ndarray]:
    """Embeddings (N, E) of the mined snippets of some videos, by kind: to look at."""
    seen = [Activations(*(part[None] for part in activations(model, store, video, params))) for video in videos]
    kinds = zip(*(mined(part, params) for part in seen), strict=True)
    names = (name.replace("_", " ") for name in Snippets._fields)
    return {name: torch.cat(parts, dim=1)[0].numpy() for name, parts in zip(names, kinds, strict=True)}


def _losses(seen: Activations, labels: Tensor, params: Params) -> dict[str, Tensor]:
    count = max(1, seen.cas.shape[1] // params.easy_ratio)
    score = gather(video_score(seen.cas, count), len(labels))
    return generator_loss(score, labels, mined(seen, params, params.mining_dropout), params)
