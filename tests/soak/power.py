"""Power cuts while a small demo chain runs on its own ext4 file system; the same command must continue.

The file system lies in an image file. What the kernel has not written to the image is lost: a cut is a copy of the
image, taken while every process of the chain is stopped. The copy is mounted, which replays its journal as after a real
cut, and the chain continues there until it ends. Its artefacts must be those of an undisturbed chain. The same without
flushing (`os.fsync` does nothing) shows what flushing prevents. Needs root and a loop device.
"""

import contextlib
import filecmp
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from fustal.data.writing import LOCK, UNFINISHED
from tests.soak.kills import _ended, differing, hashes, start

CUTS = 20
"""Cuts of the chain that flushes its files."""

CUTS_WITHOUT = 5
"""Cuts of the chain that does not."""

MEGABYTES = 200
"""Size of the image."""

SECONDS = (4, 14)
"""Minimum and maximum between the start of the process of the first notebook and the cut."""


def soak_power() -> Iterator[str]:
    """Cuts the power; yields failures, one line each, as they are found."""
    if os.geteuid() or not shutil.which("mkfs.ext4") or not Path("/dev/loop-control").exists():
        print("power cuts: not tried: they need root, mkfs.ext4 and loop devices", flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        status = start(whole).wait()
        if status:
            yield f"the small demo chain ended with {status}"
            return
        survived, hollow, failures = cut_often(whole, Path(folder) / "flushed", CUTS, flushing=True)
        print(f"power cuts survived: {survived} of {CUTS}; hollow files found: {len(hollow)}", flush=True)
        yield from failures
        for path in hollow:
            yield f"{path} is hollow after a power cut"
        survived, hollow, failures = cut_often(whole, Path(folder) / "not", CUTS_WITHOUT, flushing=False)
        count = f"power cuts without flushing survived: {survived} of {CUTS_WITHOUT}"
        print(f"{count}; hollow files found, and made again: {len(hollow)}", flush=True)
        yield from failures


def cut_often(whole: Path, folder: Path, cuts: int, *, flushing: bool) -> tuple[int, list[str], list[str]]:
    """Cuts the power of chains; after a chain has ended a new one starts.

    Args:
        whole: outputs of the undisturbed chain.
        folder: for images.
        cuts: their number.
        flushing: whether `os.fsync` works.

    Returns:
        The number of survived cuts; files under their final names that were empty or all zeros after a cut; failures.
    """
    folder.mkdir()
    generator = random.Random(folder.name)
    survived = 0
    hollow = []
    failures = []
    environment = {}
    if not flushing:
        environment["PYTHONPATH"] = os.pathsep.join([str(_no_fsync(folder)), *sys.path[:1]])
    image = _new_image(folder)
    while survived < cuts and not failures:
        with mounted(image, folder / "disk") as outputs:
            hollow += [str(path.relative_to(outputs)) for path in hollow_files(outputs)]
            with _changed_environment(environment):
                process = start(outputs)
            following = None
            if not _ended(process, generator.uniform(*SECONDS)):
                following = cut(process, image)
            elif process.returncode:
                failures.append(f"the chain ended with {process.returncode} after {survived} power cuts")
            else:
                failures += [f"{name} differs after power cuts" for name in differing(hashes(whole), hashes(outputs))]
        image.unlink()
        survived += following is not None
        image = following or _new_image(folder)
    return survived, hollow, failures


def cut(process: subprocess.Popen, image: Path) -> Path:
    """Stops a command and all its processes, copies the image, and kills them."""
    processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in processes:
        one.send_signal(signal.SIGSTOP)
    copy, again = image.with_name(f"{time.monotonic_ns()}.img"), image.with_name("again.img")
    _copy(image, copy)
    _copy(image, again)
    while not filecmp.cmp(copy, again, shallow=False):  # the kernel wrote in between: a copy may mix two states
        shutil.move(again, copy)
        _copy(image, again)
    again.unlink()
    for one in processes:
        one.kill()
    process.wait()
    psutil.wait_procs(processes, timeout=30)
    return copy


def hollow_files(outputs: Path) -> list[Path]:
    """Files that are empty or hold only zeros; without locks, unfinished files, and partial notebooks of papermill."""
    found = []
    for path in outputs.rglob("*"):
        unfinished = any(UNFINISHED in part for part in path.parts) or path.name.endswith((LOCK, ".partial.ipynb"))
        if path.is_file() and not unfinished and not path.read_bytes().strip(b"\0"):
            found.append(path)
    return found


@contextlib.contextmanager
def mounted(image: Path, point: Path) -> Iterator[Path]:
    """Mounts the file system in an image, which replays its journal; yields a folder on it."""
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        (point / "outputs").mkdir(exist_ok=True)
        yield point / "outputs"
    finally:
        subprocess.run(["umount", point], check=True)


def _new_image(folder: Path) -> Path:
    image = folder / f"{time.monotonic_ns()}.img"
    with open(image, "wb") as file:
        file.truncate(MEGABYTES << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    return image


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", source, target], check=True)


def _no_fsync(folder: Path) -> Path:
    """A folder with a `sitecustomize` that makes `os.fsync` do nothing in every process with it on its path."""
    shim = folder / "shim"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text("import os\n\nos.fsync = lambda handle: None\n")
    return shim


@contextlib.contextmanager
def _changed_environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
