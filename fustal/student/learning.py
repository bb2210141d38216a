"""Training the student on pseudo labels, and localising actions with it (METHOD.md section 4).

Taught in notebook 03.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fustal.annotations import RESULT_COLUMNS
from fustal.dataset import Dataset
from fustal.features import FeatureStore
from fustal.parallel import launch, processes
from fustal.params import Params
from fustal.student.batches import Batch, TrainingVideos, whole_videos
from fustal.student.decoding import Detections, detect
from fustal.student.losses import student_loss
from fustal.student.network import Student
from fustal.training import fingerprint, fit, load_module, pick_device, precision, read_state, save_module, save_state

if TYPE_CHECKING:
    from fustal.distillation import Relabel


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


def rate(step: int, steps: int, epochs: range, params: Params) -> float:
    """What part of `student_lr` a student learns with: it rises through epoch 0, then stays or falls.

    It stays in the paper. Beyond it, with `student_schedule` "cosine", it falls to 0 by the end of a training;
    distillation, a training of its own, begins with all of it again.

    Args:
        step: number of the step, from epoch 0 on.
        steps: of an epoch.
        epochs: numbers of the training's epochs.
        params: `student_schedule`.

    >>> [round(rate(step, 2, range(4), Params(student_schedule="cosine")), 2) for step in range(8)]
    [0.5, 0.96, 0.85, 0.69, 0.5, 0.31, 0.15, 0.04]
    """
    share = (step / steps - epochs.start) / len(epochs)
    falling = 1.0 if params.student_schedule == "constant" else (1 + math.cos(math.pi * share)) / 2
    return falling * min(1.0, (step + 1) / steps)


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
    each_epoch: Callable[[int, Student, Student], None] | None = None,
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
        epochs: numbers of the epochs; for the learning rate see `rate`.
        relabel: replaces the labels of each batch by the average's predictions.
        each_epoch: called after each epoch with its number, from 1, the student and the average; to look at them.
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
        return student_loss(student, output, *batch[2:], params)

    def after_step(i: int) -> None:
        update_average(ema, student, params.ema_decay)
        if each_epoch and (i + 1) % steps == 0:
            each_epoch((i + 1) // steps, student, ema)

    log = fit(
        data.batch,
        step,
        {"model": student, "ema": ema} | ({} if relabel is None else {"relabel": relabel}),
        optimizer,
        first_step=epochs.start * steps,
        last_step=epochs.stop * steps,
        seed=params.seed,
        folder=folder,
        lr=lambda i: rate(i, steps, epochs, params),
        clip=1.0,
        after_step=after_step,
        description=description,
        about=fingerprint(params, data.labels),
        videos_of=data.videos_of,
    )
    if processes() == 1:
        save_module(student, folder / "model.safetensors")
        save_module(ema, folder / "ema.safetensors")
        save_state(folder / "optimizer.safetensors", {}, optimizer, step=epochs.stop * steps)
    return log


def train_student(
    params: Params,
    dataset: Dataset,
    store: FeatureStore,
    pseudo_labels: pd.DataFrame,
    folder: Path,
    each_epoch: Callable[[int, Student, Student], None] | None = None,
) -> tuple[Student, Student]:
    """Trains a student on pseudo labels (notebook 03).

    Args:
        params: of the run.
        dataset: its training videos and their video-level labels.
        store: features on the student's grid.
        pseudo_labels: frame with video, label, start (s), end (s); the true segments measure the upper bound.
        folder: see `train_epochs`; an interrupted training goes on from its checkpoint there.
        each_epoch: see `train_epochs`; not called where several processes train.

    Returns:
        The student and the average of its weights.
    """
    launch(params, params.student_batch, train_student, params, dataset, store, pseudo_labels, folder)
    data = TrainingVideos(params, dataset, store, pseudo_labels, pick_device(params))
    torch.manual_seed(params.seed)
    student = make_student(params, store.dim, len(dataset.classes))
    ema = start_average(student)
    epochs, optimizer = range(params.student_epochs), make_optimizer(student, params)
    train_epochs(params, data, student, ema, optimizer, folder, epochs=epochs, each_epoch=each_epoch)
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
    read_state(folder / "optimizer.safetensors").restore({}, optimizer)
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
    device = next(model.parameters()).device
    found = (
        pair
        for names, x, mask in whole_videos(store, videos, params, device)
        for pair in zip(names, detect(model.eval(), model(x, mask), params), strict=True)
    )
    return to_frame(found, videos, dataset, store)


def to_frame(
    found: Iterable[tuple[str, Detections]], videos: Sequence[str], dataset: Dataset, store: FeatureStore
) -> pd.DataFrame:
    """Detections in snippets as a frame of results in seconds, clipped to the videos.

    Args:
        found: videos and their detections, in any order.
        videos: their order in the frame.
        dataset: names the classes.
        store: knows each video's grid.

    Returns:
        Frame with video, label, score, start (s), end (s).
    """
    classes, order = np.array(dataset.classes, dtype=object), {video: i for i, video in enumerate(videos)}
    columns: dict[str, list[np.ndarray]] = {name: [np.empty(0)] for name in RESULT_COLUMNS}
    for video, detections in found:
        segments, scores, labels = (part.cpu() for part in detections)
        start, end = store.grid_of(video).to_seconds(segments.double()).clamp(0, store.duration(video)).T.numpy()
        whose, what = np.full(len(labels), video, dtype=object), classes[labels.numpy()]
        for column, part in zip(columns.values(), (whose, what, scores.double().numpy(), start, end), strict=True):
            column.append(part)
    frame = pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})
    return frame.sort_values("video", key=lambda names: names.map(order), kind="stable", ignore_index=True)
