"""Every stage of a small demo chain, killed at random points and started again, against one left in peace.

Two processes work at a time, each on one core. Most of the time goes into imports, of the command and of the notebook's
process: some six seconds a kill, of which there are a hundred.
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
"""Per stage."""

SIZES = SMALL | {"generator_steps": 100}


def soak_kills() -> Iterator[str]:
    """Kills each stage, two at a time; what went wrong, a line each, as it is found."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        whole, again = Path(folder) / "whole", Path(folder) / "again"
        for status in pool.map(lambda outputs: start(outputs).wait(), (whole, again)):
            if status:
                yield f"the demo chain in miniature ended with {status}"
                return
        apart = differing(hashes(whole), hashes(again))
        print(f"determinism: {len(hashes(whole))} artefacts of two runs have equal hashes: {not apart}", flush=True)
        yield from (f"two runs differ in {name}" for name in apart)
        print(f"not promised: {other_threads(whole, Path(folder) / 'threads')}", flush=True)
        survived = Counter()
        for kills, wrong in pool.map(lambda name: kill_stage(name, whole, Path(folder) / name), CHAIN):
            survived += kills
            yield from wrong
        counts = ", ".join(f"{count} by {way}" for way, count in survived.items())
        print(f"kills survived: {sum(survived.values())} ({counts})", flush=True)
        refused = 0
        for full, wrong in pool.map(lambda name: disk_full(name, whole, Path(folder) / f"{name}-full"), CHAIN):
            refused += full
            yield from wrong
        print(f"full disks survived: {refused} of {len(CHAIN)}", flush=True)


def kill_stage(name: str, whole: Path, outputs: Path) -> tuple[Counter, list[str]]:
    """Kills one stage at random points and starts it again, anew whenever it came to its end.

    Returns:
        How often each way of killing was survived, and what went wrong.
    """
    survived, failures, randomly = Counter(), [], random.Random(name)
    seconds = json.loads((whole / "demo" / name / "stage.json").read_text())["seconds"] + START
    while survived.total() < KILLS:
        prepare(whole, outputs, name)
        while not finished(outputs, name):
            way = WAYS[survived.total() % len(WAYS)]
            process = start(outputs, name)
            killed = survived.total() < KILLS and way(process, randomly.uniform(0, seconds))
            survived[way.__name__] += killed
            if not killed and process.wait():
                return survived, [*failures, f"{name} ended with {process.returncode} after {survived.total()} kills"]
        failures += [f"{item} differs after kills" for item in differing(hashes(whole, name), hashes(outputs, name))]
        failures += [f"{path} was left half-written" for path in (outputs / "demo" / name).rglob(".*")]
    print(f"{name}: {survived.total()} kills survived", flush=True)
    return survived, failures


START = 3
"""Seconds, about, that a notebook's process takes until it works."""


def start(outputs: Path, stage: str | None = None, threads: int = 1, **options) -> subprocess.Popen:
    """`fustal run params/demo.yaml`, in miniature."""
    sizes = SIZES | {"threads": threads}
    changes = [option for name, value in sizes.items() for option in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "fustal", "run", str(ROOT / "params" / "demo.yaml"), *changes]
    return subprocess.Popen(
        command + (["--stage", stage] if stage else []),
        env=environment(outputs) | {"OMP_NUM_THREADS": "1", "FUSTAL_CHECKPOINT_EVERY": "10"},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,
    )


def other_threads(whole: Path, outputs: Path) -> str:
    """How close a run with two threads comes to one with one."""
    start(outputs, threads=2).wait()
    one, two = (
        json.loads((folder / "demo" / "evaluation" / "metrics.json").read_text())["mAP"] for folder in (whole, outputs)
    )
    apart = {name: abs(one[name]["0.1:0.7"] - two[name]["0.1:0.7"]) for name in one}
    same = sum(hashes(whole)[name] == value for name, value in hashes(outputs).items())
    most = max(apart, key=apart.get)
    return f"with two threads {same} artefacts are the same; average mAP differs by {apart[most]:.2f} points ({most})"


def prepare(whole: Path, outputs: Path, first: str) -> None:
    """A copy of the whole run up to a stage, without it."""
    shutil.rmtree(outputs, ignore_errors=True)
    shutil.copytree(whole, outputs)
    for name in list(CHAIN)[list(CHAIN).index(first) :]:
        shutil.rmtree(outputs / "demo" / name)


def finished(outputs: Path, name: str) -> bool:
    """Whether a stage has been recorded as complete."""
    return (outputs / "demo" / name / "stage.json").exists()


def hashes(outputs: Path, *names: str) -> dict[str, str]:
    """Artefacts of the stages, metrics without what says when they were made."""
    found = {}
    for item in (item for name in names or CHAIN for item in CHAIN[name].outputs):
        path = outputs / "demo" / item
        if path.suffix == ".json" and path.stem == "metrics":
            found[item] = json.dumps(json.loads(path.read_text()) | {"provenance": None})
        else:
            found[item] = digest(path)
    return found


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of the artefacts that are not the same."""
    return [name for name in one if one[name] != other.get(name)]


def _ended(process: subprocess.Popen, seconds: float) -> bool:
    """Whether the command ends by itself within so many seconds from the start of the notebook's process."""
    while process.poll() is None and not psutil.Process(process.pid).children():
        time.sleep(0.05)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def kill_all(process: subprocess.Popen, seconds: float) -> bool:
    """SIGKILL to the command and the notebook's process, as when the power fails."""
    if _ended(process, seconds):
        return False
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    for member in family:
        member.wait()
    return True


def kill_notebook(process: subprocess.Popen, seconds: float) -> bool:
    """SIGKILL to the notebook's process, as when memory runs out."""
    if _ended(process, seconds):
        return False
    kernels = psutil.Process(process.pid).children()
    for kernel in kernels:
        kernel.kill()
    return process.wait() == 1 and bool(kernels)


def _signalled(process: subprocess.Popen, seconds: float, what: signal.Signals) -> bool:
    if _ended(process, seconds):
        return False
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(what)
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
    """A stage where no file can grow beyond a limit, as on a full disk; then without it.

    Returns:
        Whether it ended with status 1 then, and what went wrong.
    """
    prepare(whole, outputs, name)
    limit, failures = max((whole / "demo" / item).stat().st_size for item in CHAIN[name].outputs) // 2, []
    status = start(outputs, name, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))).wait()
    if finished(outputs, name) or status == 0:
        failures.append(f"{name} with a full disk ended with {status}")
    if start(outputs, name).wait() or differing(hashes(whole, name), hashes(outputs, name)):
        failures.append(f"{name} differs after a full disk")
    return status == 1, failures
