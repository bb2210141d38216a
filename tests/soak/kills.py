"""Every stage of a small demo chain, killed at random points and started again, against one left in peace."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil

from fustal import ROOT
from fustal.files import digest
from fustal.runs import CHAIN

KILLS = 20
"""Per stage."""

SIZES = {
    "generator_steps": 400,
    "student_dim": 32,
    "student_mlp": 32,
    "student_lr": 3e-3,
    "student_epochs": 3,
    "distill_epochs": 2,
    "upper_bound_epochs": 2,
    "cross_folds": 2,
    "watched_videos": 0,
    "device": "cpu",
}
ENVIRONMENT = {"TQDM_DISABLE": "1", "NO_COLOR": "1", "OMP_NUM_THREADS": "1", "FUSTAL_CHECKPOINT_EVERY": "10"}


def soak_kills() -> list[str]:
    """Kills each stage; what went wrong, a line each."""
    failures, survived, ways = [], Counter(), Counter()
    randomly = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        whole, again = Path(folder) / "whole", Path(folder) / "again"
        for outputs in (whole, again):
            done = start(outputs).wait()
            if done:
                return [f"the demo chain in miniature ended with {done}"]
        if hashes(whole) != hashes(again):
            failures.append(f"two runs differ in {differing(hashes(whole), hashes(again))}")
        print(f"determinism: {len(hashes(whole))} artefacts of two runs have equal hashes: {not failures}", flush=True)
        for number, name in enumerate(CHAIN):
            outputs = Path(folder) / f"killed_{name}"
            seconds = json.loads((whole / "demo" / name / "stage.json").read_text())["seconds"] + START
            while survived[name] < KILLS:
                prepare(whole, outputs, list(CHAIN)[number:])
                while not finished(outputs, name) and survived[name] < KILLS:
                    way = WAYS[sum(survived.values()) % len(WAYS)]
                    if way(start(outputs, name), randomly.uniform(0.2, 1) * seconds):
                        survived[name] += 1
                        ways[way.__name__] += 1
                if start(outputs, name).wait():
                    failures.append(f"{name} did not end well after {survived[name]} kills")
                elif differing(hashes(whole, name), hashes(outputs, name)):
                    failures.append(f"{name} differs: {differing(hashes(whole, name), hashes(outputs, name))}")
                left = [path for path in outputs.rglob("*") if path.name.startswith(".") and path.is_dir()]
                failures.extend(f"{path} was left half-written" for path in left)
            print(f"{name}: {survived[name]} kills survived", flush=True)
        failures += disk_full(whole, Path(folder) / "full")
    counts = ", ".join(f"{count} by {way}" for way, count in ways.items())
    print(f"kills survived: {sum(survived.values())} ({counts})", flush=True)
    return failures


START = 4
"""Seconds, about, until a notebook's process works."""


def start(outputs: Path, stage: str | None = None, **options) -> subprocess.Popen:
    """`fustal run params/demo.yaml`, in miniature, in a process group of its own."""
    changes = [option for name, value in SIZES.items() for option in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "fustal", "run", str(ROOT / "params" / "demo.yaml"), *changes]
    return subprocess.Popen(
        command + (["--stage", stage] if stage else []),
        env=os.environ | ENVIRONMENT | {"FUSTAL_OUTPUTS": str(outputs)},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,
    )


def prepare(whole: Path, outputs: Path, missing: list[str]) -> None:
    """A copy of the whole run without some stages."""
    shutil.rmtree(outputs, ignore_errors=True)
    shutil.copytree(whole, outputs)
    for name in missing:
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
    if kernels and process.wait() != 1:
        raise RuntimeError("the death of the notebook's process went unnoticed")
    process.kill()
    process.wait()
    return bool(kernels)


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


def disk_full(whole: Path, outputs: Path) -> list[str]:
    """Each stage where no file can grow beyond a limit, as on a full disk; then without it."""
    failures, refused = [], 0
    for number, name in enumerate(CHAIN):
        prepare(whole, outputs, list(CHAIN)[number:])
        sizes = [(whole / "demo" / item).stat().st_size for item in CHAIN[name].outputs]
        limit = max(sizes) // 2

        def limited(limit=limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        status = start(outputs, name, preexec_fn=limited).wait()
        refused += status == 1
        if finished(outputs, name) or status == 0:
            failures.append(f"{name} with a full disk ended with {status}")
        if start(outputs, name).wait() or differing(hashes(whole, name), hashes(outputs, name)):
            failures.append(f"{name} differs after a full disk")
    print(f"full disks survived: {refused} of {len(CHAIN)}", flush=True)
    return failures
