"""Runs the tasks of a sweep on dask.distributed: a local cluster, or any scheduler by its address.

A task is one notebook, which papermill executes in a process of its own. Nothing is kept in the workers' memory: what a
task leaves is files below the sweep's folder, so that a lost worker, or a lost client, costs only what it was doing.
"""

import contextlib
import functools
import importlib.metadata
import logging
import os
import platform
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import psutil
import torch
import yaml
from distributed import Client, Future, Nanny, Scheduler, SpecCluster

from fustal.data.cards import load_dataset
from fustal.data.demo import ensure
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.runs.batch import run_chain
from fustal.runs.chain import CHAIN
from fustal.runs.identity import code_digest, data_key
from fustal.runs.stage import adopt, is_done
from fustal.tools.sweeps.plan import Task, describe, digest_of, jobs_of, plan, read_sweep
from fustal.tools.sweeps.progress import dashboard, follow

LOG = logging.getLogger("distributed.fustal")
"""What workers do, among what dask's workers log."""

TRAINING = ("generator", "student", "distilled")
"""Stages that ask for a GPU where there are any."""

PATIENCE = 60
"""Seconds to wait for the first worker of a scheduler."""


def run_sweep(
    path: Path,
    outputs: str,
    *,
    address: str | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Runs what is missing of a sweep.

    Args:
        path: of the sweep file.
        outputs: folder, or URL of any file system that fsspec knows and all workers reach; a job has a folder in it.
        address: of a scheduler; None starts a local cluster.
        workers: of the local cluster.
        dry_run: only tell what would run.
        say: takes lines of progress.

    Returns:
        A line for each job that failed.

    Raises:
        InputError: before anything runs: the sweep, its data, the scheduler or its workers are not as they must be.
    """
    sweep = read_sweep(path)
    jobs = jobs_of(sweep, path)
    tasks = plan(jobs, Path(outputs) if is_local(outputs) else None)
    computed = sum(not task.done and task.donor is None for task in tasks)
    say(f"{path.stem}: {len(jobs)} jobs, {len(tasks)} stages, of which {computed} are to be computed, in {outputs}")
    if dry_run:
        for line in describe(tasks):
            say(line)
        return []
    with connect(address, workers, jobs, sweep.memory_gib) as client:
        check(client, jobs, outputs)
        say(f"{len(client.nthreads())} workers; dashboard: {dashboard(client)}")
        return follow(client, submit(client, tasks, outputs), tasks, say)


# --- on a worker ---


def run_task(values: dict[str, Any], stage: str, donor: str | None, outputs: str, *before: float) -> float:
    """Runs one notebook of a job, or takes its result over from another job; nothing where it is done already.

    Args:
        values: parameters of the job.
        stage: name of the stage.
        donor: the job that has computed the same already.
        outputs: the sweep's folder or URL.
        *before: what the tasks that this one needs have returned.

    Returns:
        Seconds.

    Raises:
        InputError: the notebook refused its input.
        StageError: the notebook failed.
    """
    params, began = Params(**values), time.monotonic()
    with workplace(outputs, params.run, donor) as folder:
        if donor:
            if not is_done(params, stage, data_key(load_dataset(params.dataset)), folder):
                adopt(folder / donor, params, stage, folder)
        else:
            file = folder / params.run / "params.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(yaml.safe_dump(params.of(Params), sort_keys=False), encoding="utf-8")
            # dask has its workers give freed memory back at once; a training would take it again at every step
            os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)
            say = functools.partial(LOG.info, f"{params.run}: %s")  # and no bar, which would tear the client's table
            run_chain(params, stages=[stage], outputs=folder, report=say, bar=False)
    return time.monotonic() - began


@contextlib.contextmanager
def workplace(outputs: str, job: str, donor: str | None) -> Iterator[Path]:
    """The folder above the jobs' folders: a local one itself, else a copy of the jobs, of which one goes back.

    Args:
        outputs: folder, or URL of any file system that fsspec knows.
        job: is written to the URL when the block ends, also after an error.
        donor: another job that is looked at.
    """
    system, root = fsspec.url_to_fs(outputs)
    if is_local(outputs):
        yield Path(root)
        return
    with tempfile.TemporaryDirectory(prefix="fustal-") as folder:
        for name in filter(None, (job, donor)):
            if system.exists(f"{root}/{name}"):
                system.get(f"{root}/{name}/", f"{folder}/{name}/", recursive=True)
        try:
            yield Path(folder)
        finally:
            system.put(f"{folder}/{job}/", f"{root}/{job}/", recursive=True)


def is_local(outputs: str) -> bool:
    """Whether runs are written where they stay."""
    return "://" not in outputs


def look(outputs: str, token: str, datasets: Sequence[str]) -> dict[str, Any]:
    """What must be the same for the client and for all workers."""
    system, root = fsspec.url_to_fs(outputs)
    for name in datasets:
        ensure(name)
    return {
        "code": digest_of([code_digest(stage.notebook) for stage in CHAIN.values()]),
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "pandas")},
        **{f"data set {name}": data_key(load_dataset(name))[:16] for name in datasets},
        f"sight of {outputs}": system.exists(f"{root}/{token}"),
    }


# --- in the client ---


@contextlib.contextmanager
def connect(address: str | None, workers: int | None, jobs: Sequence[Params], memory_gib: float) -> Iterator[Client]:
    """A client of a scheduler, or of a local cluster that ends with the block.

    Args:
        address: of the scheduler; None for a local cluster.
        workers: of the local cluster; None for as many as there are GPUs or, without any, as cores and memory bear.
        jobs: what will run.
        memory_gib: that a job may need.

    Raises:
        InputError: there is no scheduler, or it has no workers.
    """
    if address:
        try:
            client = Client(address, timeout=10)
            client.wait_for_workers(1, timeout=PATIENCE)
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(f"--scheduler {address}: no workers there: {error}") from None
        with client:
            yield client
        return
    specification = local_workers(workers, jobs, memory_gib)
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}}
    with SpecCluster(workers=specification, scheduler=scheduler, silence_logs=50) as cluster, Client(cluster) as client:
        yield client


def local_workers(count: int | None, jobs: Sequence[Params], memory_gib: float) -> dict[int, dict[str, Any]]:
    """Workers of one task each that do not fight for cores, memory or GPUs.

    Args:
        count: how many, if it was said.
        jobs: what will run.
        memory_gib: that a job may need.
    """
    gpus = 0 if all(params.device == "cpu" for params in jobs) else torch.cuda.device_count()
    threads = max(params.threads or os.cpu_count() or 1 for params in jobs)
    room = int(psutil.virtual_memory().total / 2**30 / memory_gib)
    count = count or max(1, min(gpus or (os.cpu_count() or 1) // threads, room))
    options: dict[str, Any] = {"nthreads": 1, "memory_limit": None, "host": "127.0.0.1", "silence_logs": 50}
    cards = [
        {"env": {"CUDA_VISIBLE_DEVICES": str(i % gpus)}, "resources": {"GPU": 1}} if gpus else {} for i in range(count)
    ]
    return {i: {"cls": Nanny, "options": options | card} for i, card in enumerate(cards)}


def check(client: Client, jobs: Sequence[Params], outputs: str) -> None:
    """Looks, before anything starts, whether all workers see the same code, versions, data and run folders.

    Raises:
        InputError: a worker does not, or would run several notebooks at once.
    """
    system, root = fsspec.url_to_fs(outputs)
    token, datasets = f".seen-{uuid.uuid4().hex}", sorted({params.dataset for params in jobs})
    system.makedirs(root, exist_ok=True)
    with system.open(f"{root}/{token}", "w") as file:
        file.write("written by the client, to be seen by all workers\n")
    try:
        for worker, threads in client.nthreads().items():
            if threads > 1:
                raise InputError(f"worker {worker}: has {threads} threads: start workers with --nthreads 1")
        mine = look(outputs, token, datasets)
        for worker, theirs in client.run(look, outputs, token, datasets).items():
            for name, value in mine.items():
                if theirs[name] != value:
                    raise InputError(f"worker {worker}: has another {name} ({theirs[name]}) than the client ({value})")
    finally:
        system.rm(f"{root}/{token}")


def submit(client: Client, tasks: Sequence[Task], outputs: str) -> dict[tuple[str, str], Future]:
    """Hands the tasks that are not done to the scheduler, job by job.

    Args:
        client: of the scheduler.
        tasks: of `fustal.tools.sweeps.plan.plan`: each behind those that it needs.
        outputs: the sweep's folder or URL.

    Returns:
        A future for each, by job and stage.
    """
    order = {run: number for number, run in enumerate(dict.fromkeys(task.params.run for task in tasks))}
    has_gpus = any("GPU" in worker["resources"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())
    names, futures = list(CHAIN), {}
    for task in tasks:
        if task.done:
            continue
        run, stage = task.name
        needed = [(run, names[i - 1]) for i in [names.index(stage)] if i] + [(task.donor, stage)] * bool(task.donor)
        wants_gpu = (
            stage in TRAINING
            and not task.donor
            and (task.params.device == "cuda" or (task.params.device == "auto" and has_gpus))
        )
        futures[task.name] = client.submit(
            run_task,
            task.params.of(Params),
            stage,
            task.donor,
            outputs,
            *[futures[name] for name in needed if name in futures],
            key=f"{stage}-{digest_of((outputs, run, task.key))}",
            priority=-order[run],
            resources={"GPU": 1} if wants_gpu else None,
        )
    return futures
