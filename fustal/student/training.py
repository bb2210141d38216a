"""Training of the student on pseudo labels, and of the average of its weights.

Taught in notebook 03. Source: docs/method.md sections 4 and 5.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from fustal.data.features import FeatureStore
from fustal.engine.average import decay_of, start_average, update_average
from fustal.engine.checkpoint import fingerprint, load_module, read_state, save_module, save_state
from fustal.engine.device import pick_device
from fustal.engine.loop import Loop
from fustal.engine.video_score import with_video_score
from fustal.params import Params
from fustal.student.batches import TrainingVideos
from fustal.student.losses import student_loss
from fustal.student.network import Student


@dataclass
class StudentState:
    """A student in training.

    Attributes:
        student: the network that is trained.
        ema: the moving average of its weights, the teacher of distillation; always in evaluation mode.
        optimizer: of the student.
    """

    student: Student
    ema: Student
    optimizer: torch.optim.AdamW

    @classmethod
    def new(cls, params: Params, store: FeatureStore) -> "StudentState":
        """A new student for the features and classes of a data set, and a copy of it as its average."""
        student = Student.from_params(params, store.dim, len(store.dataset.classes))
        return cls(student, start_average(student), make_optimizer(student, params))

    @classmethod
    def load(cls, folder: Path, params: Params, store: FeatureStore) -> "StudentState":
        """The state as `train_epochs` has left it in a folder.

        Raises:
            InputError: a file is missing or does not fit the parameters.
        """
        state = cls.new(params, store)
        load_module(state.student, folder / "model.safetensors")
        load_module(state.ema, folder / "ema.safetensors")
        read_state(folder / "optimizer.safetensors").restore({}, state.optimizer)
        return state


def make_optimizer(student: nn.Module, params: Params) -> torch.optim.AdamW:
    """AdamW without weight decay on biases, norms and scales."""
    weights = [p for p in student.parameters() if p.ndim > 1]
    others = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": params.student_weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=params.student_lr, fused=True)


def warm_up(step: int, steps_per_epoch: int) -> float:
    """Factor on the learning rate: it rises linearly through epoch 0, then stays 1.

    >>> [warm_up(step, 4) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / steps_per_epoch)


def train_epochs(
    params: Params,
    data: TrainingVideos,
    state: StudentState,
    folder: Path,
    epochs: range,
    *,
    relabel: nn.Module | None = None,
    each_epoch: Callable[[int, StudentState], None] | None = None,
) -> pd.DataFrame:
    """Trains the student and its average for some epochs, and writes both and the optimizer to `folder`.

    Args:
        params: of the run.
        data: training videos.
        state: is trained.
        folder: receives `model`, `ema` and `optimizer.safetensors`, from which distillation continues, and the log.
        epochs: numbers of the epochs.
        relabel: replaces the labels of each batch by the average's predictions, see `fustal.distillation.Relabel`. If
            it returns None, the step is skipped: student, average and optimizer stay as they are.
        each_epoch: called after each epoch with its number, from 1, and the state, for a curve.

    Returns:
        The log: one row for each step with its losses.
    """
    params = with_video_score(params, data.store.dataset)
    steps_per_epoch = data.steps_per_epoch
    modules: dict[str, nn.Module] = {"model": state.student, "ema": state.ema}
    if relabel is not None:
        modules["relabel"] = relabel
    name = "student" if epochs.start == 0 else "distillation"
    steps = range(epochs.start * steps_per_epoch, epochs.stop * steps_per_epoch)
    about = fingerprint(params, data.pseudo_labels)
    loop = Loop(name, steps, params.seed, folder, modules, state.optimizer, about=about)
    with closing(loop.batches(data.batch)) as batches:
        for step, batch in batches:
            state.student.train()
            # Drawn before relabelling, so that the noise is the same with and without it.
            noise = params.input_noise * torch.randn_like(batch.x)
            truth = batch.truth
            if relabel is not None:
                truth = relabel(state.ema, batch, step // steps_per_epoch)
            if truth is None:
                loop.skip(step)
            else:
                output = state.student(batch.x + noise, batch.mask)
                losses = student_loss(state.student, output, truth, params)
                state.optimizer.zero_grad(set_to_none=True)
                losses["loss"].backward()
                loop.record(step, losses, batch.videos)  # an error here leaves the weights as they were
                nn.utils.clip_grad_norm_(state.student.parameters(), max_norm=1.0)
                for group in state.optimizer.param_groups:
                    group["lr"] = params.student_lr * warm_up(step, steps_per_epoch)
                state.optimizer.step()
                # The average follows every step of the optimizer, from the first one on.
                of_student = steps_per_epoch * params.student_epochs
                decay = decay_of(step, of_student, params.ema_memory, warm_up=params.corrected)
                update_average(state.ema, state.student, decay)

            if each_epoch is not None and (step + 1) % steps_per_epoch == 0:
                each_epoch((step + 1) // steps_per_epoch, state)
            loop.save(step)
    save_module(state.student, folder / "model.safetensors")
    save_module(state.ema, folder / "ema.safetensors")
    save_state(folder / "optimizer.safetensors", {}, state.optimizer, step=steps.stop)
    return loop.log()


def train_student(
    params: Params,
    store: FeatureStore,
    pseudo_labels: pd.DataFrame,
    folder: Path,
    each_epoch: Callable[[int, StudentState], None] | None = None,
) -> StudentState:
    """Trains a student on pseudo labels (notebook 03).

    Args:
        params: of the run.
        store: features on the student's grid, of a data set whose training videos and video-level labels are used.
        pseudo_labels: frame with video, label, start (s), end (s); the true segments measure the upper bound.
        folder: see `train_epochs`; an interrupted training continues from its checkpoint there.
        each_epoch: see `train_epochs`.
    """
    data = TrainingVideos(params, store, pseudo_labels, pick_device(params))
    torch.manual_seed(params.seed)
    state = StudentState.new(params, store)
    train_epochs(params, data, state, folder, range(params.student_epochs), each_epoch=each_epoch)
    return state
