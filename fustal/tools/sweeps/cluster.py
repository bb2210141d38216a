"""Runs the tasks of a sweep on dask.distributed: on a local cluster, or on any scheduler by its address.

A task is one notebook, which papermill executes in a process of its own. Results are files in the sweep's folder, not
objects in the workers' memory. When a worker or the client is lost, only the tasks that were running are lost.
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
from fustal.tools.sweeps.plan import SweepTask, describe, digest_of, jobs_of, plan, read_sweep
from fustal.tools.sweeps.progress import Name, dashboard, follow

LOG = logging.getLogger("distributed.fustal")
"""Progress of notebooks, a part of the log of dask's workers."""

TRAINING = ("generator", "student", "distilled")
"""Stages that run on a GPU if there is one."""

WORKER_TIMEOUT = 60
"""Maximum time in seconds to wait for the first worker of a scheduler."""


def run_sweep(
    path: Path,
    outputs: str,
    *,
    address: str | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    report: Callable[[str], None] = print,
) -> list[str]:
    """Runs the stages of a sweep that are not done.

    Args:
        path: of the sweep file.
        outputs: folder for the jobs' folders, or URL on a file system that fsspec supports and all workers can reach.
        address: of a scheduler; None starts a local cluster.
        workers: number of workers of the local cluster; None for a number that fits the machine.
        dry_run: only print what would run.
        report: prints a line of progress.

    Returns:
        A line for each job that failed.

    Raises:
        InputError: a fault of the sweep, its data, the scheduler or its workers, found before anything runs.
    """
    sweep = read_sweep(path)
    jobs = jobs_of(sweep, path)
    tasks = plan(jobs, Path(outputs) if is_local(outputs) else None)
    computed = sum(not task.done and task.donor is None for task in tasks)
    report(f"{path.stem}: {len(jobs)} jobs, {len(tasks)} stages, of which {computed} are to be computed, in {outputs}")
    if dry_run:
        for line in describe(tasks):
            report(line)
        return []
    with connect(address, workers, jobs, sweep.memory_gib) as client:
        check(client, jobs, outputs)
        report(f"{len(client.nthreads())} workers; dashboard: {dashboard(client)}")
        return follow(client, submit(client, tasks, outputs), tasks, report)


# --- on a worker ---


def run_task(values: dict[str, Any], stage: str, donor: str | None, outputs: str, *before: float) -> float:
    """Runs one notebook of a job, or copies its result from another job; does nothing if it is done.

    Args:
        values: parameters of the job.
        stage: name of the stage.
        donor: name of the job that has computed the same stage, if there is one.
        outputs: the sweep's folder or URL.
        *before: results of the tasks that must end before; not used, but dask waits for them.

    Returns:
        Time in seconds.

    Raises:
        InputError: the notebook refused its input.
        StageError: the notebook failed.
    """
    params = Params(**values)
    began = time.monotonic()
    with workplace(outputs, params.run, donor) as folder:
        if donor:
            if not is_done(params, stage, data_key(load_dataset(params.dataset)), folder):
                adopt(folder / donor, params, stage, folder)
        else:
            file = folder / params.run / "params.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(yaml.safe_dump(params.of(Params), sort_keys=False), encoding="utf-8")
            # dask makes its workers return freed memory at once; a training would request it again in every step.
            os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)
            # No progress bar: it would break the table on the client's terminal.
            report = functools.partial(LOG.info, f"{params.run}: %s")
            run_chain(params, stages=[stage], outputs=folder, report=report, bar=False)
    return time.monotonic() - began


@contextlib.contextmanager
def workplace(outputs: str, job: str, donor: str | None) -> Iterator[Path]:
    """A local folder that holds the folders of a job and its donor.

    A local sweep is used itself. From a URL both jobs are copied to a temporary folder; the job is copied back when the
    block ends, also after an error.

    Args:
        outputs: the sweep's folder, or its URL on a file system that fsspec supports.
        job: name of the job that the block works on.
        donor: name of another job that the block reads, if any.

    Yields:
        The folder.
    """
    system, root = fsspec.url_to_fs(outputs)
    if is_local(outputs):
        yield Path(root)
        return
    with tempfile.TemporaryDirectory(prefix="fustal-") as folder:
        for name in (job, donor):
            if name and system.exists(f"{root}/{name}"):
                system.get(f"{root}/{name}/", f"{folder}/{name}/", recursive=True)
        try:
            yield Path(folder)
        finally:
            system.put(f"{folder}/{job}/", f"{root}/{job}/", recursive=True)


def is_local(outputs: str) -> bool:
    """Whether the sweep's folder is a folder and not a URL."""
    return "://" not in outputs


def environment_of(outputs: str, token: str, datasets: Sequence[str]) -> dict[str, Any]:
    """Everything that must be the same on the client and on all workers.

    Args:
        outputs: the sweep's folder or URL.
        token: name of a file that the client has written there.
        datasets: names of the data sets of all jobs.

    Returns:
        Name -> value: code, versions, data sets, and whether the token is found.
    """
    system, root = fsspec.url_to_fs(outputs)
    environment = {
        "code": digest_of([code_digest(stage.notebook) for stage in CHAIN.values()]),
        "Python": platform.python_version(),
    }
    for name in ("torch", "numpy", "pandas"):
        environment[name] = importlib.metadata.version(name)
    for name in datasets:
        ensure(name)
        environment[f"data set {name}"] = data_key(load_dataset(name))[:16]
    environment[f"access to {outputs}"] = system.exists(f"{root}/{token}")
    return environment


# --- in the client ---


@contextlib.contextmanager
def connect(address: str | None, workers: int | None, jobs: Sequence[Params], memory_gib: float) -> Iterator[Client]:
    """A client of a scheduler, or of a local cluster that ends with the block.

    Args:
        address: of the scheduler; None for a local cluster.
        workers: number of workers of the local cluster; None for a number that fits the machine.
        jobs: parameters of all jobs.
        memory_gib: maximum memory of a job in GiB.

    Yields:
        The client.

    Raises:
        InputError: there is no scheduler, or it has no workers.
    """
    if address:
        try:
            client = Client(address, timeout=10)
            client.wait_for_workers(1, timeout=WORKER_TIMEOUT)
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
    """Workers of one thread each that share cores, memory and GPUs without conflicts.

    Args:
        count: number of workers; None for one per GPU or, without GPUs, as many as cores and memory allow.
        jobs: parameters of all jobs.
        memory_gib: maximum memory of a job in GiB.

    Returns:
        Specifications for dask's `SpecCluster`, by number.
    """
    gpus = 0 if all(params.device == "cpu" for params in jobs) else torch.cuda.device_count()
    if count is None:
        cores = os.cpu_count() or 1
        threads = max(params.threads or cores for params in jobs)
        by_memory = int(psutil.virtual_memory().total / 2**30 / memory_gib)
        count = max(1, min(gpus or cores // threads, by_memory))
    workers = {}
    for number in range(count):
        options: dict[str, Any] = {"nthreads": 1, "memory_limit": None, "host": "127.0.0.1", "silence_logs": 50}
        if gpus:
            options["env"] = {"CUDA_VISIBLE_DEVICES": str(number % gpus)}
            options["resources"] = {"GPU": 1}
        workers[number] = {"cls": Nanny, "options": options}
    return workers


def check(client: Client, jobs: Sequence[Params], outputs: str) -> None:
    """Checks before anything runs that all workers have the same code, versions, data and sweep folder as the client.

    Args:
        client: of the scheduler.
        jobs: parameters of all jobs.
        outputs: the sweep's folder or URL; is made.

    Raises:
        InputError: a worker differs from the client, or has several threads and would run several notebooks at once.
    """
    system, root = fsspec.url_to_fs(outputs)
    token = f".seen-{uuid.uuid4().hex}"
    datasets = sorted({params.dataset for params in jobs})
    system.makedirs(root, exist_ok=True)
    with system.open(f"{root}/{token}", "w") as file:
        file.write("written by the client; all workers must find this file\n")
    try:
        for worker, threads in client.nthreads().items():
            if threads > 1:
                raise InputError(f"worker {worker}: has {threads} threads: start workers with --nthreads 1")
        own = environment_of(outputs, token, datasets)
        for worker, environment in client.run(environment_of, outputs, token, datasets).items():
            for name, value in own.items():
                if environment[name] != value:
                    raise InputError(f"worker {worker}: {name} is {environment[name]}, but {value} on the client")
    finally:
        system.rm(f"{root}/{token}")


def submit(client: Client, tasks: Sequence[SweepTask], outputs: str) -> dict[Name, Future]:
    """Submits the tasks that are not done to the scheduler; earlier jobs have priority.

    Args:
        client: of the scheduler.
        tasks: of `fustal.tools.sweeps.plan.plan`: each one after those that it needs.
        outputs: the sweep's folder or URL.

    Returns:
        A future for each, by job and stage.
    """
    runs = list(dict.fromkeys(task.params.run for task in tasks))
    order = {run: number for number, run in enumerate(runs)}
    with_gpu = has_gpus(client)
    futures: dict[Name, Future] = {}
    for task in tasks:
        if task.done:
            continue
        # Tasks that were done before have no future: nothing has to wait for them.
        needed = [futures[name] for name in needed_by(task) if name in futures]
        futures[task.name] = client.submit(
            run_task,
            task.params.of(Params),
            task.stage,
            task.donor,
            outputs,
            *needed,
            key=f"{task.stage}-{digest_of((outputs, task.params.run, task.key))}",
            priority=-order[task.params.run],
            resources={"GPU": 1} if runs_on_gpu(task, with_gpu) else None,
        )
    return futures


def needed_by(task: SweepTask) -> list[Name]:
    """Tasks that must end before: the stage before in the same job, and the same stage of the donor."""
    stages = list(CHAIN)
    number = stages.index(task.stage)
    needed = []
    if number > 0:
        needed.append((task.params.run, stages[number - 1]))
    if task.donor:
        needed.append((task.donor, task.stage))
    return needed


def has_gpus(client: Client) -> bool:
    """Whether any worker offers the resource "GPU"."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any("GPU" in worker["resources"] for worker in workers)


def runs_on_gpu(task: SweepTask, with_gpu: bool) -> bool:
    """Whether a task needs the resource "GPU".

    Args:
        task: to be submitted.
        with_gpu: whether any worker has a GPU.
    """
    if task.stage not in TRAINING or task.donor:
        return False
    return task.params.device == "cuda" or (task.params.device == "auto" and with_gpu)
