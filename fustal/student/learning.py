"""Training the student on pseudo labels, and localising actions with it (METHOD.md section 4).

Taught in notebook 03.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from fustal import InputError
from fustal.annotations import RESULT_COLUMNS, Dataset
from fustal.features import FeatureStore
from fustal.params import Params
from fustal.student.decoding import Detections, detect
from fustal.student.losses import student_loss
from fustal.student.network import Student
from fustal.training import epoch_order, fit, load_module, load_state, pick_device, save_module, save_state

if TYPE_CHECKING:
    from fustal.distillation import Relabel

CROP_TRIALS = 100
"""Random crops that are tried until one keeps a segment."""


class Batch(NamedTuple):
    """Training sequences; times in snippets of the sequence."""

    x: Tensor  # (B, D, T) features, without noise, 0 at padding
    mask: Tensor  # (B, 1, T) valid snippets
    segments: list[Tensor]  # per video (N, 2)
    labels: list[Tensor]  # per video (N,)
    video_labels: Tensor  # (B, C) multi-hot


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
        """The batch of a step; its random crops come from torch's random state."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = epoch_order(len(self.videos), epoch, self.params.seed)
        chosen = order[place * self.params.student_batch :][: self.params.student_batch].tolist()
        samples = [self._sample(self.videos[index]) for index in chosen]
        features, segments, labels = (list(part) for part in zip(*samples, strict=True))
        x, mask = pad(features, padded_length(max(map(len, features)), self.params))
        return Batch(
            x.to(self.device),
            mask.to(self.device),
            [part.to(self.device) for part in segments],
            [part.to(self.device) for part in labels],
            self.video_labels[chosen].to(self.device),
        )

    def _sample(self, video: str) -> tuple[Tensor, Tensor, Tensor]:
        features = torch.from_numpy(self.store[video])
        segments, labels = self.targets[video]
        first, last, stays = random_crop(len(features), segments, self.params)
        return features[first:last], segments[stays].clamp(first, last) - first, labels[stays]


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


def random_crop(length: int, segments: Tensor, params: Params) -> tuple[int, int, Tensor]:
    """Chooses a part of a video that keeps at least one of its segments, where it has any and luck allows.

    Args:
        length: snippets of the video.
        segments: (N, 2) snippets; one stays when at least half of it does.
        params: `crop_min`, `max_snippets`.

    Returns:
        First snippet, last snippet + 1, and which segments stay (N,), bool.
    """
    share = params.crop_min + (1 - params.crop_min) * torch.rand(()).item()
    size = min(max(round(length * share), 1), params.max_snippets)
    first = torch.randint(length - size + 1, (CROP_TRIALS, 1))
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
    """Stacks sequences (T, D) into (B, D, length), zero behind their ends, with the mask (B, 1, length)."""
    x = torch.stack([F.pad(sequence.T, (0, length - len(sequence))) for sequence in features])
    valid = torch.tensor([len(sequence) for sequence in features])
    return x, torch.arange(length) < valid[:, None, None]


def make_optimizer(student: nn.Module, params: Params) -> torch.optim.AdamW:
    """AdamW whose weight decay spares biases, norms and scales."""
    weights = [p for p in student.parameters() if p.ndim > 1]
    others = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": params.student_weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=params.student_lr)


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
    for average, weight in zip(ema.parameters(), student.parameters(), strict=True):
        average.lerp_(weight, 1 - decay)
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

    def step(i: int) -> dict[str, Tensor]:
        batch = data.batch(i)
        noise = params.input_noise * torch.randn_like(batch.x)
        if relabel is not None:
            batch = relabel(ema, batch, i // steps)
        output = student(batch.x + noise, batch.mask)
        return student_loss(student, output, batch.segments, batch.labels, batch.video_labels, params)

    log = fit(
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
    data = TrainingVideos(params, dataset, store, pseudo_labels, pick_device(params))
    torch.manual_seed(params.seed)
    student = Student.from_params(params, store.dim, len(dataset.classes)).to(data.device)
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
    student = Student.from_params(params, in_dim, num_classes).to(pick_device(params))
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
    """Detects the actions of videos, one at a time: what it finds does not depend on the other videos.

    Args:
        model: a student or its average.
        dataset: names the classes.
        store: features on the student's grid.
        videos: names.
        params: `recipe` and `max_snippets` (padding), thresholds, soft-NMS.

    Returns:
        Frame with video, label, score, start (s), end (s), clipped to the video, best first within a video.
    """
    model.eval()
    found = {}
    for video in tqdm(videos, desc="localising", mininterval=1):
        x, mask = whole_video(store, video, params, next(model.parameters()).device)
        found[video] = detect(model(x, mask), params)[0]
    return to_frame(found, dataset, store)


def whole_video(store: FeatureStore, video: str, params: Params, device: torch.device) -> tuple[Tensor, Tensor]:
    """One video as a batch: features (1, D, T) padded for the pyramid, and mask (1, 1, T)."""
    features = torch.from_numpy(store[video])
    x, mask = pad([features], padded_length(len(features), params))
    return x.to(device), mask.to(device)


def to_frame(found: Mapping[str, Detections], dataset: Dataset, store: FeatureStore) -> pd.DataFrame:
    """Detections in snippets, by video, as a frame of results in seconds, clipped to the videos."""
    rows = []
    for video, detections in found.items():
        segments, scores, labels = (part.cpu() for part in detections)
        seconds = store.grid_of(video).to_seconds(segments.double()).clamp(0, store.duration(video))
        names = [dataset.classes[label] for label in labels.tolist()]
        rows += zip([video] * len(names), names, scores.tolist(), *seconds.T.tolist(), strict=True)
    return pd.DataFrame(rows, columns=RESULT_COLUMNS).astype({"score": float, "start": float, "end": float})
