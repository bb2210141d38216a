"""The classification-based generator: network, snippet mining, contrast, losses, training.

Taught in notebook 01. Source: paper section 3.2; docs/method.md section 2.
"""

from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fustal.data.features import FeatureStore, sample_test
from fustal.engine.checkpoint import fingerprint, save_module
from fustal.engine.cpu import Conv1d, dropout
from fustal.engine.device import batch_of_step, pick_device, precision, random_generator, send
from fustal.engine.loop import Loop
from fustal.engine.video_score import first_fitting, pooled_ratios, video_loss, video_scores, with_video_score
from fustal.engine.videos import sample_batch
from fustal.params import Params, parse_ratios


class Activations(NamedTuple):
    """The generator's output for a batch; CAS and actionness are float32, whatever the arithmetic of the network."""

    embeddings: Tensor  # (B, T, E)
    cas: Tensor  # (B, T, C) class activation sequence
    actionness: Tensor  # (B, T)


SECOND = 2**30
"""Added to the seed for the second generator, whose agreement with the first chooses `label_share`."""

RARE = -2.0
"""Logit of every class at the start, against 0 of the background: at a snippet each single class is rare."""


class Generator(nn.Module):
    """Two convolutions: snippets to embeddings, embeddings to class activations.

    Args:
        in_dim: features per snippet, D.
        num_classes: C.
        dim: width of the embeddings, E.
        dropout: share of the embeddings that are dropped before the second convolution.
        probabilities: activations are probabilities, see `class_probabilities`, for `video_score: sigmoid`; else they
            are at least 0, and only their differences between classes count.

    Attributes:
        first_ratio: (C,) index of the first of `score_ratios` that a class uses, see `pooled_ratios`.
        class_minimum: (C,) the video score from which on a class gets proposals in a video of unknown classes.
    """

    def __init__(self, in_dim: int, num_classes: int, dim: int, dropout: float, *, probabilities: bool = False) -> None:
        super().__init__()
        self.embed = Conv1d(in_dim, dim, 3)
        self.dropout = dropout
        self.classify = nn.Conv1d(dim, num_classes, 1, bias=probabilities)
        if self.classify.bias is not None:
            nn.init.constant_(self.classify.bias, RARE)
        self.first_ratio: Tensor
        self.register_buffer("first_ratio", torch.zeros(num_classes, dtype=torch.long))
        self.class_minimum: Tensor
        self.register_buffer("class_minimum", torch.zeros(num_classes))
        self.arithmetic: AbstractContextManager[object] = nullcontext()

    @classmethod
    def from_params(cls, params: Params, in_dim: int, num_classes: int) -> "Generator":
        """A new generator with the sizes, and on the device and in the arithmetic, of the parameters."""
        device = pick_device(params)
        probabilities = params.video_score == "sigmoid"
        model = cls(in_dim, num_classes, params.generator_dim, params.generator_dropout, probabilities=probabilities)
        model.arithmetic = precision(params, device)
        return model.to(device)

    def forward(self, features: Tensor) -> Activations:
        """Maps features (B, T, D) to embeddings, class activation sequence and actionness."""
        with self.arithmetic:
            embeddings = F.relu(self.embed(features), inplace=True)
            kept = dropout(embeddings, self.dropout) if self.training else embeddings
            # A kernel of one snippet is a product.
            logits = F.linear(kept, self.classify.weight[..., 0], self.classify.bias).float()
        cas = F.relu(logits) if self.classify.bias is None else class_probabilities(logits)
        return Activations(embeddings, cas, cas.sum(2))


def class_probabilities(logits: Tensor) -> Tensor:
    """Probability of each class at each snippet, against the other classes and the background, whose logit is 0.

    A sigmoid for each class alone would let classes that often occur in the same videos take the same snippets
    (docs/method.md section 9).

    Args:
        logits: (..., C).

    Returns:
        The same shape; the sum over classes is at most 1, up to rounding. Of one class alone it is the sigmoid.

    >>> class_probabilities(torch.tensor([[0.0], [2.0]]).expand(2, 1)).flatten(), torch.tensor([0.0, 2.0]).sigmoid()
    (tensor([0.5000, 0.8808]), tensor([0.5000, 0.8808]))
    """
    return F.pad(logits, (1, 0)).softmax(dim=-1)[..., 1:]


def video_score(cas: Tensor, ratios: Tensor, params: Params) -> Tensor:
    """The score of each class in each video, averaged over its ratios.

    Args:
        cas: (B, T, C).
        ratios: (K, C), see `pooled_ratios`.
        params: `video_score`, not "auto".

    Returns:
        (B, C); softmax: each row sums to 1.
    """
    return _scores(cas, ratios, params).mean(0)


def _scores(cas: Tensor, ratios: Tensor, params: Params) -> Tensor:
    """See `video_scores`; (K, B, C)."""
    snippets = torch.full((len(cas), 1), cas.shape[1], device=cas.device)
    return video_scores(cas.mT, snippets, ratios, params)


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
    padded = F.pad(binary, (before, size - 1 - before))
    return F.max_pool1d(padded, size, stride=1)


def erode(binary: Tensor, size: int) -> Tensor:
    """Binary erosion along time by a structure of `size` ones; outside of the sequence counts as 0.

    >>> erode(torch.tensor([[0.0, 1, 1, 1, 0]]), 3)
    tensor([[0., 0., 1., 0., 0.]])
    """
    before = size // 2
    inverse = F.pad(1 - binary, (before, size - 1 - before), value=1.0)
    return 1 - F.max_pool1d(inverse, size, stride=1)


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
    # Half of the snippets lie above the median, whatever the level of the activations is.
    median = actionness.quantile(0.5, dim=1, keepdim=True)
    binary = (actionness > median).to(actionness.dtype)
    # The inner border is what a large erosion removes and a small one keeps; the outer border likewise by dilation.
    inner_border = erode(binary, small) - erode(binary, large)
    outer_border = dilate(binary, large) - dilate(binary, small)
    chosen = [
        (actionness * keep).topk(k_easy, dim=1).indices,
        ((peak - actionness) * keep).topk(k_easy, dim=1).indices,
        (actionness * inner_border).topk(k_hard, dim=1).indices,
        (actionness * outer_border).topk(k_hard, dim=1).indices,
    ]
    # One gather for all four: the gradient of each would fill a tensor of the size of the embeddings.
    batch, length, _ = embeddings.shape
    starts = torch.arange(batch, device=embeddings.device)[:, None] * length
    rows = (torch.cat(chosen, dim=1) + starts).flatten()
    taken = embeddings.flatten(0, 1).index_select(0, rows).float().unflatten(0, (batch, -1))
    return Snippets(*taken.split([k_easy, k_easy, k_hard, k_hard], dim=1))


def mined(output: Activations, params: Params, dropout: float = 0.0) -> Snippets:
    """The easy and hard snippets of a batch, see `mine_snippets`; their numbers are shares of its length."""
    length = output.cas.shape[1]
    return mine_snippets(
        output.embeddings,
        output.actionness,
        k_easy=max(1, length // params.easy_ratio),
        k_hard=max(1, length // params.hard_ratio),
        small=params.erosion_small,
        large=params.erosion_large,
        dropout=dropout,
    )


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
    query = F.normalize(queries.mean(1), dim=1)
    key = F.normalize(keys.mean(1), dim=1)
    positive = (key @ query.T)[:, None]  # (Q, 1, P)
    # The products are divided by the lengths: normalised negatives would be another tensor of their size.
    length = torch.linalg.vector_norm(negatives, dim=2, keepdim=True).clamp(min=1e-12)
    negative = negatives @ query.T / length  # (Q, n, P)
    logits = torch.cat([positive, negative], dim=1) / temperature
    return (logits.logsumexp(1) - logits[:, 0]).T


def contrast(snippets: Snippets, temperature: float) -> Tensor:
    """Pulls hard action towards easy action and away from easy background; hard background with both exchanged.

    Args:
        snippets: of the batch.
        temperature: tau.

    Returns:
        (B, B), the sum of both InfoNCE: [p, q] contrasts the hard snippets of video p with the easy ones of video q.
    """
    easy_action, easy_background, hard_action, hard_background = snippets
    action = info_nce(hard_action, easy_action, easy_background, temperature)
    background = info_nce(hard_background, easy_background, easy_action, temperature)
    return action + background


def in_video_contrast(contrasts: Tensor) -> Tensor:
    """Mean of the contrast (B, B) of each video with itself."""
    return contrasts.diagonal().mean()


def equal_label_pairs(labels: Tensor) -> Tensor:
    """Unordered pairs of videos with identical multi-hot labels (B, C), at least one; (P, 2).

    Videos without a class have no action, so there is none to compare.

    >>> equal_label_pairs(torch.tensor([[1, 0], [0, 0], [1, 0], [0, 0]]))
    tensor([[0, 2]])
    """
    equal = (labels[:, None] == labels[None]).all(2) & labels.any(dim=1)
    return equal.triu(1).nonzero()


def cross_video_contrast(contrasts: Tensor, labels: Tensor) -> Tensor:
    """The hard snippets of one video against the easy ones of another with the same labels, both ways.

    The paper's first contribution: hard snippets of one video are compared with easy snippets of another.

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


def generator_loss(score: Tensor, labels: Tensor, snippets: Snippets, params: Params) -> dict[str, Tensor]:
    """Video classification plus contrast.

    Args:
        score: video scores (R, B, C), see `video_scores`.
        labels: multi-hot (B, C).
        snippets: the mined ones.
        params: `video_score`, weights, temperature, and which contrast.

    Returns:
        Scalars "loss" (the weighted sum), "classification", and, where they are used, "in_video" and "cross_video".
    """
    loss = video_loss(score, labels, params)
    parts = {"classification": loss}
    if params.generator_contrast != "none":
        contrasts = contrast(snippets, params.contrast_temperature)
        total = in_video_contrast(contrasts)
        parts["in_video"] = total
        if params.generator_contrast == "cross-video":
            parts["cross_video"] = cross_video_contrast(contrasts, labels)
            total = total + params.cross_video_weight * parts["cross_video"]
        loss = loss + params.contrast_weight * total
    return {"loss": loss, **parts}


def batch_losses(output: Activations, labels: Tensor, ratios: Tensor, params: Params) -> dict[str, Tensor]:
    """The losses of a batch, see `generator_loss`, from the output of the network.

    Args:
        output: of the generator.
        labels: multi-hot (B, C).
        ratios: (K, C), see `pooled_ratios`.
        params: `video_score`, and those of mining and contrast.
    """
    snippets = mined(output, params, params.mining_dropout)
    return generator_loss(_scores(output.cas, ratios, params), labels, snippets, params)


def train_generator(params: Params, store: FeatureStore, folder: Path) -> tuple[Generator, pd.DataFrame]:
    """Trains the generator on the training videos and their video-level labels.

    Args:
        params: of the run.
        store: features on the generator's grid.
        folder: receives the weights, `model.safetensors`, the log and the checkpoints.

    Returns:
        The generator after the last step, in eval mode, and the training log.
    """
    params = with_video_score(params, store.dataset)
    videos = store.dataset.split("train")
    labels = torch.from_numpy(store.dataset.labels(videos))
    torch.manual_seed(params.seed)
    model = Generator.from_params(params, store.dim, len(store.dataset.classes))
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(
        model.parameters(), params.generator_lr, (0.9, 0.999), weight_decay=params.generator_weight_decay, fused=True
    )

    # A batch depends on seed and step alone: a resumed training sees the same batches.
    def load(step: int) -> tuple[list[str], Tensor, Tensor]:
        rows = batch_of_step(len(videos), params.generator_batch, step, params.seed)
        names = [videos[row] for row in rows]
        random = random_generator(params.seed, step)
        features = sample_batch(store, names, params.generator_snippets, random, device)
        return names, features, send(labels[rows], device)

    steps = range(params.generator_steps)
    modules = {"generator": model}
    loop = Loop("generator", steps, params.seed, folder, modules, optimizer, about=fingerprint(params))
    with closing(loop.batches(load)) as batches:
        for step, (names, features, multi_hot) in batches:
            if step == steps.stop // 2:
                model.first_ratio.copy_(fitting_ratios(model, store, labels, params))
            model.train()
            losses = batch_losses(model(features), multi_hot, pooled_ratios(model.first_ratio, params), params)
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            loop.record(step, losses, names)  # an error here leaves the weights as they were
            optimizer.step()
            loop.save(step)
    model.eval()
    model.class_minimum.copy_(class_minimum(model, store, labels, params))
    save_module(model, folder / "model.safetensors")
    return model, loop.log()


def fitting_ratios(model: Generator, store: FeatureStore, labels: Tensor, params: Params) -> Tensor:
    """The first of `score_ratios` that fits each class, by what the generator has learned so far; (C,).

    How far a class fills its top snippets is their mean activation in its training videos, over that of the highest
    ones (docs/method.md section 9).

    Args:
        model: the generator in training.
        store: features on the generator's grid.
        labels: multi-hot labels of the training videos (N, C).
        params: `score_ratios`.
    """
    model.eval()
    ratios = parse_ratios(params.score_ratios)
    means = torch.zeros(len(ratios), labels.shape[1])
    for video, occurs in zip(store.dataset.split("train"), labels, strict=True):
        cas = activations(model, store, video, params).cas[0]
        for row, ratio in zip(means, ratios, strict=True):
            row += occurs * cas.topk(max(1, len(cas) // ratio), dim=0).values.mean(0)
    return first_fitting(means / means[-1:].clamp(min=1e-12))


def class_minimum(model: Generator, store: FeatureStore, labels: Tensor, params: Params) -> Tensor:
    """The video score from which on a class is taken to occur, for each class (C,).

    Softmax: `class_threshold`, as in the paper. Sigmoid: a score depends on how much of a video its class fills, so
    that no number fits all. It is halfway between the mean score of the training videos with the class and of those
    without it; 1 for a class that no training video has.

    Args:
        model: the trained generator.
        store: features on the generator's grid.
        labels: multi-hot labels of the training videos (N, C).
        params: `video_score`, not "auto", `score_ratios` and `class_threshold`.
    """
    if params.video_score == "softmax":
        return torch.full((labels.shape[1],), params.class_threshold)
    ratios = pooled_ratios(model.first_ratio.cpu(), params)
    rows = []
    for video in store.dataset.split("train"):
        rows.append(video_score(activations(model, store, video, params).cas, ratios, params))
    scores = torch.cat(rows)
    middle = torch.zeros(labels.shape[1])
    for occurs in (labels, 1 - labels):
        middle += (scores * occurs).sum(0) / occurs.sum(0).clamp(min=1) / 2
    return torch.where(labels.any(dim=0), middle, 1.0)


@torch.inference_mode()
def activations(model: Generator, store: FeatureStore, video: str, params: Params) -> Activations:
    """Runs the generator on one video, on evenly spaced snippets where it is long: a batch of one."""
    device = next(model.parameters()).device
    positions = sample_test(store.length(video), params.generator_snippets)
    features = store.read(video, positions.numpy())
    output = model(send(features[None], device))
    return Activations(output.embeddings.cpu(), output.cas.cpu(), output.actionness.cpu())
