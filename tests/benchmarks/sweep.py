"""A sweep of 24 chains on a scheduler and three workers in separate processes, with failures.

`python -m tests.benchmarks.sweep [--page docs/cluster.md]`, half an hour on two cores. A worker and a client are killed
(SIGKILL), and an additional job fails on purpose; then six of the jobs run one by one without a sweep, and on one and
two workers. It writes the results. As root, with iproute2, each worker has its own network.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import yaml

from fustal import ROOT
from fustal.params import Params
from fustal.runs.provenance import provenance
from fustal.tools.sweeps.plan import jobs_of, plan, read_sweep
from fustal.tools.sweeps.tables import insert

DEMO = ROOT / "params" / "sweeps" / "demo.yaml"
WORKERS = 3
FUSTAL = [sys.executable, "-m", "fustal"]


def main() -> None:
    """Runs both parts and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, help="a page to put the figures into, between its marks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = [*disturbed(Path(folder)), *undisturbed(Path(folder))]
    made = provenance(Params())
    text = "\n".join([f"{made['processor']}, {made['cores']} cores, commit {made['git_commit'][:7]}:", "", *lines])
    print(text)
    if options.page:
        insert(text, options.page, "figures")


def disturbed(folder: Path) -> list[str]:
    """Runs 24 jobs and one that fails, with a lost worker and a lost client; returns the figures as lines."""
    sweep = read_sweep(DEMO)
    content = sweep.model_dump() | {"variants": {"demo": {}}}
    (folder / "chains.yaml").write_text(yaml.safe_dump(content))
    jobs = jobs_of(read_sweep(folder / "chains.yaml"), folder / "chains.yaml")
    strict = content | {
        "variants": {"strict": {"label_rule": "thresholds", "confidence_min": 0.999}},
        "grid": {},
        "seeds": [0],
    }
    (folder / "strict.yaml").write_text(yaml.safe_dump(strict))
    began = time.monotonic()
    with cluster(folder) as (address, workers):
        failing = start(folder, "sweep", folder / "strict.yaml", "--scheduler", address)
        first = start(folder, "sweep", folder / "chains.yaml", "--scheduler", address)
        wait_until(lambda: len(finished(folder / "chains")) >= 15)
        for process in [*workers[0].children(), workers[0]]:  # with the parent, which would start it again
            process.kill()
        wait_until(lambda: len(finished(folder / "chains")) >= 40)
        first.kill()
        second = start(folder, "sweep", folder / "chains.yaml", "--scheduler", address)
        status = second.wait()
        failed_status = failing.wait()
    seconds = time.monotonic() - began
    computed = finished(folder / "chains")
    taken = len(jobs) * 5 - len(computed)
    assert status == 0, (folder / "log").read_text()
    assert failed_status == 1
    assert len(list((folder / "chains").glob("*/evaluation/metrics.json"))) == len(jobs) == 24
    planned = sum(task.donor is None for task in plan(jobs, None))
    assert len(computed) == planned
    repeated = []
    for name, count in starts(folder / "cluster.log", jobs).items():
        if count > 1:
            repeated.append(" ".join(name))
    where = f"{WORKERS} workers" + ", each in a network of its own" * namespaces()
    return [
        f"- {len(jobs)} chains on {where}, one of them killed for good, then the client killed and started again, "
        f"beside a job that fails: {len(jobs)} done in {seconds / 60:.0f} minutes, the failing one named, with exit "
        f"status {failed_status}.",
        f"- {planned} stages computed, {taken} taken over; started more than once: {len(repeated)} "
        f"({', '.join(sorted(repeated)) or 'none'}).",
    ]


def undisturbed(folder: Path) -> list[str]:
    """Runs six of the jobs one by one and as sweeps; returns the comparison of results and times as lines."""
    content = read_sweep(DEMO).model_dump() | {"variants": {"demo": {}}}
    content["grid"] = {name: values[-1:] for name, values in content["grid"].items()}
    (folder / "six.yaml").write_text(yaml.safe_dump(content))
    jobs = jobs_of(read_sweep(folder / "six.yaml"), folder / "six.yaml")
    for params in jobs:
        (folder / f"{params.run}.yaml").write_text(yaml.safe_dump(params.of(Params)))
    calls = {
        "serial": [["run", folder / f"{params.run}.yaml"] for params in jobs],
        "one": [["sweep", folder / "six.yaml", "--workers", "1"]],
        "two": [["sweep", folder / "six.yaml", "--workers", "2"]],
    }
    seconds = {}
    for name, commands in calls.items():
        began = time.monotonic()
        for command in commands:
            assert start(folder, *command, outputs=folder / name).wait() == 0
        seconds[name] = time.monotonic() - began
    results = [measured(folder / where, jobs) for where in ("serial", "one/six", "two/six", "chains")]
    for params in jobs:
        for result in results[1:]:
            assert result[params.run] == results[0][params.run]
    overhead = (seconds["one"] - seconds["serial"]) / len(jobs)
    return [
        f"- {len(jobs)} of {len(jobs)} chains gave exactly the same metrics one by one (`fustal run`), on one worker, "
        "on two, and among the disturbed ones.",
        f"- One by one {seconds['serial']:.0f} s; as a sweep on one worker {seconds['one']:.0f} s, {overhead:+.0f} s a "
        f"chain (a process for each notebook); on two workers {seconds['two']:.0f} s, "
        f"{seconds['one'] / seconds['two']:.2f} × as fast as on one.",
    ]


def start(folder: Path, *arguments: object, outputs: Path | None = None) -> psutil.Popen:
    """Starts the command; its output is appended to a log."""
    environment = os.environ | {"FUSTAL_OUTPUTS": str(outputs or folder), "TQDM_DISABLE": "1"}
    with open(folder / "log", "a") as log:
        return psutil.Popen([*FUSTAL, *map(str, arguments)], env=environment, stdout=log, stderr=log)


def finished(sweep: Path) -> list[Path]:
    """Records of the stages that were computed, not taken over."""
    return [path for path in sweep.glob("*/*/stage.json") if "taken_from" not in json.loads(path.read_text())]


def measured(sweep: Path, jobs: list[Params]) -> dict[str, dict]:
    """mAP and label quality of each job."""
    found = {}
    for job in jobs:
        metrics = json.loads((sweep / job.run / "evaluation" / "metrics.json").read_text())
        found[job.run] = {"mAP": metrics["mAP"], "labels": metrics["labels"]}
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    """Checks a condition each second until it is true."""
    while not condition():
        time.sleep(1)


def starts(log: Path, jobs: list[Params]) -> Counter[tuple[str, str]]:
    """Number of starts of each notebook of each job, from the log of the workers."""
    found = re.findall(r"([\w.-]+): \d/\d (\w+) \.\.\.$", log.read_text(), re.MULTILINE)
    runs = {params.run for params in jobs}
    return Counter((run, notebook) for run, notebook in found if run in runs)


def namespaces() -> bool:
    """Whether workers can have their own networks."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[psutil.Popen]]]:
    """Starts a scheduler and workers of one thread as processes; yields the address and the workers."""
    dask = [sys.executable, "-m", "dask"]
    host = "127.0.0.1"
    prefixes = [[]] * WORKERS
    hosts = [host] * WORKERS
    with contextlib.ExitStack() as stack:
        if namespaces():
            host, hosts, prefixes = stack.enter_context(networks())
        log = stack.enter_context(open(folder / "cluster.log", "w"))
        calls = [[*dask, "scheduler", "--host", host, "--port", "8786", "--no-dashboard"]]
        for prefix, own in zip(prefixes, hosts, strict=True):
            options = ["--host", own, "--nworkers", "1", "--nthreads", "1"]
            calls.append([*prefix, *dask, "worker", f"tcp://{host}:8786", *options])
        processes = []
        for call in calls:
            processes.append(psutil.Popen([*call], stdout=log, stderr=log, cwd=folder))
            stack.callback(end, processes[-1])
        yield f"tcp://{host}:8786", processes[1:]


def end(process: psutil.Popen) -> None:
    """Ends a process and its children."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in process.children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


@contextlib.contextmanager
def networks() -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Network namespaces on a bridge; yields the address outside, those inside, and prefixes for commands."""

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    with contextlib.ExitStack() as stack:
        ip("link", "add", "fustal", "type", "bridge")
        stack.callback(ip, "link", "delete", "fustal")
        ip("address", "add", "10.77.0.1/24", "dev", "fustal")
        ip("link", "set", "fustal", "up")
        for i in range(WORKERS):
            space = f"fustal{i}"
            inside = ["-n", space]
            ip("netns", "add", space)
            stack.callback(ip, "netns", "delete", space)
            ip("link", "add", f"fu{i}", "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", f"fu{i}", "master", "fustal", "up")
            ip(*inside, "address", "add", f"10.77.0.{i + 2}/24", "dev", "eth0")
            ip(*inside, "link", "set", "eth0", "up")
            ip(*inside, "link", "set", "lo", "up")
        yield (
            "10.77.0.1",
            [f"10.77.0.{i + 2}" for i in range(WORKERS)],
            [["ip", "netns", "exec", f"fustal{i}"] for i in range(WORKERS)],
        )


if __name__ == "__main__":
    main()
