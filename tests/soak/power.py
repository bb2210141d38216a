"""The power fails while a small demo chain runs on an ext4 file system of its own, and the same command goes on.

The file system lies in an image file, and what the kernel has not written to the image is lost: a cut is a copy of the
image, taken while every process of the chain is stopped. The copy is mounted, which replays its journal as after a real
cut, and the chain goes on there, until it ends; its artefacts must be those of a chain left in peace. The same without
flushing (`os.fsync` that does nothing) shows what flushing prevents. Needs root and a loop device.
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
"""Of the chain that flushes."""

CUTS_WITHOUT = 5
"""Of the chain that does not."""

MEGABYTES = 200
SECONDS = (4, 14)
"""Between two cuts, from the start of the first notebook's process."""


def soak_power() -> Iterator[str]:
    """Cuts the power; what went wrong, a line each, as it is found."""
    if os.geteuid() or not shutil.which("mkfs.ext4") or not Path("/dev/loop-control").exists():
        print("power cuts: not tried: they need root, mkfs.ext4 and loop devices", flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        if status := start(whole).wait():
            yield f"the demo chain in miniature ended with {status}"
            return
        survived, hollow, failures = cut_often(whole, Path(folder) / "flushed", CUTS, flushing=True)
        print(f"power cuts survived: {survived} of {CUTS}; hollow files found: {len(hollow)}", flush=True)
        yield from failures
        yield from (f"{path} is hollow after a power cut" for path in hollow)
        survived, hollow, failures = cut_often(whole, Path(folder) / "not", CUTS_WITHOUT, flushing=False)
        told = f"power cuts without flushing survived: {survived} of {CUTS_WITHOUT}"
        print(f"{told}; hollow files found, and made again: {len(hollow)}", flush=True)
        yield from failures


def cut_often(whole: Path, folder: Path, cuts: int, *, flushing: bool) -> tuple[int, list[str], list[str]]:
    """Cuts the power of chains, a new one whenever one came to its end.

    Args:
        whole: outputs of the chain left in peace.
        folder: for images.
        cuts: how many.
        flushing: whether `os.fsync` does anything.

    Returns:
        How many cuts were survived; files of no bytes, or of zeros, that were found after one under their final names;
        what went wrong.
    """
    folder.mkdir()
    randomly, survived, hollow, failures = random.Random(folder.name), 0, [], []
    environment = {} if flushing else {"PYTHONPATH": os.pathsep.join([str(_no_fsync(folder)), *sys.path[:1]])}
    image = _new_image(folder)
    while survived < cuts and not failures:
        with mounted(image, folder / "disk") as outputs:
            hollow += [str(path.relative_to(outputs)) for path in hollow_files(outputs)]
            with _changed_environment(environment):
                process = start(outputs)
            if _ended(process, randomly.uniform(*SECONDS)):
                if process.returncode:
                    failures.append(f"the chain ended with {process.returncode} after {survived} power cuts")
                elif apart := differing(hashes(whole), hashes(outputs)):
                    failures += [f"{name} differs after power cuts" for name in apart]
                following = None
            else:
                following = cut(process, image)
        image.unlink()
        survived += following is not None
        image = following or _new_image(folder)
    return survived, hollow, failures


def cut(process: subprocess.Popen, image: Path) -> Path:
    """Stops a command and all its processes, copies the image as it is, and kills them."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.send_signal(signal.SIGSTOP)
    copy, again = image.with_name(f"{time.monotonic_ns()}.img"), image.with_name("again.img")
    _copy(image, copy)
    _copy(image, again)
    while not filecmp.cmp(copy, again, shallow=False):  # the kernel wrote meanwhile: neither may be what was ever there
        shutil.move(again, copy)
        _copy(image, again)
    again.unlink()
    for member in family:
        member.kill()
    process.wait()
    psutil.wait_procs(family, timeout=30)
    return copy


def hollow_files(outputs: Path) -> list[Path]:
    """Files without a byte other than zero; but for locks, what is being made, and what papermill writes as it goes."""
    found = []
    for path in outputs.rglob("*"):
        unfinished = any(UNFINISHED in part for part in path.parts) or path.name.endswith((LOCK, ".partial.ipynb"))
        if path.is_file() and not unfinished and not path.read_bytes().strip(b"\0"):
            found.append(path)
    return found


@contextlib.contextmanager
def mounted(image: Path, point: Path) -> Iterator[Path]:
    """A folder on the file system in an image, whose journal is replayed first."""
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
    """A folder whose `sitecustomize` has `os.fsync` do nothing, in every process that finds it."""
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
