"""Weights, and the state of a training, in safetensors files: written atomically, read with checks."""

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
"""The file, in the folder of a training, from which an interrupted training continues."""


def save_module(module: nn.Module, path: Path) -> None:
    """Writes the weights of one module as safetensors, atomically."""
    tensors = {name: value.contiguous() for name, value in module.state_dict().items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary)


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
    """Hash of the parameters and labels of a training: a checkpoint of another training has another one."""
    text = params.model_dump_json()
    if labels is not None:
        text += labels.to_csv()
    return hashlib.sha256(text.encode()).hexdigest()


def save_state(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, *, step: int, about: str = ""
) -> None:
    """Writes the state of a training into one safetensors file, atomically.

    Args:
        path: of the file.
        modules: by name.
        optimizer: whose moments are written.
        step: number of the next step.
        about: which training this is, see `fingerprint`.
    """
    tensors = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            tensors[f"{name}/{key}"] = value.contiguous()
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer/{index}/{key}"] = value.contiguous()
    metadata = {"state": json.dumps({"step": step, "about": about})}  # one entry: several have no fixed order
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


@dataclass(frozen=True)
class State:
    """What `save_state` has written.

    Attributes:
        path: of the file.
        step: number of the next step.
        about: which training it is.
        tensors: of modules and optimizer, by `module/name` and `optimizer/index/name`.
    """

    path: Path
    step: int
    about: str
    tensors: dict[str, Tensor]

    def restore(self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
        """Gives modules and optimizer their state.

        Raises:
            InputError: it does not fit them.
        """
        try:
            for name, module in modules.items():
                module.load_state_dict(self._below(f"{name}/"))
            states: dict[int, dict[str, Tensor]] = {}
            for key, value in self._below("optimizer/").items():
                index, field = key.split("/")
                states.setdefault(int(index), {})[field] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": states, "param_groups": groups})
        except Exception as error:
            reason = one_line(error)[:200]
            raise InputError(f"{self.path}: cannot be restored (delete it to start again): {reason}") from None

    def _below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, without that beginning."""
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


def read_state(path: Path) -> State:
    """Reads what `save_state` has written.

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
    """The checkpoint of an interrupted training; None if there is none, or it is broken or of another training."""
    if not path.exists():
        return None
    try:
        state = read_state(path)
    except InputError as error:
        _starts_again(str(error))
        return None
    return state if state.about == about else None


def read_log(path: Path, first: int, end: int) -> list[dict[str, float]] | None:
    """The rows of a log for the steps before a checkpoint; None, with a warning, if some are missing.

    Args:
        path: of the log.
        first: number of the first step of the training.
        end: number of the first step after the checkpoint.
    """
    try:
        with open_regular(path) as file:
            log = pd.read_csv(file, float_precision="round_trip")
        rows = log[log.step < end].to_dict("records")
        if [row["step"] for row in rows] == list(range(first, end)):
            return rows
        reason = "not all steps before the checkpoint are in it"
    except Exception as error:  # a broken file can raise anything
        reason = one_line(error)[:200]
    _starts_again(f"{path}: is broken: {reason}")
    return None


def _starts_again(reason: str) -> None:
    print(f"{reason}: the training starts again", file=sys.stderr)
