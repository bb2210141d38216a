"""Training sequences, as batches of features and labels on the student's grid.

Taught in notebook 03. Source: docs/method.md section 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from fustal.data.features import FeatureStore
from fustal.engine.device import epoch_order, random_generator, send
from fustal.engine.video_score import first_fitting, pooled_ratios
from fustal.engine.videos import pad, padded_length, random_crop
from fustal.exceptions import InputError
from fustal.params import Params, parse_ratios
from fustal.student.targets import Truth


class Batch(NamedTuple):
    """Training sequences; times in snippets of the sequence."""

    videos: list[str]
    x: Tensor  # (B, T, D) features, without noise, 0 at padding
    mask: Tensor  # (B, T, 1) valid snippets
    truth: Truth


class VideoLabels(NamedTuple):
    """Pseudo labels of one video on the feature grid; N may be 0."""

    segments: Tensor  # (N, 2) snippets
    labels: Tensor  # (N,) classes
    scores: Tensor  # (N,) confidences


class TrainingVideos:
    """The training videos with their pseudo labels, as random batches; features are read for each batch.

    Args:
        store: features on the student's grid, of a data set whose training videos are used.
        pseudo_labels: frame with video, label, score, start (s), end (s). Videos without any stay, as background that
            still has video-level labels.
        device: of the batches.
    """

    def __init__(self, params: Params, store: FeatureStore, pseudo_labels: pd.DataFrame, device: torch.device) -> None:
        self.params = params
        self.store = store
        self.device = device
        self.pseudo_labels = pseudo_labels
        self.videos = store.dataset.split("train")
        self.video_labels = torch.from_numpy(store.dataset.labels(self.videos))
        self.labels = snippet_labels(pseudo_labels, self.videos, store)
        filled = filled_shares(pseudo_labels, self.videos, store, params)
        self.ratios = send(pooled_ratios(first_fitting(filled), params), device)

    @property
    def steps_per_epoch(self) -> int:
        """Batches that show every video once."""
        return -(-len(self.videos) // self.params.student_batch)

    def batch(self, step: int) -> Batch:
        """The batch of a step, which depends on nothing else; its random crops come from seed and step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        size = self.params.student_batch
        order = epoch_order(len(self.videos), epoch, self.params.seed)
        rows = order[place * size : (place + 1) * size].tolist()
        names = [self.videos[row] for row in rows]
        random = random_generator(self.params.seed, step)
        features = []
        segments = []
        labels = []
        weights = []
        for video in names:
            known = self.labels[video]
            # Labels stay if at least half of them is in the crop, and are counted from its first snippet.
            crop = random_crop(self.store.length(video), known.segments, self.params, random)
            features.append(self.store.read(video, slice(crop.first, crop.end)))
            kept = known.segments[crop.stays].clamp(crop.first, crop.end) - crop.first
            segments.append(send(kept, self.device))
            labels.append(send(known.labels[crop.stays], self.device))
            weight = label_weights(known.scores[crop.stays], known.labels[crop.stays], self.params)
            weights.append(send(weight, self.device))
        longest = max(len(sequence) for sequence in features)
        x, mask = pad(features, padded_length(longest, self.params))
        video_labels = send(self.video_labels[rows], self.device)
        truth = Truth(segments, labels, weights, video_labels, self.ratios)
        return Batch(names, send(x, self.device), send(mask, self.device), truth)


def snippet_labels(pseudo_labels: pd.DataFrame, videos: Sequence[str], store: FeatureStore) -> dict[str, VideoLabels]:
    """Pseudo labels as tensors on the feature grid.

    Args:
        pseudo_labels: frame with video, label, start (s), end (s), and score, the confidence, if any (else 1).
        videos: names of videos.
        store: features on the student's grid; its data set has the classes.

    Returns:
        The labels of each of the videos.

    Raises:
        InputError: a label is no class.
    """
    classes = store.dataset.classes
    wanted = pseudo_labels[pseudo_labels.video.isin(videos)]
    unknown = wanted[~wanted.label.isin(classes)]
    if len(unknown):
        video, label = unknown[["video", "label"]].iloc[0]
        raise InputError(f"pseudo labels: video {video!r}: label {label!r} is no class of the data set")
    index = {name: i for i, name in enumerate(classes)}
    seconds = torch.from_numpy(wanted[["start", "end"]].to_numpy("float32", copy=True))
    labels = torch.tensor([index[name] for name in wanted.label], dtype=torch.long)
    scores = torch.ones(len(wanted))
    if "score" in wanted:
        scores = torch.from_numpy(wanted.score.to_numpy("float32", copy=True))
    result = dict.fromkeys(videos, VideoLabels(seconds[:0], labels[:0], scores[:0]))
    for video, rows in wanted.groupby("video").indices.items():
        segments = store.grid_of(video).to_snippets(seconds[rows])
        result[video] = VideoLabels(segments, labels[rows], scores[rows])
    return result


def filled_shares(pseudo_labels: pd.DataFrame, videos: Sequence[str], store: FeatureStore, params: Params) -> Tensor:
    """How far the labels of a class fill the top snippets that make its video score, see `first_fitting`.

    Args:
        pseudo_labels: frame with video, label, start (s), end (s).
        videos: training videos.
        store: features on the student's grid; its data set has the classes of each video.
        params: `score_ratios`.

    Returns:
        (R, C) mean over the videos of each class, 0 to 1.
    """
    classes = store.dataset.classes
    known = pd.DataFrame(store.dataset.labels(videos), index=list(videos), columns=classes)
    durations = pd.Series({video: store.duration(video) for video in videos})
    seconds = (pseudo_labels.end - pseudo_labels.start).groupby([pseudo_labels.video, pseudo_labels.label]).sum()
    shares = seconds.unstack(fill_value=0.0).reindex(index=known.index, columns=classes, fill_value=0.0)
    mean = (shares.div(durations, axis=0) * known).sum() / known.sum().clip(lower=1)
    ratios = torch.tensor(parse_ratios(params.score_ratios), dtype=torch.float)
    return (ratios[:, None] * torch.from_numpy(mean.to_numpy("float32", copy=True))).clamp(max=1)


def label_weights(scores: Tensor, labels: Tensor, params: Params) -> Tensor:
    """Factor on the loss of each label of a video.

    Beyond the paper, where all labels count alike: the confidence of a label over that of the best label of its class
    in the video, so that the best one counts in full and doubtful ones less (docs/method.md section 9).

    Args:
        scores: (N,) confidences; those below 1e-6 count as 1e-6.
        labels: (N,) classes.
        params: `label_weights`.

    >>> label_weights(torch.tensor([0.4, 0.8, 0.3]), torch.tensor([0, 0, 1]), Params(label_weights="confidence"))
    tensor([0.5000, 1.0000, 1.0000])
    """
    if params.label_weights == "equal":
        return torch.ones_like(scores)
    if not len(scores):
        return scores
    # Not 0: a class whose labels all have confidence 0 would have weights 0 / 0.
    scores = scores.clamp(min=1e-6)
    same_class = labels[:, None] == labels
    best = torch.where(same_class, scores, 0).amax(dim=1)
    return scores / best
