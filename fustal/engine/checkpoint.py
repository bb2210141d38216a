"""Weights, optimiser and step of a training in safetensors files: written atomically, read with checks."""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fustal.data.files import one_line, open_regular
from fustal.data.writing import atomic
from fustal.exceptions import InputError
from fustal.params import Params

CHECKPOINT = "checkpoint.safetensors"
"""The file, in a training's folder, from which an interrupted training goes on."""


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
