"""The one training loop: loading ahead, progress, log, checkpoint, resume, determinism.

Taught in notebook 01, section "Training".
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from fustal import InputError
from fustal.files import one_line, open_regular
from fustal.parallel import backward, processes, rank
from fustal.params import Params
from fustal.steps import Steps
from fustal.writing import atomic

CHECKPOINT = "checkpoint.safetensors"
"""The file, in a training's folder, from which an interrupted training goes on."""

CHECKPOINT_EVERY = int(os.environ.get("FUSTAL_CHECKPOINT_EVERY", "200"))
"""Steps between two checkpoints: 200, or what $FUSTAL_CHECKPOINT_EVERY says."""

Batch = TypeVar("Batch")


def pick_device(params: Params) -> torch.device:
    """The device that `params.device` asks for; "auto" takes a GPU where there is one."""
    if params.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: 'cuda' was asked for, but PyTorch sees no GPU (use 'auto' or 'cpu')")
    if params.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(params.device)


def precision(params: Params, device: torch.device) -> AbstractContextManager[object]:
    """The arithmetic that `params.precision` asks for, as a context for the networks' forward passes.

    Raises:
        InputError: bfloat16, and the device could only emulate it.
    """
    if params.precision == "float32":
        return nullcontext()
    if not has_bfloat16(device):
        name = "GPU" if device.type == "cuda" else "CPU"
        raise InputError(f"precision: 'bfloat16' was asked for, but this {name} does not have it (use 'float32')")
    return torch.autocast(device.type, torch.bfloat16)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(torch.cpu.get_capabilities().get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Moves a tensor to the device; on the way to a GPU from pinned memory, so that nobody waits for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def seed_step(seed: int, step: int) -> None:
    """Sets torch's random state as a function of seed and step alone: a resumed run draws what the first one drew.

    Each of several processes draws something else, for its own share of the batch.
    """
    key = (1 + rank(),) if processes() > 1 else ()
    torch.manual_seed(int(np.random.SeedSequence([seed, step], spawn_key=key).generate_state(1, np.uint64)[0] >> 1))


def generator_of(seed: int, step: int) -> torch.Generator:
    """Random numbers for loading the batch of a step, from seed and step alone; torch's own state is left alone."""
    state = np.random.SeedSequence([seed, step], spawn_key=(0,)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


def epoch_order(count: int, epoch: int, seed: int) -> Tensor:
    """A permutation of `range(count)` that depends on seed and epoch alone."""
    state = np.random.SeedSequence([seed, epoch, count]).generate_state(1, np.uint64)[0]
    return torch.randperm(count, generator=torch.Generator().manual_seed(int(state >> 1)))


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
    done (`runs.Run.finish`). In one of several processes (`fustal.parallel`) the first writes.

    Args:
        load: the batch of a step, or the process's share of it, from its number alone. Runs in a thread, one step
            ahead: what is random in it must come from `generator_of`, not from torch's state.
        step: computes the losses of a whole batch, scalars by name; "loss" is the one that is minimised. All that is
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
        for i in progress_bar(steps, desc=description) if steps and not rank() else steps:
            batch, seconds = next(batches)
            waited += seconds
            seed_step(seed, i)
            trained.train()
            losses = step(batch, i)
            optimizer.zero_grad(set_to_none=True)
            backward(losses["loss"], trained.parameters())
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
            if not rank():
                told.done(i)
            if not rank() and (i + 1 == last_step or (i + 1) % CHECKPOINT_EVERY == 0):
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


def save_module(module: nn.Module, path: Path) -> None:
    """Writes the weights of one module as safetensors, atomically."""
    with atomic(path) as temporary:
        save_file({name: value.contiguous() for name, value in module.state_dict().items()}, temporary)


def load_module(module: nn.Module, path: Path) -> None:
    """Reads the weights of one module; they must fit.

    Raises:
        InputError: missing or unreadable file, or weights of another shape.
    """
    try:
        module.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of weights") from None
    except Exception as error:
        raise InputError(f"{path}: does not fit the model: {one_line(error)[:200]}") from None


def fingerprint(params: Params, labels: pd.DataFrame | None = None) -> str:
    """What a training is about: its parameters and labels, as a hash."""
    text = params.model_dump_json() + ("" if labels is None else labels.to_csv())
    return hashlib.sha256(text.encode()).hexdigest()


def save_state(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, *, step: int, about: str = ""
) -> None:
    """Writes modules, optimiser, step number and what the training is about into one safetensors file, atomically."""
    tensors = {f"{name}/{key}": v for name, module in modules.items() for key, v in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
    with atomic(path) as temporary:
        metadata = {"state": json.dumps({"step": step, "about": about})}  # one entry: several have no fixed order
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)


@dataclass(frozen=True)
class State:
    """What `save_state` wrote: the number of the next step, what the training is about, and all tensors by name."""

    path: Path
    step: int
    about: str
    tensors: dict[str, Tensor]

    def restore(self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
        """Gives modules and optimiser their state.

        Raises:
            InputError: it does not fit them.
        """
        try:
            for name, module in modules.items():
                prefix = f"{name}/"
                mine = {key.removeprefix(prefix): v for key, v in self.tensors.items() if key.startswith(prefix)}
                module.load_state_dict(mine)
            states: dict[int, dict[str, Tensor]] = {}
            for key, value in self.tensors.items():
                if key.startswith("optimizer/"):
                    _, index, field = key.split("/")
                    states.setdefault(int(index), {})[field] = value
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        except Exception as error:
            what = "cannot be continued from (delete it to start anew)"
            raise InputError(f"{self.path}: {what}: {one_line(error)[:200]}") from None


def read_state(path: Path) -> State:
    """Reads what `save_state` wrote.

    Raises:
        InputError: the file is missing or broken.
    """
    try:
        if not path.is_file():
            raise OSError("there is no such file")
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return State(path, int(about["step"]), str(about["about"]), tensors)
    except Exception as error:  # a broken file can raise anything
        raise InputError(f"{path}: cannot be read as a checkpoint: {one_line(error)[:200]}") from None


def read_checkpoint(path: Path, about: str) -> State | None:
    """The checkpoint of an interrupted training; None where there is none, or of another training, or a broken one."""
    if not path.exists():
        return None
    try:
        state = read_state(path)
    except InputError as error:
        print(f"{error}: the training begins anew", file=sys.stderr)
        return None
    return state if state.about == about else None


def _read_log(path: Path, first_step: int, state: State) -> list[dict[str, float]] | None:
    """The rows of the log up to a checkpoint; None, said in a line, where some are missing."""
    if state.step == first_step:  # several processes are handed what to begin with as a checkpoint
        return []
    try:
        with open_regular(path) as file:
            log = pd.read_csv(file, float_precision="round_trip")
        rows = log[log.step < state.step].to_dict("records")
        if [row["step"] for row in rows] == list(range(first_step, state.step)):
            return rows
        reason = "not all steps before the checkpoint are in it"
    except Exception as error:  # a broken file can raise anything
        reason = one_line(error)[:200]
    print(f"{path}: is broken: {reason}: the training begins anew", file=sys.stderr)
    return None


def _numbers(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Losses as numbers; a GPU is asked once for all of them."""
    return dict(zip(losses, torch.stack([value.detach() for value in losses.values()]).tolist(), strict=True))
