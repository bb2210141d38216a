"""What every training loop needs: batches loaded ahead, a seed for each step, the log, checkpoints, resuming.

The loops themselves are written out where they belong: `fustal.generator.train_generator`,
`fustal.student.training.train_epochs`. Taught in notebook 01, section "Training".
"""

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from fustal.data.writing import atomic
from fustal.engine.checkpoint import CHECKPOINT, read_checkpoint, read_log, save_state
from fustal.engine.device import seed_step
from fustal.engine.steps import Steps

CHECKPOINT_EVERY = int(os.environ.get("FUSTAL_CHECKPOINT_EVERY", "200"))
"""Steps between two checkpoints: 200, or the number in $FUSTAL_CHECKPOINT_EVERY."""

Item = TypeVar("Item")


class Loop:
    """The steps of one training, from the last checkpoint in its folder on.

    A training uses it like this:

        loop = Loop("student", range(100), seed, folder, {"model": model}, optimizer)
        with closing(loop.batches(load)) as batches:  # also when a step fails, the loading thread ends
            for step, batch in batches:
                losses = ...
                optimizer.zero_grad(set_to_none=True)
                losses["loss"].backward()
                loop.record(step, losses)
                optimizer.step()
                loop.save(step)

    The checkpoint of the last step stays until the stage is done (`fustal.runs.stage`), so that a stage of several
    trainings repeats none of them.

    Args:
        name: for the progress bar and for errors.
        steps: numbers of the steps.
        seed: of the run.
        folder: for the log, `log.csv`, and the checkpoint.
        modules: everything with weights or buffers that a checkpoint must hold, by name.
        optimizer: of the module that is trained.
        about: what is trained on what (`fustal.engine.checkpoint.fingerprint`). A checkpoint with another text is
            ignored.
    """

    def __init__(
        self,
        name: str,
        steps: range,
        seed: int,
        folder: Path,
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        *,
        about: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.seed = seed
        self.modules = modules
        self.optimizer = optimizer
        self.about = about
        self.checkpoint_file = folder / CHECKPOINT
        self.log_file = folder / "log.csv"
        self.rows: list[dict[str, float]] = []
        self.last = steps.stop
        self.steps = self._resume(steps)
        self.progress = Steps(name, self.steps.start, steps.stop)
        self.began = perf_counter()
        self.waited = 0.0

    def _resume(self, steps: range) -> range:
        """Restores modules, optimizer and log from the checkpoint, if there is one; returns the steps that are left."""
        state = read_checkpoint(self.checkpoint_file, self.about)
        if state is None:
            return steps
        rows = read_log(self.log_file, steps.start, state.step)
        if rows is None:
            return steps
        state.restore(self.modules, self.optimizer)
        self.rows = rows
        return range(state.step, steps.stop)

    def batches(self, load: Callable[[int], Item]) -> Generator[tuple[int, Item], None, None]:
        """Yields the number and the batch of each step, after torch has been seeded for it.

        Args:
            load: returns the batch of a step. It runs in a thread, one step ahead: random numbers in it must come from
                `fustal.engine.device.random_generator`, not from torch's own state.
        """
        if not self.steps:
            return
        with closing(load_ahead(load, self.steps)) as loading:
            for step in progress_bar(self.steps, desc=self.name):
                batch, seconds = next(loading)
                self.waited += seconds
                # A resumed training draws the same random numbers as one that was not interrupted.
                seed_step(self.seed, step)
                yield step, batch

    def record(self, step: int, losses: Mapping[str, Tensor], videos: Sequence[str] = ()) -> None:
        """Adds a step to the log.

        Args:
            step: its number.
            losses: scalars by name; "loss" is the one that is minimised.
            videos: names of the videos in the batch, for the error.

        Raises:
            FloatingPointError: the loss is not finite. The last checkpoint stays.
        """
        scalars = torch.stack([value.detach() for value in losses.values()])  # one transfer from a GPU for all of them
        row = {"step": step, **dict(zip(losses, scalars.tolist(), strict=True))}
        self.rows.append(row)
        if not np.isfinite(row["loss"]):
            where = f", in a batch of {', '.join(videos)}" if videos else ""
            raise FloatingPointError(f"{self.name}: the loss is {row['loss']} at step {step}{where}")

    def skip(self, step: int) -> None:
        """Adds a step in which nothing is trained to the log: it has no losses."""
        self.rows.append({"step": step, "loss": float("nan")})

    def save(self, step: int) -> None:
        """Reports that a step is done, and writes log and checkpoint every `CHECKPOINT_EVERY` steps and at the end."""
        self.progress.done(step)
        done = step + 1
        if done == self.last or done % CHECKPOINT_EVERY == 0:
            with atomic(self.log_file) as temporary:
                pd.DataFrame(self.rows).to_csv(temporary, index=False)
            save_state(self.checkpoint_file, self.modules, self.optimizer, step=done, about=self.about)

    def log(self) -> pd.DataFrame:
        """The log: one row for each step with its losses, NaN where it was skipped.

        Its `attrs["waiting"]` is the share of the time, 0 to 1, in which the training waited for batches; NaN when no
        step was left to do here.
        """
        log = pd.DataFrame(self.rows)
        log.attrs["waiting"] = self.waited / (perf_counter() - self.began) if self.steps else float("nan")
        return log


def progress_bar(*counted: Iterable[int], **options: Any) -> tqdm:
    """A progress bar that TQDM_DISABLE switches off; tqdm's own bars for notebooks ignore that variable."""
    return tqdm(*counted, mininterval=1, disable=bool(os.environ.get("TQDM_DISABLE")), **options)


def load_ahead(load: Callable[[int], Item], steps: range) -> Generator[tuple[Item, float], None, None]:
    """Loads batches in one thread, each while the caller computes on the one before.

    Args:
        load: returns the batch of a step.
        steps: their numbers.

    Yields:
        The batch, and the seconds that the caller had to wait for it.

    >>> [batch for batch, seconds in load_ahead(lambda step: step**2, range(1, 4))]
    [1, 4, 9]
    """
    if not steps:
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loading") as thread:
        coming = thread.submit(load, steps.start)
        for step in steps:
            asked = perf_counter()
            batch = coming.result()
            seconds = perf_counter() - asked
            if step + 1 in steps:
                coming = thread.submit(load, step + 1)
            yield batch, seconds
