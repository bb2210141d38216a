"""Training the student on pseudo labels, and localising actions with it (docs/method.md section 4).

Taught in notebook 03.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fustal.data.cards import Dataset
from fustal.data.features import FeatureStore
from fustal.engine.checkpoint import fingerprint, load_module, read_state, save_module, save_state
from fustal.engine.device import pick_device, precision
from fustal.engine.loop import fit
from fustal.params import Params
from fustal.student.batches import Batch, TrainingVideos
from fustal.student.losses import student_loss
from fustal.student.network import Student


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
    """Moves the averaged weights towards the student's by a share 1 - decay; buffers are copied (docs/method.md section 5).

    >>> ema, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(ema.weight), nn.init.ones_(student.weight)
    >>> update_average(ema, student, 0.75)
    >>> ema.weight.item()
    0.25
    """
    get_ema_multi_avg_fn(decay)(list(ema.parameters()), list(student.parameters()), None)
    for average, value in zip(ema.buffers(), student.buffers(), strict=True):
        average.copy_(value)


def warm_up(step: int, steps_per_epoch: int) -> float:
    """Factor on the learning rate: it rises linearly through epoch 0, then stays 1.

    >>> [warm_up(step, 4) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / steps_per_epoch)


def train_epochs(
    params: Params,
    data: TrainingVideos,
    student: Student,
    ema: Student,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    *,
    epochs: range,
    relabel: nn.Module | None = None,
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
        epochs: numbers of the epochs; for the learning rate see `warm_up`.
        relabel: replaces the labels of each batch, see `fustal.distillation`.
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
        lr=lambda i: warm_up(i, steps),
        clip=1.0,
        after_step=after_step,
        description=description,
        about=fingerprint(params, data.labels),
        videos_of=data.videos_of,
    )
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
        each_epoch: see `train_epochs`.

    Returns:
        The student and the average of its weights.
    """
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
