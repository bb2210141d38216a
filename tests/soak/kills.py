"""Every stage of a small demo chain is killed at random times and started again; results must equal an undisturbed run.

Two processes work at a time, each on one core. Most of the time is spent on imports, in the command and in the process
of the notebook: about six seconds for each of the hundred kills.
"""

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from fustal import ROOT
from fustal.data.files import digest
from fustal.runs.chain import CHAIN
from tests.notebooks.miniature import SMALL, environment

KILLS = 20
"""Kills of each stage."""

SIZES = SMALL | {"generator_steps": 100}


def soak_kills() -> Iterator[str]:
    """Kills each stage, two at a time; yields failures, one line each, as they are found."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        whole = Path(folder) / "whole"
        again = Path(folder) / "again"
        for status in pool.map(run_whole, (whole, again)):
            if status:
                yield f"the small demo chain ended with {status}"
                return
        different = differing(hashes(whole), hashes(again))
        print(f"determinism: {len(hashes(whole))} artefacts of two runs have equal hashes: {not different}", flush=True)
        for name in different:
            yield f"two runs differ in {name}"
        print(f"not promised: {other_threads(whole, Path(folder) / 'threads')}", flush=True)
        survived = Counter()
        for kills, failures in pool.map(lambda name: kill_stage(name, whole, Path(folder) / name), CHAIN):
            survived += kills
            yield from failures
        counts = ", ".join(f"{count} by {way}" for way, count in survived.items())
        print(f"kills survived: {survived.total()} ({counts})", flush=True)
        full_disks = 0
        for refused, failures in pool.map(lambda name: disk_full(name, whole, Path(folder) / f"{name}-full"), CHAIN):
            full_disks += refused
            yield from failures
        print(f"full disks survived: {full_disks} of {len(CHAIN)}", flush=True)


def run_whole(outputs: Path) -> int:
    """Runs the chain undisturbed; returns its exit status."""
    return start(outputs).wait()


def kill_stage(name: str, whole: Path, outputs: Path) -> tuple[Counter, list[str]]:
    """Kills one stage at random times and starts it again; a finished stage is removed and starts from the beginning.

    Returns:
        How often each way of killing was survived, and failures.
    """
    survived = Counter()
    failures = []
    generator = random.Random(name)
    seconds = json.loads((whole / "demo" / name / "stage.json").read_text())["seconds"] + START
    while survived.total() < KILLS:
        prepare(whole, outputs, name)
        while not finished(outputs, name):
            way = WAYS[survived.total() % len(WAYS)]
            process = start(outputs, name)
            killed = survived.total() < KILLS and way(process, generator.uniform(0, seconds))
            survived[way.__name__] += killed
            if not killed and process.wait():
                failures.append(f"{name} ended with {process.returncode} after {survived.total()} kills")
                return survived, failures
        for item in differing(hashes(whole, name), hashes(outputs, name)):
            failures.append(f"{item} differs after kills")
        for path in (outputs / "demo" / name).rglob(".*"):
            failures.append(f"{path} is unfinished")
    print(f"{name}: {survived.total()} kills survived", flush=True)
    return survived, failures


START = 3
"""Approximate number of seconds until the process of a notebook executes its first cell."""


def start(outputs: Path, stage: str | None = None, threads: int = 1, **options) -> subprocess.Popen:
    """Starts `fustal run params/demo.yaml` with small sizes."""
    command = [sys.executable, "-m", "fustal", "run", str(ROOT / "params" / "demo.yaml")]
    for name, value in (SIZES | {"threads": threads}).items():
        command += ["--set", f"{name}={value}"]
    if stage:
        command += ["--stage", stage]
    return subprocess.Popen(
        command,
        env=environment(outputs) | {"OMP_NUM_THREADS": "1", "FUSTAL_CHECKPOINT_EVERY": "10"},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,
    )


def other_threads(whole: Path, outputs: Path) -> str:
    """The difference between a run with two threads and a run with one, in words."""
    start(outputs, threads=2).wait()
    file = "demo/evaluation/metrics.json"
    one = json.loads((whole / file).read_text())["mAP"]
    two = json.loads((outputs / file).read_text())["mAP"]
    differences = {name: abs(one[name]["0.1:0.7"] - two[name]["0.1:0.7"]) for name in one}
    largest = max(differences, key=differences.get)
    equal = len(hashes(whole)) - len(differing(hashes(whole), hashes(outputs)))
    points = f"average mAP differs by {differences[largest]:.2f} points ({largest})"
    return f"with two threads {equal} artefacts are the same; {points}"


def prepare(whole: Path, outputs: Path, first: str) -> None:
    """Copies the whole run, without the stages from `first` on."""
    shutil.rmtree(outputs, ignore_errors=True)
    shutil.copytree(whole, outputs)
    for name in list(CHAIN)[list(CHAIN).index(first) :]:
        shutil.rmtree(outputs / "demo" / name)


def finished(outputs: Path, name: str) -> bool:
    """Whether a stage has been recorded as complete."""
    return (outputs / "demo" / name / "stage.json").exists()


def hashes(outputs: Path, *names: str) -> dict[str, str]:
    """Hashes of the artefacts of stages; metrics without their provenance."""
    found = {}
    for name in names or CHAIN:
        for item in CHAIN[name].outputs:
            path = outputs / "demo" / item
            if path.name == "metrics.json":
                found[item] = json.dumps(json.loads(path.read_text()) | {"provenance": None})
            else:
                found[item] = digest(path)
    return found


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of the artefacts that are not the same."""
    return [name for name in one if one[name] != other.get(name)]


def _ended(process: subprocess.Popen, seconds: float) -> bool:
    """Whether the command ends by itself within these seconds after the process of its notebook started."""
    while process.poll() is None and not psutil.Process(process.pid).children():
        time.sleep(0.05)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def kill_all(process: subprocess.Popen, seconds: float) -> bool:
    """SIGKILL to the command and the process of its notebook, as in a power failure."""
    if _ended(process, seconds):
        return False
    processes = [process, *psutil.Process(process.pid).children(recursive=True)]
    for one in processes:
        one.kill()
    for one in processes:
        one.wait()
    return True


def kill_notebook(process: subprocess.Popen, seconds: float) -> bool:
    """SIGKILL to the process of the notebook, as when memory runs out."""
    if _ended(process, seconds):
        return False
    kernels = psutil.Process(process.pid).children()
    for kernel in kernels:
        kernel.kill()
    return process.wait() == 1 and bool(kernels)


def _signalled(process: subprocess.Popen, seconds: float, number: signal.Signals) -> bool:
    if _ended(process, seconds):
        return False
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.wait()
    psutil.wait_procs(kernels, timeout=30)
    return True


def terminate(process: subprocess.Popen, seconds: float) -> bool:
    """SIGTERM to the command, as from a cluster."""
    return _signalled(process, seconds, signal.SIGTERM)


def interrupt(process: subprocess.Popen, seconds: float) -> bool:
    """SIGINT to the command: Ctrl-C."""
    return _signalled(process, seconds, signal.SIGINT)


WAYS = [kill_all, kill_notebook, terminate, interrupt]


def disk_full(name: str, whole: Path, outputs: Path) -> tuple[bool, list[str]]:
    """Runs a stage with a limit on the size of files, as on a full disk, and then without it.

    Returns:
        Whether the stage with the limit ended with status 1, and failures.
    """
    prepare(whole, outputs, name)
    limit = max((whole / "demo" / item).stat().st_size for item in CHAIN[name].outputs) // 2

    def set_limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    failures = []
    status = start(outputs, name, preexec_fn=set_limit).wait()
    if finished(outputs, name) or status == 0:
        failures.append(f"{name} with a full disk ended with {status}")
    if start(outputs, name).wait() or differing(hashes(whole, name), hashes(outputs, name)):
        failures.append(f"{name} differs after a full disk")
    return status == 1, failures
