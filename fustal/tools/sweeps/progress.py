"""How a sweep gets on: a live table on a terminal, a line for each finished stage elsewhere."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from distributed import CancelledError, Client, Future
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from fustal.data.files import one_line
from fustal.runs.chain import CHAIN
from fustal.tools.sweeps.plan import Task

STATES = ("done", "running", "waiting", "failed")

Name = tuple[str, str]
"""Job and stage."""


def follow(
    client: Client,
    futures: Mapping[Name, Future],
    tasks: Sequence[Task],
    say: Callable[[str], None],
    every: float = 1.0,
) -> list[str]:
    """Watches the tasks of a sweep until all have ended.

    Args:
        client: of the scheduler.
        futures: of the tasks that were handed to it, by job and stage.
        tasks: all of them, also those that had been done.
        say: takes a line for each task that ends, where there is no terminal, and the summary.
        every: seconds between two looks.

    Returns:
        A line for each job that failed: its first stage that did, and why.
    """
    console, began, told, lost = Console(), time.monotonic(), set(), set()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            states = states_of(client, futures, tasks)
            if console.is_terminal:
                live.update(board(states, futures, tasks, client, time.monotonic() - began), refresh=True)
            else:
                for name in [name for name in futures if states[name] in ("done", "failed") and name not in told]:
                    told.add(name)
                    if name[0] not in lost:  # what a job cannot do any more is not worth a line
                        say(f"{len(told)}/{len(futures)} {' '.join(name)}: {ending(futures[name])}")
                    if states[name] == "failed":
                        lost.add(name[0])
            if not {"running", "waiting"} & set(states.values()):
                break
            time.sleep(every)
    failures = failed(futures, tasks)
    jobs = Counter(jobs_by_state(states).values())
    computed = sum(task.name in futures and not task.donor for task in tasks)
    say(
        f"{jobs['done']} of {jobs.total()} jobs done, {jobs['failed']} failed, {computed} stages computed, "
        f"{time.monotonic() - began:.0f} s"
    )
    return failures


def states_of(client: Client, futures: Mapping[Name, Future], tasks: Sequence[Task]) -> dict[Name, str]:
    """What each task does, as far as the scheduler tells: one of `STATES`."""
    threads = client.nthreads()
    running = {key for worker, keys in client.processing().items() for key in list(keys)[: threads.get(worker, 0)]}
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
    """The state of each job: failed or running if any of its stages is, done if all are.

    >>> jobs_by_state({("a", "generator"): "done", ("a", "student"): "running", ("b", "generator"): "done"})
    {'a': 'running', 'b': 'done'}
    """
    stages: dict[str, set[str]] = {}
    for (job, _), state in states.items():
        stages.setdefault(job, set()).add(state)
    return {
        job: next((state for state in ("failed", "running", "waiting") if state in found), "done")
        for job, found in stages.items()
    }


def time_left(states: Mapping[Name, str], futures: Mapping[Name, Future], tasks: Sequence[Task], workers: int) -> float:
    """Seconds, from what the stages that have ended took; not a number as long as a kind of stage has not ended."""
    seconds: dict[str, list[float]] = {}
    computing = [task for task in tasks if task.donor is None]
    for task in computing:
        if task.name in futures and futures[task.name].status == "finished":
            seconds.setdefault(task.stage, []).append(futures[task.name].result())
    left = 0.0
    for task in computing:
        if states[task.name] in ("running", "waiting"):
            known = seconds.get(task.stage)
            left += sum(known) / len(known) if known else float("nan")
    return left / max(workers, 1)


def board(
    states: Mapping[Name, str], futures: Mapping[Name, Future], tasks: Sequence[Task], client: Client, passed: float
) -> Group:
    """The live table: stages by state, the jobs, the time left, and where the dashboard is."""
    table = Table("stage", *STATES)
    for stage in CHAIN:
        counts = Counter(states[task.name] for task in tasks if task.stage == stage)
        table.add_row(stage, *(str(counts[state] or "") for state in STATES))
    jobs = Counter(jobs_by_state(states).values())
    table.add_section()
    table.add_row("jobs", *(str(jobs[state] or "") for state in STATES))
    left = time_left(states, futures, tasks, sum(client.nthreads().values()))
    about = "not known yet" if left != left else f"about {left / 60:.0f} min"
    return Group(table, f"{passed / 60:.0f} min passed, time left {about}; dashboard: {dashboard(client)}")


def dashboard(client: Client) -> str:
    """The address of the scheduler's dashboard, if it has one."""
    return client.dashboard_link if "dashboard" in client.scheduler_info()["services"] else "none"


def ending(future: Future) -> str:
    """How a task ended, in a few words."""
    return f"{future.result():.0f} s" if future.status == "finished" else f"failed: {reason(future)}"


def failed(futures: Mapping[Name, Future], tasks: Sequence[Task]) -> list[str]:
    """A line for each job that failed."""
    lines: dict[str, str] = {}
    for task in sorted(tasks, key=lambda task: list(CHAIN).index(task.stage)):
        future, job = futures.get(task.name), task.params.run
        if future is not None and future.status != "finished":
            lines.setdefault(job, f"{job}: {reason(future)}")
    return list(lines.values())


def reason(future: Future) -> str:
    """Why a task has no result: one line."""
    try:
        error = future.exception()
    except CancelledError:
        return "cancelled: the scheduler has lost it"
    return one_line(error)
