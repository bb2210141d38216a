"""Training sequences and whole videos, as batches of features and labels on the student's grid (docs/method.md section 4).

Taught in notebook 03.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from fustal.data.cards import Dataset
from fustal.data.features import FeatureStore
from fustal.engine.device import epoch_order, random_generator, send
from fustal.engine.loop import load_ahead, progress_bar
from fustal.exceptions import InputError
from fustal.params import Params

CROP_TRIALS = 100
"""Random crops that are tried until one keeps a segment."""

BATCH_SNIPPETS = {"cpu": 4_608, "cuda": 18_432}
"""Snippets, with padding, of the videos that are localised together. On a CPU what a layer makes should stay in its
cache; for a GPU these are eight of the paper's training sequences."""


class Batch(NamedTuple):
    """Training sequences; times in snippets of the sequence."""

    x: Tensor  # (B, T, D) features, without noise, 0 at padding
    mask: Tensor  # (B, T, 1) valid snippets
    segments: list[Tensor]  # per video (N, 2)
    labels: list[Tensor]  # per video (N,)
    video_labels: Tensor  # (B, C) multi-hot
    weights: list[Tensor]  # per video (N,), what each label counts


class TrainingVideos:
    """The training videos with their pseudo labels, as random batches; features are read for each batch.

    Args:
        params: of the run.
        dataset: whose training videos, with their video-level labels, are used.
        store: features on the student's grid.
        pseudo_labels: frame with video, label, score, start (s), end (s). Videos without any stay, as background that
            still has video-level labels.
        device: where the batches go.
    """

    def __init__(
        self, params: Params, dataset: Dataset, store: FeatureStore, pseudo_labels: pd.DataFrame, device: torch.device
    ) -> None:
        self.params, self.store, self.device = params, store, device
        self.videos = dataset.split("train")
        self.video_labels = torch.from_numpy(dataset.labels(self.videos))
        self.labels = pseudo_labels
        self.targets = snippet_targets(pseudo_labels, self.videos, dataset.classes, store)

    @property
    def steps_per_epoch(self) -> int:
        """Batches that it takes to show every video once."""
        return -(-len(self.videos) // self.params.student_batch)

    def batch(self, step: int) -> Batch:
        """The batch of a step, which depends on nothing else; its random crops come from seed and step."""
        chosen, random = self._chosen(step), random_generator(self.params.seed, step)
        crops = [self._crop(self.videos[index], random) for index in chosen]
        longest = max(last - first for first, last, _ in crops)
        samples = [self._sample(self.videos[i], *crop) for i, crop in zip(chosen, crops, strict=True)]
        features, segments, labels, scores = (list(part) for part in zip(*samples, strict=True))
        weights = [label_weights(*pair, self.params) for pair in zip(scores, labels, strict=True)]
        x, mask = pad(features, padded_length(longest, self.params))
        return Batch(
            send(x, self.device),
            send(mask, self.device),
            [send(part, self.device) for part in segments],
            [send(part, self.device) for part in labels],
            send(self.video_labels[chosen], self.device),
            [send(part, self.device) for part in weights],
        )

    def videos_of(self, step: int) -> list[str]:
        """Names of the videos of a step's batch."""
        return [self.videos[index] for index in self._chosen(step)]

    def _chosen(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = epoch_order(len(self.videos), epoch, self.params.seed)
        return order[place * self.params.student_batch :][: self.params.student_batch].tolist()

    def _crop(self, video: str, random: torch.Generator) -> tuple[int, int, Tensor]:
        return random_crop(self.store.length(video), self.targets[video][0], self.params, random)

    def _sample(self, video: str, first: int, last: int, stays: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        segments, labels, scores = self.targets[video]
        features = self.store.read(video, slice(first, last))
        return features, segments[stays].clamp(first, last) - first, labels[stays], scores[stays]


def snippet_targets(
    pseudo_labels: pd.DataFrame, videos: Sequence[str], classes: Sequence[str], store: FeatureStore
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Pseudo labels as tensors on the feature grid.

    Args:
        pseudo_labels: frame with video, label, start (s), end (s), and score, the confidence, if any (else 1).
        videos: which videos.
        classes: class names, in the order of their indices.
        store: knows each video's grid.

    Returns:
        For each video segments (N, 2), snippets, class indices (N,) and confidences (N,); N may be 0.

    Raises:
        InputError: a label is no class.
    """
    wanted = pseudo_labels[pseudo_labels.video.isin(videos)]
    wanted = wanted.assign(score=wanted.get("score", 1.0))
    if not wanted.label.isin(classes).all():
        video, label = wanted.loc[~wanted.label.isin(classes), ["video", "label"]].iloc[0]
        raise InputError(f"pseudo labels: video {video!r}: label {label!r} is no class of the data set")
    index = {name: i for i, name in enumerate(classes)}
    seconds = torch.from_numpy(wanted[["start", "end"]].to_numpy("float32", copy=True))
    labels = torch.tensor([index[name] for name in wanted.label], dtype=torch.long)
    scores = torch.from_numpy(wanted.score.to_numpy("float32", copy=True))
    targets = dict.fromkeys(videos, (seconds[:0], labels[:0], scores[:0]))
    for video, rows in wanted.groupby("video").indices.items():
        targets[video] = store.grid_of(video).to_snippets(seconds[rows]), labels[rows], scores[rows]
    return targets


def label_weights(scores: Tensor, labels: Tensor, params: Params) -> Tensor:
    """What each label of a video counts in the losses.

    Beyond the paper: its confidence over that of the best label of its class in the video, so that the best one counts
    in full and doubtful ones less. The paper's labels count alike.

    Args:
        scores: (N,) confidences; negative ones count 0.
        labels: (N,) classes.
        params: `label_weights`.

    >>> label_weights(torch.tensor([0.4, 0.8, 0.3]), torch.tensor([0, 0, 1]), Params(label_weights="confidence"))
    tensor([0.5000, 1.0000, 1.0000])
    """
    if params.label_weights == "equal":
        return torch.ones_like(scores)
    scores = scores.clamp(min=1e-6)
    return scores / torch.where(labels[:, None] == labels, scores, 0).amax(dim=1) if len(scores) else scores


def random_crop(length: int, segments: Tensor, params: Params, random: torch.Generator) -> tuple[int, int, Tensor]:
    """Chooses a part of a video that keeps at least one of its segments, where it has any and luck allows.

    Args:
        length: snippets of the video.
        segments: (N, 2) snippets; one stays when at least half of it does.
        params: `crop_min`, `max_snippets`.
        random: where the draws come from.

    Returns:
        First snippet, last snippet + 1, and which segments stay (N,), bool.
    """
    share = params.crop_min + (1 - params.crop_min) * torch.rand((), generator=random).item()
    size = min(max(round(length * share), 1), params.max_snippets)
    first = torch.randint(length - size + 1, (CROP_TRIALS, 1), generator=random)
    inside = torch.minimum(segments[:, 1], first + size) - torch.maximum(segments[:, 0], first)  # (trials, N)
    stays = (inside > 0) & (inside >= (segments[:, 1] - segments[:, 0]) / 2)
    trial = stays.any(dim=1).int().argmax()
    return int(first[trial]), int(first[trial]) + size, stays[trial]


def padded_length(longest: int, params: Params) -> int:
    """Length to which sequences are padded: a multiple that the pyramid can halve; published: at least `max_snippets`.

    >>> padded_length(100, Params(student_levels=6)), padded_length(100, Params(recipe="published", max_snippets=384))
    (128, 384)
    """
    least = longest if params.corrected else max(longest, params.max_snippets)
    multiple = 2 ** (params.student_levels - 1)
    return -(-least // multiple) * multiple


def pad(features: Sequence[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """Stacks sequences (T, D) into (B, length, D), zero behind their ends, with the mask (B, length, 1)."""
    x = torch.stack([F.pad(sequence, (0, 0, 0, length - len(sequence))) for sequence in features])
    valid = torch.tensor([len(sequence) for sequence in features])
    return x, (torch.arange(length) < valid[:, None])[..., None]


def whole_videos(
    store: FeatureStore, videos: Sequence[str], params: Params, device: torch.device
) -> Iterator[tuple[list[str], Tensor, Tensor]]:
    """Videos in batches of similar length, the short ones first.

    Yields:
        Names (B), features (B, T, D) padded for the pyramid, and mask (B, T, 1).
    """
    lengths = {video: padded_length(store.length(video), params) for video in videos}
    batches = similar_lengths(lengths, BATCH_SNIPPETS[device.type], exactly=not params.corrected)

    def load(i: int) -> tuple[Tensor, Tensor]:
        features = [store.read(video) for video in batches[i]]
        x, mask = pad(features, max(lengths[video] for video in batches[i]))
        return send(x, device), send(mask, device)

    loading = load_ahead(load, range(len(batches)))
    with closing(loading) as loaded, progress_bar(total=len(videos), delay=1) as progress:
        for names, ((x, mask), _) in zip(batches, loaded, strict=True):
            yield names, x, mask
            progress.update(len(names))


def similar_lengths(lengths: Mapping[str, int], most: int, *, exactly: bool) -> list[list[str]]:
    """Groups videos by length: all of a batch, padded to its longest, have at most so many snippets, unless it is one.

    >>> lengths = {"a": 64, "b": 32, "c": 64}
    >>> similar_lengths(lengths, 200, exactly=False), similar_lengths(lengths, 100, exactly=True)
    ([['b', 'a', 'c']], [['b'], ['a'], ['c']])
    """
    batches: list[list[str]] = []
    for video in sorted(lengths, key=lengths.__getitem__):
        fits = batches and (len(batches[-1]) + 1) * lengths[video] <= most
        if not fits or (exactly and lengths[batches[-1][0]] != lengths[video]):
            batches.append([])
        batches[-1].append(video)
    return batches
