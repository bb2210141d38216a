"""Training the student on pseudo labels, and localising actions with it (METHOD.md section 4).

Taught in notebook 03.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm.auto import tqdm

from fustal import InputError
from fustal.annotations import RESULT_COLUMNS, Dataset
from fustal.features import FeatureStore
from fustal.parallel import launch, processes, share
from fustal.params import Params
from fustal.student.decoding import Detections, detect
from fustal.student.losses import student_loss
from fustal.student.network import Student
from fustal.training import (
    epoch_order,
    fit,
    generator_of,
    load_ahead,
    load_module,
    load_state,
    pick_device,
    precision,
    save_module,
    save_state,
    send,
)

if TYPE_CHECKING:
    from fustal.distillation import Relabel

CROP_TRIALS = 100
"""Random crops that are tried until one keeps a segment."""

BATCH_SNIPPETS = {"cpu": 4_608, "cuda": 18_432}
"""Snippets, with padding, of the videos that are localised together. On a CPU what a layer makes should stay in its
cache; for a GPU these are eight of the paper's training sequences."""


class Batch(NamedTuple):
    """Training sequences, a process's share of a batch; times in snippets of the sequence."""

    x: Tensor  # (B, T, D) features, without noise, 0 at padding
    mask: Tensor  # (B, T, 1) valid snippets
    segments: list[Tensor]  # per video (N, 2)
    labels: list[Tensor]  # per video (N,)
    video_labels: Tensor  # (B, C) multi-hot, of the whole batch


class TrainingVideos:
    """The training videos with their pseudo labels, as random batches; features are read for each batch.

    Args:
        params: of the run.
        dataset: whose training videos, with their video-level labels, are used.
        store: features on the student's grid.
        pseudo_labels: frame with video, label, start (s), end (s). Videos without any stay, as background that still
            has video-level labels.
        device: where the batches go.
    """

    def __init__(
        self, params: Params, dataset: Dataset, store: FeatureStore, pseudo_labels: pd.DataFrame, device: torch.device
    ) -> None:
        self.params, self.store, self.device = params, store, device
        self.videos = dataset.split("train")
        self.video_labels = torch.from_numpy(dataset.labels(self.videos))
        self.targets = snippet_targets(pseudo_labels, self.videos, dataset.classes, store)

    @property
    def steps_per_epoch(self) -> int:
        """Batches that it takes to show every video once."""
        return -(-len(self.videos) // self.params.student_batch)

    def batch(self, step: int) -> Batch:
        """The batch of a step, which depends on nothing else; its random crops come from seed and step.

        Several processes draw and pad it alike, and read their shares of it.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        order, random = epoch_order(len(self.videos), epoch, self.params.seed), generator_of(self.params.seed, step)
        chosen = order[place * self.params.student_batch :][: self.params.student_batch].tolist()
        crops = [self._crop(self.videos[index], random) for index in chosen]
        longest = max(last - first for first, last, _ in crops)
        mine = share(len(chosen))
        samples = [self._sample(self.videos[i], *crop) for i, crop in zip(chosen[mine], crops[mine], strict=True)]
        features, segments, labels = (list(part) for part in zip(*samples, strict=True))
        x, mask = pad(features, padded_length(longest, self.params))
        return Batch(
            send(x, self.device),
            send(mask, self.device),
            [send(part, self.device) for part in segments],
            [send(part, self.device) for part in labels],
            send(self.video_labels[chosen], self.device),
        )

    def _crop(self, video: str, random: torch.Generator) -> tuple[int, int, Tensor]:
        return random_crop(self.store.length(video), self.targets[video][0], self.params, random)

    def _sample(self, video: str, first: int, last: int, stays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        segments, labels = self.targets[video]
        features = self.store.read(video, slice(first, last))
        return features, segments[stays].clamp(first, last) - first, labels[stays]


def snippet_targets(
    pseudo_labels: pd.DataFrame, videos: Sequence[str], classes: Sequence[str], store: FeatureStore
) -> dict[str, tuple[Tensor, Tensor]]:
    """Pseudo labels as tensors on the feature grid.

    Args:
        pseudo_labels: frame with video, label, start (s), end (s).
        videos: which videos.
        classes: class names, in the order of their indices.
        store: knows each video's grid.

    Returns:
        For each video segments (N, 2), snippets, and class indices (N,); N may be 0.

    Raises:
        InputError: a label is no class.
    """
    wanted = pseudo_labels[pseudo_labels.video.isin(videos)]
    if not wanted.label.isin(classes).all():
        video, label = wanted.loc[~wanted.label.isin(classes), ["video", "label"]].iloc[0]
        raise InputError(f"pseudo labels: video {video!r}: label {label!r} is no class of the data set")
    index = {name: i for i, name in enumerate(classes)}
    targets = {video: (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)) for video in videos}
    for video, rows in wanted.groupby("video"):
        seconds = torch.from_numpy(rows[["start", "end"]].to_numpy("float32", copy=True))
        targets[video] = store.grid_of(video).to_snippets(seconds), torch.tensor([index[name] for name in rows.label])
    return targets


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


def make_student(params: Params, in_dim: int, num_classes: int) -> Student:
    """A new student on the device, and in the arithmetic, of the parameters."""
    device = pick_device(params)
    student = Student.from_params(params, in_dim, num_classes).to(device)
    student.arithmetic = precision(params, device)
    return student


def make_optimizer(student: nn.Module, params: Params) -> torch.optim.AdamW:
    """AdamW whose weight decay spares biases, norms and scales."""
    weights = [p for p in student.parameters() if p.ndim > 1]
    others = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": params.student_weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=params.student_lr, fused=True)


def start_average(student: Student) -> Student:
    """A copy of the student that will average its weights: the EMA teacher, always in evaluation mode."""
    return copy.deepcopy(student).requires_grad_(False).eval()


@torch.no_grad()
def update_average(ema: nn.Module, student: nn.Module, decay: float) -> None:
    """Moves the averaged weights towards the student's by a share 1 - decay; buffers are copied (METHOD.md section 5).

    >>> ema, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(ema.weight), nn.init.ones_(student.weight)
    >>> update_average(ema, student, 0.75)
    >>> ema.weight.item()
    0.25
    """
    get_ema_multi_avg_fn(decay)(list(ema.parameters()), list(student.parameters()), None)
    for average, value in zip(ema.buffers(), student.buffers(), strict=True):
        average.copy_(value)


def train_epochs(
    params: Params,
    data: TrainingVideos,
    student: Student,
    ema: Student,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    *,
    epochs: range,
    relabel: "Relabel | None" = None,
    description: str = "student",
) -> pd.DataFrame:
    """Trains the student and its average for some epochs, and writes both and the optimiser to `folder`.

    Args:
        params: of the run.
        data: training videos.
        student: is trained.
        ema: follows the student's weights.
        optimizer: of the student.
        folder: receives `model`, `ema` and `optimizer.safetensors`, from which distillation goes on, and the log.
        epochs: numbers of the epochs; the learning rate rises linearly through epoch 0.
        relabel: replaces the labels of each batch by the average's predictions.
        description: what the progress bar says.

    Returns:
        The log: one row a step with the losses.
    """
    steps = data.steps_per_epoch

    def step(batch: Batch, i: int) -> dict[str, Tensor]:
        noise = params.input_noise * torch.randn_like(batch.x)
        if relabel is not None:
            batch = relabel(ema, batch, i // steps)
        output = student(batch.x + noise, batch.mask)
        return student_loss(student, output, batch.segments, batch.labels, batch.video_labels, params)

    log = fit(
        data.batch,
        step,
        {"model": student, "ema": ema} | ({} if relabel is None else {"relabel": relabel}),
        optimizer,
        first_step=epochs.start * steps,
        last_step=epochs.stop * steps,
        seed=params.seed,
        folder=folder,
        lr=lambda i: min(1.0, (i + 1) / steps),
        clip=1.0,
        after_step=lambda _: update_average(ema, student, params.ema_decay),
        description=description,
    )
    if processes() == 1:
        save_module(student, folder / "model.safetensors")
        save_module(ema, folder / "ema.safetensors")
        save_state(folder / "optimizer.safetensors", {}, optimizer, step=epochs.stop * steps)
    return log


def train_student(
    params: Params, dataset: Dataset, store: FeatureStore, pseudo_labels: pd.DataFrame, folder: Path
) -> tuple[Student, Student]:
    """Trains a student on pseudo labels (notebook 03).

    Args:
        params: of the run.
        dataset: its training videos and their video-level labels.
        store: features on the student's grid.
        pseudo_labels: frame with video, label, start (s), end (s); the true segments measure the upper bound.
        folder: see `train_epochs`; an interrupted training goes on from its checkpoint there.

    Returns:
        The student and the average of its weights.
    """
    launch(params, params.student_batch, train_student, params, dataset, store, pseudo_labels, folder)
    data = TrainingVideos(params, dataset, store, pseudo_labels, pick_device(params))
    torch.manual_seed(params.seed)
    student = make_student(params, store.dim, len(dataset.classes))
    ema = start_average(student)
    train_epochs(
        params, data, student, ema, make_optimizer(student, params), folder, epochs=range(params.student_epochs)
    )
    return student, ema


def load_student(
    folder: Path, params: Params, in_dim: int, num_classes: int
) -> tuple[Student, Student, torch.optim.AdamW]:
    """Student, average and optimiser as `train_epochs` left them in `folder`.

    Raises:
        InputError: a file is missing or does not fit the parameters.
    """
    student = make_student(params, in_dim, num_classes)
    ema = start_average(student)
    load_module(student, folder / "model.safetensors")
    load_module(ema, folder / "ema.safetensors")
    optimizer = make_optimizer(student, params)
    load_state(folder / "optimizer.safetensors", {}, optimizer)
    return student, ema, optimizer


@torch.inference_mode()
def localize(
    model: Student, dataset: Dataset, store: FeatureStore, videos: Sequence[str], params: Params
) -> pd.DataFrame:
    """Detects the actions of videos, those of similar length together.

    What it finds in a video does not depend on the others but for rounding: padding takes no part in the corrected
    recipe, and in the published one only videos that are padded to the same length go together.

    Args:
        model: a student or its average.
        dataset: names the classes.
        store: features on the student's grid.
        videos: names.
        params: `recipe` and `max_snippets` (padding), thresholds, soft-NMS.

    Returns:
        Frame with video, label, score, start (s), end (s), clipped to the video, best first within a video.
    """
    found: dict[str, Detections] = {}
    for names, x, mask in whole_videos(store, videos, params, next(model.parameters()).device):
        found |= zip(names, detect(model.eval(), model(x, mask), params), strict=True)
    return to_frame({video: found[video] for video in videos}, dataset, store)


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

    with closing(load_ahead(load, range(len(batches)))) as loaded, tqdm(total=len(videos), mininterval=1) as progress:
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


def to_frame(found: Mapping[str, Detections], dataset: Dataset, store: FeatureStore) -> pd.DataFrame:
    """Detections in snippets, by video, as a frame of results in seconds, clipped to the videos."""
    classes = np.array(dataset.classes, dtype=object)
    columns: dict[str, list[np.ndarray]] = {name: [np.empty(0)] for name in RESULT_COLUMNS}
    for video, detections in found.items():
        segments, scores, labels = (part.cpu() for part in detections)
        start, end = store.grid_of(video).to_seconds(segments.double()).clamp(0, store.duration(video)).T.numpy()
        whose, what = np.full(len(labels), video, dtype=object), classes[labels.numpy()]
        for column, part in zip(columns.values(), (whose, what, scores.double().numpy(), start, end), strict=True):
            column.append(part)
    return pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})
