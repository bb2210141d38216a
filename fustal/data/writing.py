"""What is written appears under its name only when it is complete and on disk, and replaces nothing of the user's.

`atomic` and `atomic_folder` decide what may be replaced.
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fustal.data.files import kind_of, one_line, read_json, shown
from fustal.exceptions import InputError

UNFINISHED = ".fustal-"
"""Part of the names of the hidden folders in which files and folders are made; their process holds a lock in them."""

LOCK = ".lock"
"""The lock in such a folder: free, or not there, when its process is gone."""

STARTED = "started.json"
"""The file in the folder of each stage of a run, from its beginning on."""

MADE = ".made-by-fustal.json"
"""List in a folder that may be made again: every file made in it, with size and time. Others are the user's."""


class Busy(InputError):
    """Another process holds a lock."""


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path, and puts the file that the block writes there in the place of `path`, flushed to disk.

    After an error, a kill or a power cut `path` is as it was, or is the new file, whole. A link is followed. An
    existing file keeps its mode.

    Raises:
        InputError: `path` is a folder or a device, or nothing can be written there.
    """
    target = _target(path)
    check_target(path)
    recover(target)
    with _workspace(target) as workspace:
        temporary = workspace / target.name
        yield temporary
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        publish(temporary, target)


def check_apart(out: str | Path, *inputs: str | Path) -> None:
    """Refuses to write where a file lies that is read.

    Raises:
        InputError: `out` is one of the inputs, by whatever path or link.
    """
    for path in inputs:
        if _same(Path(out), Path(path)):
            raise InputError(f"{out}: is also read, as {path}, and would be replaced: give another name")


def check_target(path: str | Path) -> None:
    """Refuses, before the work, what `atomic` refuses after it: to put a file where a folder or a device is."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path}: {kind_of(Path(path))}, and a file never replaces one: give another name")


def check_output(path: str | Path, *inputs: Path) -> None:
    """Refuses, before the work, a file that a command was told to write where something would be lost.

    Raises:
        InputError: a folder or a device is there, a file that is also read, or the folder is that of a stage.
    """
    check_target(path)
    check_apart(Path(path), *inputs)
    if (Path(os.path.realpath(path)).parent / STARTED).exists():
        raise InputError(f"{path}: lies in the folder of a run's stage, which holds its own files: give another place")


@contextlib.contextmanager
def atomic_folder(path: str | Path, *, again: bool = False) -> Iterator[Path]:
    """Gives a temporary path, and puts the folder that the block makes there in the place of `path`, flushed to disk.

    After an error, a kill or a power cut `path` is as it was, or is the new folder, whole; a kill between the two
    renames of a replacement is completed by `recover`, which the next call begins with.

    Args:
        path: where nothing may be but an empty folder, or one that an earlier call made with `again`, unchanged.
        again: leave a list of the files in the folder (`MADE`), by which a later call knows that it may replace them.

    Raises:
        InputError: `path` holds something that this program did not make, or nothing can be written there.
    """
    target = _target(path)
    recover(target)
    check_replaceable(target)
    with _workspace(target) as workspace:
        temporary = workspace / target.name
        yield temporary
        if again:
            (temporary / MADE).write_text(json.dumps({"files": _listing(temporary)}, indent=1), encoding="utf-8")
        _flush_tree(temporary)
        check_replaceable(target)  # it may have changed meanwhile
        replaced = workspace / "replaced"
        try:
            if target.exists():
                target.rename(replaced)
            publish(temporary, target)
        except BaseException:
            if replaced.exists() and not target.exists():
                replaced.rename(target)
            raise


def check_replaceable(folder: Path) -> None:
    """Refuses to replace a folder in which something would be lost.

    Raises:
        InputError: it is a file, or holds a file that `atomic_folder` did not make or that has changed since.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: {kind_of(folder)}, and a folder never replaces one: move it away")
    there = _listing(folder)
    if not there:
        return
    move = "move it away, or choose another place"
    try:
        made = read_json(folder / MADE)["files"] if (folder / MADE).is_file() else {}
    except (InputError, KeyError):
        made = {}
    if not made:
        raise InputError(f"{folder}: holds {shown(min(there))}, which fustal did not make: {move}")
    for name, state in sorted(there.items()):
        if made.get(name) != state:
            how = "has changed since fustal made it" if name in made else "is not of those that fustal made"
            raise InputError(f"{folder}: {shown(name)} {how}, and would be lost: {move}")


def recover(path: Path) -> None:
    """Completes or removes what killed processes left beside a file or a folder, and says so on the error stream.

    A folder that was being replaced when its process was killed, and has no name, gets it back: the new one if it was
    complete, else the old one.
    """
    for left in list(path.parent.glob(f"{escape(_prefix(path))}*")):
        with _held(left) as abandoned:
            if not abandoned:
                continue
            replaced, made = left / "replaced", left / path.name
            if replaced.exists() and not path.exists():
                (made if made.exists() else replaced).rename(path)
                flush(path.parent)
                print(f"{path}: a killed process had not given it its name: done now", file=sys.stderr)
            else:
                print(f"{left}: left by a killed process: removed", file=sys.stderr)
            _remove(left)


def remove_unfinished(folder: Path) -> None:
    """Removes, anywhere below a folder, what killed processes left of files that they were writing."""
    for left in list(folder.rglob(f".*{UNFINISHED}*")):
        with _held(left) as abandoned:
            if abandoned:
                _remove(left)


@contextlib.contextmanager
def held(lock: Path, what: Path, patience: float = -1) -> Iterator[None]:
    """Holds a lock, which a process loses when it ends, however it ends.

    Args:
        lock: its file.
        what: it stands for, in messages.
        patience: seconds to wait for another process; -1: without end.

    Raises:
        Busy: another process holds it.
        InputError: there can be no such file.
    """
    try:
        make_folder(lock.parent)
        if lock.exists() and not lock.is_file():
            raise OSError(f"{lock.name} {kind_of(lock)}")
        if lock.exists() and lock.stat().st_size:
            raise OSError(f"{lock.name} is no lock, as it holds something")
        file_lock = FileLock(lock)
        file_lock.acquire(timeout=patience)
    except Timeout:
        raise Busy(f"{what}: another process works on it: wait for it, or end it") from None
    except OSError as error:
        raise InputError(f"{what}: cannot be locked: {one_line(error)}") from None
    try:
        yield
    finally:
        file_lock.release()


def held_folder(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Lets one process at a time make a folder; the others wait."""
    return held(folder.parent / f".{folder.name}.lock", folder)


def publish(temporary: Path, target: Path) -> None:
    """Flushes a file, renames it, flushes the folder: after a power cut it is there, whole, or not at all."""
    if temporary.is_file():
        flush(temporary)
    os.replace(temporary, target)
    flush(target.parent)


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # a folder cannot be opened on Windows, nor a file that only others may read
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir():  # some file systems have nothing to flush of a folder
            raise OSError(f"{path}: cannot be flushed to disk: {error}") from None
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, on disk."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for parent in missing:
        flush(parent.parent)


def overlap(one: Path, other: Path) -> Path | None:
    """Where two folders share something: the same folder, one within the other, or reached from the first by a link.

    Args:
        one: is looked through, links followed.
        other: another folder, there or not.

    Returns:
        The path below `one`, or above it, that is shared; None.
    """
    there = Path(os.path.realpath(other))
    here = Path(os.path.realpath(one))
    if here == there or here.is_relative_to(there) or there.is_relative_to(here):
        return one
    seen = set()
    for folder, folders, files in os.walk(one, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        if Path(real).is_relative_to(there) or there.is_relative_to(real) or _same(Path(folder), there):
            return Path(folder)
        for name in files:
            path = Path(folder) / name
            if path.is_symlink() and Path(os.path.realpath(path)).is_relative_to(there):
                return path
    return None


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _target(path: str | Path) -> Path:
    """Where a path leads, links followed; the folder above it is made."""
    try:
        target = Path(os.path.realpath(path))
        if not target.name:
            raise OSError("it names no file")
        target.exists()
        make_folder(target.parent)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written: {one_line(error)}") from None
    return target


@contextlib.contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target, locked while the block runs."""
    try:
        workspace = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix(target)))
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {one_line(error)}") from None
    lock = FileLock(workspace / LOCK)
    lock.acquire()
    try:
        yield workspace
    finally:
        _remove(workspace)
        lock.release()


def _prefix(path: Path) -> str:
    """How the names of the folders begin in which processes work on a file or folder; long names are made short."""
    name = path.name
    if len(name) > 50:
        name = f"{name[:30]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f".{name}{UNFINISHED}"


@contextlib.contextmanager
def _held(left: Path) -> Iterator[bool]:
    """Whether the process that worked in a folder is gone; no other process takes it for that meanwhile."""
    if not (left / LOCK).is_file():
        yield _is_old_and_empty(left)
        return
    lock = FileLock(left / LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _remove(workspace: Path) -> None:
    """Removes such a folder, its lock last: if this is killed, too, the rest is still known to be abandoned."""
    for path in workspace.iterdir() if workspace.is_dir() else ():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    shutil.rmtree(workspace, ignore_errors=True)


def _is_old_and_empty(left: Path) -> bool:
    """Whether a process was killed before it made the lock; one that is about to make it needs no minute for that."""
    try:
        return left.is_dir() and not any(left.iterdir()) and time.time() - left.stat().st_mtime > 60
    except OSError:
        return False


def _listing(folder: Path) -> dict[str, list[int]]:
    """Every file below a folder, links not followed, by its path in it, with size and time."""
    found = {}
    for here, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(here) / name).is_symlink()]
        for name in [*files, *links]:
            path = Path(here) / name
            status = path.lstat()
            found[path.relative_to(folder).as_posix()] = [status.st_size, status.st_mtime_ns]
    found.pop(MADE, None)
    return found


def _flush_tree(folder: Path) -> None:
    for here, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(here) / name
            if not path.is_symlink():
                flush(path)
        flush(Path(here))


def write_json(value: Any, path: str | Path) -> None:
    """Writes JSON atomically; NaN is refused."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
