"""Data parallelism on one machine: a training in several processes, each on its share of every batch.

A process computes on consecutive videos of a batch, its `share`, but every process has the loss of the whole batch: it
is made of what `total` and `gather` collect from all of them. So contrast and counts see the batch as one process
would, and `backward` gives the same gradient. With one process all of this does nothing.
"""

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from operator import itemgetter
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fustal import InputError
from fustal.files import read_json
from fustal.params import Params
from fustal.writing import write_json

KNOWN_ERRORS: dict[str, type[Exception]] = {"InputError": InputError, "FloatingPointError": FloatingPointError}
"""Errors of a process that are raised again as what they are, by name; all others become RuntimeErrors."""


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(count: int) -> slice:
    """Which of `count` videos of a batch are this process's; all of them where there are fewer than processes.

    >>> share(5)
    slice(0, 5, None)
    """
    if count < processes():
        return slice(0, count)
    return slice(count * rank() // processes(), count * (rank() + 1) // processes())


def total(x: Tensor, count: int) -> Tensor:
    """The sum over the processes of what each computed from its share; gradients flow back to all of them.

    Args:
        x: of the same shape everywhere.
        count: videos of the whole batch: where every process has all of them, they count once.
    """
    if processes() == 1:
        return x
    return _Sum.apply(x) / (processes() if count < processes() else 1)


def gather(x: Tensor, count: int) -> Tensor:
    """Rows (count, ...) of the whole batch, from this process's share (b, ...) of them; gradients flow back."""
    if processes() == 1:
        return x
    whole = x.new_zeros(count, *x.shape[1:])
    whole[share(count)] = x
    return total(whole, count)


def backward(loss: Tensor, weights: Iterable[Tensor]) -> None:
    """Gradients of a loss that every process has, with respect to weights that are the same everywhere."""
    (loss / processes() if processes() > 1 else loss).backward()
    if processes() > 1:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        whole = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(whole)
        for gradient, part in zip(gradients, whole.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        whole = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


def launch(params: Params, batch: int, train: Callable[..., object], *arguments: object) -> None:
    """Trains in `params.processes` processes, where that is more than one and this is not one of them.

    The processes leave nothing but the log and the checkpoint of the last step; `fustal.training.fit`, called with the
    same folder afterwards, takes everything from there. They share the caller's CPU threads, and end with it. A script
    that calls this needs `if __name__ == "__main__":`, as each process imports it; a notebook does not.

    Args:
        params: `processes`, `device`.
        batch: videos of a step.
        train: what each process calls, a function of a module.
        *arguments: with what.

    Raises:
        InputError: more processes than GPUs, or than videos in a batch; or what a process raised.
        FloatingPointError: what a process raised.
        RuntimeError: a process failed in another way.
    """
    count, gpus = params.processes, 0 if params.device == "cpu" else torch.cuda.device_count()
    if count == 1 or dist.is_initialized():
        return
    if count > batch:
        raise InputError(f"processes: {count} were asked for, but a batch has {batch} videos")
    if gpus and count > gpus:
        raise InputError(f"processes: {count} were asked for, but PyTorch sees {gpus} GPU{'s' * (gpus > 1)}")
    for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn"):  # what goes wrong is raised below
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            signals_to_handle="",  # an interrupt is the notebook's
            virtual_local_rank=gpus > 0,  # to each process its GPU is the only one
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        threads = max(1, torch.get_num_threads() // count)
        try:
            elastic_launch(config, _work)(Path(folder), threads, gpus > 0, train, arguments)
        except ChildFailedError as error:
            raise _first_error(Path(folder), error) from None


def _work(folder: Path, threads: int, gpu: bool, train: Callable[..., object], arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once, in the midst of a collective as well
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        torch.set_num_threads(threads)
        dist.init_process_group("nccl" if gpu else "gloo")
        train(*arguments)
        dist.destroy_process_group()
    except Exception as error:
        known = type(error).__name__ in KNOWN_ERRORS
        line = {"kind": type(error).__name__, "message": str(error) if known else traceback.format_exc()}
        write_json({"time": time.time_ns(), **line}, folder / f"{os.environ['RANK']}.error.json")
        time.sleep(1)  # if this came of another process's death, that is to be found first
        os._exit(1)  # waits neither for threads nor for other processes


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _first_error(folder: Path, error: ChildFailedError) -> Exception:
    """What went wrong first: what comes after it is about a process that is gone."""
    which, failure = error.get_first_failure()
    found = sorted((read_json(path) for path in folder.glob("*.error.json")), key=itemgetter("time"))
    if failure.exitcode < 0 or not found:
        return RuntimeError(f"process {which} of the training ended with exit code {failure.exitcode}")
    return KNOWN_ERRORS.get(found[0]["kind"], RuntimeError)(found[0]["message"])
