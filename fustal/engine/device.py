"""Device, arithmetic and random numbers of a training."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from fustal.exceptions import InputError
from fustal.params import Params


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
    """Sets torch's random state as a function of seed and step alone: a resumed run draws what the first one drew."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(state >> 1))


def random_generator(seed: int, step: int) -> torch.Generator:
    """Random numbers for loading the batch of a step, from seed and step alone; torch's own state is left alone."""
    state = np.random.SeedSequence([seed, step], spawn_key=(0,)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


def epoch_order(count: int, epoch: int, seed: int) -> Tensor:
    """A permutation of `range(count)` that depends on seed and epoch alone."""
    state = np.random.SeedSequence([seed, epoch, count]).generate_state(1, np.uint64)[0]
    return torch.randperm(count, generator=torch.Generator().manual_seed(int(state >> 1)))
