"""Device and arithmetic of a network, and random numbers that depend on seed and step alone."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from fustal.exceptions import InputError
from fustal.params import Params


def pick_device(params: Params) -> torch.device:
    """The device that `params.device` names; "auto" is a GPU where there is one, else the CPU.

    Raises:
        InputError: "cuda", and PyTorch finds no GPU.
    """
    if params.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: 'cuda' was given, but PyTorch finds no GPU (use 'auto' or 'cpu')")
    if params.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(params.device)


def precision(params: Params, device: torch.device) -> AbstractContextManager[object]:
    """The arithmetic that `params.precision` names, as a context for the forward passes of a network.

    Both networks enter it themselves, in their `forward`.

    Raises:
        InputError: bfloat16, on a device that could only emulate it.
    """
    if params.precision == "float32":
        return nullcontext()
    if not has_bfloat16(device):
        name = "GPU" if device.type == "cuda" else "CPU"
        raise InputError(f"precision: 'bfloat16' was given, but this {name} does not have it (use 'float32')")
    return torch.autocast(device.type, torch.bfloat16)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Moves a tensor to the device; to a GPU from pinned memory, so that the copy runs beside the computation."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def seed_step(seed: int, step: int) -> None:
    """Sets torch's random state as a function of seed and step: a resumed run draws the same numbers as a whole one."""
    torch.manual_seed(_mixed(np.random.SeedSequence([seed, step])))


def random_generator(seed: int, step: int) -> torch.Generator:
    """Random numbers for loading the batch of a step, from seed and step; torch's own state does not change."""
    return torch.Generator().manual_seed(_mixed(np.random.SeedSequence([seed, step], spawn_key=(0,))))


def epoch_order(count: int, epoch: int, seed: int) -> Tensor:
    """A permutation of `range(count)` that depends on seed and epoch."""
    random = torch.Generator().manual_seed(_mixed(np.random.SeedSequence([seed, epoch, count])))
    return torch.randperm(count, generator=random)


def batch_of_step(count: int, batch: int, step: int, seed: int) -> list[int]:
    """The videos of a step, when epochs of shuffled videos follow each other without a gap.

    >>> sorted(batch_of_step(4, 2, 0, seed=0) + batch_of_step(4, 2, 1, seed=0))
    [0, 1, 2, 3]
    """
    orders: dict[int, Tensor] = {}
    chosen = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, count)
        if epoch not in orders:
            orders[epoch] = epoch_order(count, epoch, seed)
        chosen.append(int(orders[epoch][place]))
    return chosen


def _mixed(sequence: np.random.SeedSequence) -> int:
    """A seed for torch, of 63 bits: torch refuses larger ones."""
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
