"""The one training loop: progress, log, checkpoint, resume, determinism.

Taught in notebook 01, section "Training".
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import trange

from fustal import InputError
from fustal.files import atomic
from fustal.params import Params

CHECKPOINT_EVERY = 200
"""Steps between two checkpoints."""


def pick_device(params: Params) -> torch.device:
    """The device that `params.device` asks for; "auto" takes a GPU where there is one."""
    if params.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: 'cuda' was asked for, but PyTorch sees no GPU (use 'auto' or 'cpu')")
    if params.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(params.device)


def seed_step(seed: int, step: int) -> None:
    """Sets torch's random state as a function of seed and step alone: a resumed run draws what the first one drew."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1))


def epoch_order(count: int, epoch: int, seed: int) -> Tensor:
    """A permutation of `range(count)` that depends on seed and epoch alone."""
    state = np.random.SeedSequence([seed, epoch, count]).generate_state(1, np.uint64)[0]
    return torch.randperm(count, generator=torch.Generator().manual_seed(int(state >> 1)))


def fit(
    step: Callable[[int], Mapping[str, Tensor]],
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
) -> pd.DataFrame:
    """Trains from `first_step` up to, and without, `last_step`; continues from a checkpoint in `folder`.

    Args:
        step: computes the losses of one step, scalars by name; "loss" is the one that is minimised. All that is random
            in it must come from torch, whose state is set from (seed, step) before each call.
        modules: all that has weights, by name; the first is trained, all are checkpointed.
        optimizer: over the weights of the first module.
        first_step: number of the first step (distillation goes on counting).
        last_step: number after the last step.
        seed: of the run.
        folder: for `log.csv` and `checkpoint.safetensors`.
        lr: factor on the learning rate at a step.
        clip: largest norm of the gradient.
        after_step: called after the weights changed, e.g. to update a moving average.
        description: what the progress bar says.

    Returns:
        The log: one row a step with the losses.

    Raises:
        FloatingPointError: the loss is not finite; names the step. The last checkpoint stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log_file = folder / "checkpoint.safetensors", folder / "log.csv"
    rows: list[dict[str, float]] = []
    trained = next(iter(modules.values()))
    base = [group["lr"] for group in optimizer.param_groups]
    if checkpoint.exists():
        first_step = load_state(checkpoint, modules, optimizer)
        log = pd.read_csv(log_file, float_precision="round_trip") if log_file.exists() else pd.DataFrame({"step": []})
        rows = log[log.step < first_step].to_dict("records")
    for i in trange(first_step, last_step, desc=description, mininterval=1):
        seed_step(seed, i)
        trained.train()
        losses = step(i)
        rows.append({"step": i, **{name: value.item() for name, value in losses.items()}})
        if not np.isfinite(rows[-1]["loss"]):
            raise FloatingPointError(f"{description}: the loss is {rows[-1]['loss']} at step {i}")
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(trained.parameters(), clip)
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * (lr(i) if lr else 1.0)
        optimizer.step()
        if after_step:
            after_step(i)
        if (i + 1) % CHECKPOINT_EVERY == 0 and i + 1 < last_step:
            _write_log(rows, log_file)
            save_state(checkpoint, modules, optimizer, step=i + 1)
    checkpoint.unlink(missing_ok=True)
    return _write_log(rows, log_file)


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
        raise InputError(f"{path}: does not fit the model: {' '.join(str(error).split())[:200]}") from None


def save_state(path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, *, step: int) -> None:
    """Writes modules, optimiser and step number into one safetensors file, atomically."""
    tensors = {f"{name}/{key}": v for name, module in modules.items() for key, v in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
    with atomic(path) as temporary:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata={"step": str(step)})


def load_state(path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """Restores what `save_state` wrote and returns the step to go on with.

    Raises:
        InputError: the file is missing or broken, or does not fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            step, tensors = int(file.metadata()["step"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for name, module in modules.items():
            module.load_state_dict(
                {key.removeprefix(f"{name}/"): v for key, v in tensors.items() if key.startswith(f"{name}/")}
            )
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, index, field = key.split("/")
                states.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    except Exception as error:
        raise InputError(f"{path}: cannot be continued from: {' '.join(str(error).split())[:200]}") from None
    return step


def _write_log(rows: list[dict[str, float]], path: Path) -> pd.DataFrame:
    log = pd.DataFrame(rows)
    with atomic(path) as temporary:
        log.to_csv(temporary, index=False)
    return log
