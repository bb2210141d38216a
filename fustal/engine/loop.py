"""The one training loop: loading ahead, progress, log, checkpoint, resume, determinism.

Taught in notebook 01, section "Training".
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from fustal.engine.checkpoint import CHECKPOINT, _read_log, read_checkpoint, save_state
from fustal.engine.device import seed_step
from fustal.engine.steps import Steps

CHECKPOINT_EVERY = int(os.environ.get("FUSTAL_CHECKPOINT_EVERY", "200"))
"""Steps between two checkpoints: 200, or what $FUSTAL_CHECKPOINT_EVERY says."""


Batch = TypeVar("Batch")


def fit(
    load: Callable[[int], Batch],
    step: Callable[[Batch, int], Mapping[str, Tensor]],
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    *,
    first_step: int = 0,
    last_step: int,
    seed: int,
    folder: Path,
    lr: Callable[[int], float] | None = None,
    clip: float | None = None,
    after_step: Callable[[int], None] | None = None,
    description: str = "training",
    about: str = "",
    videos_of: Callable[[int], Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Trains from `first_step` up to, and without, `last_step`; continues from a checkpoint in `folder`.

    The checkpoint of the last step stays, so that a stage of several trainings repeats none of them, until the stage is
    done (`runs.Run.finish`). In one of several processes (`fustal.engine.parallel`) the first writes.

    Args:
        load: the batch of a step, from its number alone. Runs in a thread, one step
            ahead: what is random in it must come from `random_generator`, not from torch's state.
        step: computes the losses of a batch, scalars by name; "loss" is the one that is minimised. All that is
            random in it must come from torch, whose state is set from (seed, step) before each call.
        modules: all that has weights, by name; the first is trained, all are checkpointed.
        optimizer: over the weights of the first module.
        first_step: number of the first step (distillation goes on counting).
        last_step: number after the last step.
        seed: of the run.
        folder: for the log, `log.csv`, and the checkpoint.
        lr: factor on the learning rate at a step.
        clip: largest norm of the gradient.
        after_step: called after the weights changed, e.g. to update a moving average.
        description: what the progress bar says.
        about: what is trained on what (`fingerprint`); a checkpoint of something else is not continued from.
        videos_of: names of a step's videos, for the message of an error.

    Returns:
        The log: one row a step with the losses. `log.attrs["waiting"]` is the share of the time, 0 to 1, in which the
        training waited for batches; NaN when there was nothing left to train here.

    Raises:
        FloatingPointError: the loss is not finite; names the step and its videos. The last checkpoint stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log_file = folder / CHECKPOINT, folder / "log.csv"
    rows: list[dict[str, float]] = []
    trained = next(iter(modules.values()))
    base = [group["lr"] for group in optimizer.param_groups]
    if (state := read_checkpoint(checkpoint, about)) and (known := _read_log(log_file, first_step, state)) is not None:
        state.restore(modules, optimizer)
        first_step, rows = state.step, known
    began, waited, steps = perf_counter(), 0.0, range(first_step, last_step)
    told = Steps(description, first_step, last_step)
    with closing(load_ahead(load, steps)) as batches:
        for i in progress_bar(steps, desc=description) if steps else steps:
            batch, seconds = next(batches)
            waited += seconds
            seed_step(seed, i)
            trained.train()
            losses = step(batch, i)
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            rows.append({"step": i, **_numbers(losses)})
            if not np.isfinite(rows[-1]["loss"]):
                batch_of = f", in a batch of {', '.join(videos_of(i))}" if videos_of else ""
                raise FloatingPointError(f"{description}: the loss is {rows[-1]['loss']} at step {i}{batch_of}")
            if clip is not None:
                nn.utils.clip_grad_norm_(trained.parameters(), clip)
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * (lr(i) if lr else 1.0)
            optimizer.step()
            if after_step:
                after_step(i)
            told.done(i)
            if i + 1 == last_step or (i + 1) % CHECKPOINT_EVERY == 0:
                with atomic(log_file) as temporary:
                    pd.DataFrame(rows).to_csv(temporary, index=False)
                save_state(checkpoint, modules, optimizer, step=i + 1, about=about)
    log = pd.DataFrame(rows)
    log.attrs["waiting"] = waited / (perf_counter() - began) if steps else float("nan")
    return log


def progress_bar(*counted: Iterable[int], **options: Any) -> tqdm:
    """A bar that TQDM_DISABLE switches off, which tqdm's own bars for notebooks do not heed."""
    return tqdm(*counted, mininterval=1, disable=bool(os.environ.get("TQDM_DISABLE")), **options)


def load_ahead(load: Callable[[int], Batch], steps: range) -> Iterator[tuple[Batch, float]]:
    """Loads batches in one thread, each while the caller computes on the one before.

    Args:
        load: the batch of a step.
        steps: their numbers.

    Yields:
        The batch, and how many seconds the caller had to wait for it.

    >>> [batch for batch, seconds in load_ahead(lambda step: step**2, range(1, 4))]
    [1, 4, 9]
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loading") as thread:
        coming = thread.submit(load, steps.start) if steps else None
        for step in steps:
            asked = perf_counter()
            batch = coming.result()
            seconds = perf_counter() - asked
            if step + 1 in steps:
                coming = thread.submit(load, step + 1)
            yield batch, seconds


def _numbers(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Losses as numbers; a GPU is asked once for all of them."""
    return dict(zip(losses, torch.stack([value.detach() for value in losses.values()]).tolist(), strict=True))
