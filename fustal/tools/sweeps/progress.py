"""Progress of a sweep: a live table on a terminal, elsewhere a line for each stage that ends."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from distributed import CancelledError, Client, Future
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from fustal.data.files import one_line
from fustal.runs.chain import CHAIN
from fustal.tools.sweeps.plan import SweepTask

STATES = ("done", "running", "waiting", "failed")
"""States of tasks and of jobs."""

Name = tuple[str, str]
"""Job and stage."""


def follow(
    client: Client,
    futures: Mapping[Name, Future],
    tasks: Sequence[SweepTask],
    report: Callable[[str], None],
    every: float = 1.0,
) -> list[str]:
    """Reports the tasks of a sweep until all have ended.

    Args:
        client: of the scheduler.
        futures: of the submitted tasks, by job and stage.
        tasks: all tasks, also those that are not submitted because they were done before.
        report: prints a line: for each task that ends, if there is no terminal, and the summary.
        every: seconds between two updates.

    Returns:
        A line for each job that failed: its first stage that failed, and why.
    """
    console = Console()
    began = time.monotonic()
    reported: set[Name] = set()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            states = states_of(client, futures, tasks)
            if console.is_terminal:
                live.update(board(states, futures, tasks, client, time.monotonic() - began), refresh=True)
            else:
                _report(futures, states, reported, report)
            if not {"running", "waiting"} & set(states.values()):
                break
            time.sleep(every)
    jobs = Counter(jobs_by_state(states).values())
    computed = sum(task.name in futures and not task.donor for task in tasks)
    report(
        f"{jobs['done']} of {jobs.total()} jobs done, {jobs['failed']} failed, {computed} stages computed, "
        f"{time.monotonic() - began:.0f} s"
    )
    return failed(futures, tasks)


def _report(
    futures: Mapping[Name, Future], states: Mapping[Name, str], reported: set[Name], report: Callable[[str], None]
) -> None:
    """Prints a line for each task that has ended since the last call; adds it to `reported`."""
    failed_jobs = {job for job, stage in reported if states[job, stage] == "failed"}
    for name, future in futures.items():
        if name in reported or states[name] not in ("done", "failed"):
            continue
        reported.add(name)
        job, stage = name
        # After the first failure of a job its later stages fail as well: they need no lines.
        if job not in failed_jobs:
            report(f"{len(reported)}/{len(futures)} {job} {stage}: {ending(future)}")
        if states[name] == "failed":
            failed_jobs.add(job)


def states_of(client: Client, futures: Mapping[Name, Future], tasks: Sequence[SweepTask]) -> dict[Name, str]:
    """The state of each task, one of `STATES`, as the scheduler reports it."""
    threads = client.nthreads()
    running: set[str] = set()
    for worker, keys in client.processing().items():
        # The scheduler lists queued tasks as well; a worker runs as many as it has threads, the first ones.
        running.update(list(keys)[: threads.get(worker, 0)])
    states = {}
    for task in tasks:
        future = futures.get(task.name)
        if future is None or future.status == "finished":
            states[task.name] = "done"
        elif future.status == "pending":
            states[task.name] = "running" if future.key in running else "waiting"
        else:
            states[task.name] = "failed"
    return states


def jobs_by_state(states: Mapping[Name, str]) -> dict[str, str]:
    """The state of each job: failed, running or waiting if any of its stages is, in this order; else done.

    >>> jobs_by_state({("a", "generator"): "done", ("a", "student"): "running", ("b", "generator"): "done"})
    {'a': 'running', 'b': 'done'}
    """
    stages: dict[str, set[str]] = {}
    for (job, _), state in states.items():
        stages.setdefault(job, set()).add(state)
    jobs = {}
    for job, found in stages.items():
        jobs[job] = "done"
        for state in ("failed", "running", "waiting"):
            if state in found:
                jobs[job] = state
                break
    return jobs


def time_left(
    states: Mapping[Name, str], futures: Mapping[Name, Future], tasks: Sequence[SweepTask], workers: int
) -> float:
    """Seconds until all tasks end, estimated from the mean of the finished tasks of the same stage.

    Returns:
        NaN until each stage that is left has finished once.
    """
    seconds: dict[str, list[float]] = {}
    computing = [task for task in tasks if task.donor is None]
    for task in computing:
        if task.name in futures and futures[task.name].status == "finished":
            seconds.setdefault(task.stage, []).append(futures[task.name].result())
    left = 0.0
    for task in computing:
        if states[task.name] in ("running", "waiting"):
            finished = seconds.get(task.stage)
            left += sum(finished) / len(finished) if finished else float("nan")
    return left / max(workers, 1)


def board(
    states: Mapping[Name, str],
    futures: Mapping[Name, Future],
    tasks: Sequence[SweepTask],
    client: Client,
    passed: float,
) -> Group:
    """The live table: number of stages and of jobs in each state, the time left, the address of the dashboard."""
    table = Table("stage", *STATES)
    for stage in CHAIN:
        counts = Counter(states[task.name] for task in tasks if task.stage == stage)
        table.add_row(stage, *(str(counts[state] or "") for state in STATES))
    jobs = Counter(jobs_by_state(states).values())
    table.add_section()
    table.add_row("jobs", *(str(jobs[state] or "") for state in STATES))
    left = time_left(states, futures, tasks, sum(client.nthreads().values()))
    about = "unknown" if math.isnan(left) else f"about {left / 60:.0f} min"
    return Group(table, f"{passed / 60:.0f} min passed, time left: {about}; dashboard: {dashboard(client)}")


def dashboard(client: Client) -> str:
    """The address of the scheduler's dashboard, or "none"."""
    return client.dashboard_link if "dashboard" in client.scheduler_info()["services"] else "none"


def ending(future: Future) -> str:
    """The seconds of a finished task, or why it failed."""
    if future.status == "finished":
        return f"{future.result():.0f} s"
    return f"failed: {reason(future)}"


def failed(futures: Mapping[Name, Future], tasks: Sequence[SweepTask]) -> list[str]:
    """A line for each job that failed: why its first stage that failed did so."""
    lines: dict[str, str] = {}
    order = list(CHAIN)
    for task in sorted(tasks, key=lambda task: order.index(task.stage)):
        job = task.params.run
        future = futures.get(task.name)
        if future is not None and future.status != "finished":
            lines.setdefault(job, f"{job}: {reason(future)}")
    return list(lines.values())


def reason(future: Future) -> str:
    """Why a task has no result, in one line."""
    try:
        error = future.exception()
    except CancelledError:
        return "cancelled: the scheduler has lost it"
    return one_line(error)
