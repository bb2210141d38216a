"""Videos of different lengths as batches, and the detections in them as a frame.

Source: docs/method.md sections 2 and 4.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from fustal.data.features import FeatureStore, sample_train
from fustal.data.results import results_frame
from fustal.engine.device import send
from fustal.engine.loop import load_ahead, progress_bar
from fustal.params import Params

BATCH_SNIPPETS = {"cpu": 4_608, "cuda": 18_432}
"""Maximum number of snippets, with padding, of videos that go through the student together. On a CPU the output of a
layer should stay in its cache; for a GPU these are eight of the paper's training sequences."""


CROP_TRIALS = 100
"""Random crops that are tried until one keeps a segment."""


class Crop(NamedTuple):
    """A part of a video, and which of its segments stay in it."""

    first: int  # snippet
    end: int  # snippet behind the last one
    stays: Tensor  # (N,) bool


def sample_batch(
    store: FeatureStore, videos: Sequence[str], count: int, random: torch.Generator, device: torch.device
) -> Tensor:
    """Training samples (B, count, D) of videos, on the device."""
    features = torch.empty(len(videos), count, store.dim, pin_memory=device.type == "cuda")
    for video, row in zip(videos, features, strict=True):
        positions = sample_train(store.length(video), count, random)
        store.read(video, positions.numpy(), row)
    return send(features, device)


def random_crop(length: int, segments: Tensor, params: Params, random: torch.Generator) -> Crop:
    """Chooses a part of a video that keeps at least one of its segments, if it has any and a trial finds one.

    A video longer than `max_snippets` is cut to exactly these; of another one a random share is kept.

    Args:
        length: snippets of the video.
        segments: (N, 2) snippets; one stays when at least half of it does.
        params: `crop_min`, `max_snippets`.
        random: source of the draws.
    """
    size = params.max_snippets
    if length <= size:
        share = params.crop_min + (1 - params.crop_min) * torch.rand((), generator=random).item()
        size = max(round(length * share), 1)
    first = torch.randint(length - size + 1, (CROP_TRIALS, 1), generator=random)
    inside = torch.minimum(segments[:, 1], first + size) - torch.maximum(segments[:, 0], first)  # (trials, N)
    half = (segments[:, 1] - segments[:, 0]) / 2
    stays = (inside > 0) & (inside >= half)
    trial = int(stays.any(dim=1).int().argmax())  # the first one that keeps a segment
    start = int(first[trial])
    return Crop(start, start + size, stays[trial])


def padded_length(longest: int, params: Params) -> int:
    """Length to which sequences are padded: a multiple that the pyramid can halve; published: at least `max_snippets`.

    >>> padded_length(100, Params(student_levels=6)), padded_length(100, Params(recipe="published", max_snippets=384))
    (128, 384)
    """
    minimum = longest if params.corrected else max(longest, params.max_snippets)
    multiple = 2 ** (params.student_levels - 1)
    return -(-minimum // multiple) * multiple


def pad(features: Sequence[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """Stacks sequences (T, D) into (B, length, D), zero behind their ends, with the mask (B, length, 1)."""
    x = torch.stack([F.pad(sequence, (0, 0, 0, length - len(sequence))) for sequence in features])
    valid = torch.tensor([len(sequence) for sequence in features])
    mask = torch.arange(length) < valid[:, None]
    return x, mask[..., None]


def whole_videos(
    store: FeatureStore, videos: Sequence[str], params: Params, device: torch.device
) -> Iterator[tuple[list[str], Tensor, Tensor]]:
    """Videos in batches of similar length, the short ones first.

    Yields:
        Names (B), features (B, T, D) padded for the pyramid, and mask (B, T, 1).
    """
    lengths = {video: padded_length(store.length(video), params) for video in videos}
    batches = similar_lengths(lengths, BATCH_SNIPPETS[device.type], exactly=not params.corrected)

    def load(i: int) -> tuple[list[str], Tensor, Tensor]:
        names = batches[i]
        features = [store.read(video) for video in names]
        x, mask = pad(features, max(lengths[video] for video in names))
        return names, send(x, device), send(mask, device)

    with (
        closing(load_ahead(load, range(len(batches)))) as loaded,
        progress_bar(total=len(videos), delay=1) as progress,
    ):
        for (names, x, mask), _ in loaded:
            yield names, x, mask
            progress.update(len(names))


def similar_lengths(lengths: Mapping[str, int], maximum: int, *, exactly: bool) -> list[list[str]]:
    """Groups videos by length, the short ones first.

    Args:
        lengths: snippets of each video.
        maximum: snippets of a group, all padded to its longest video; a longer video is a group of its own.
        exactly: only videos of the same length share a group.

    >>> lengths = {"a": 64, "b": 32, "c": 64}
    >>> similar_lengths(lengths, 200, exactly=False), similar_lengths(lengths, 100, exactly=True)
    ([['b', 'a', 'c']], [['b'], ['a'], ['c']])
    """
    groups: list[list[str]] = []
    for video in sorted(lengths, key=lengths.__getitem__):
        group = groups[-1] if groups else []
        fits = bool(group) and (len(group) + 1) * lengths[video] <= maximum
        if exactly and fits:
            fits = lengths[group[0]] == lengths[video]
        if fits:
            group.append(video)
        else:
            groups.append([video])
    return groups


def to_frame(
    found: Mapping[str, tuple[Tensor, Tensor, Tensor]], videos: Sequence[str], store: FeatureStore
) -> pd.DataFrame:
    """Detections in snippets as a frame of results in seconds, clipped to the videos.

    Args:
        found: segments (N, 2), scores (N,) and classes (N,) of each video.
        videos: their order in the frame.
        store: features on the student's grid.

    Returns:
        Frame with video, label, score, start (s), end (s).
    """
    rows = []
    for video in videos:
        segments, scores, labels = found[video]
        seconds = store.grid_of(video).to_seconds(segments.cpu().double()).clamp(0, store.duration(video))
        rows.append(np.column_stack([labels.cpu(), scores.cpu().double(), seconds]))
    return results_frame(videos, rows, store.dataset.classes)
