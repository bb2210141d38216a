"""Writing files and folders: each gets its name only when it is complete and on disk.

`atomic` and `atomic_folder` make a new file or folder in a hidden folder beside its place, flush it to disk, and rename
it. `atomic` replaces only a file; `atomic_folder` replaces only a folder whose files were all made by this program.
`recover` and `remove_unfinished` clean up after a process that was killed.
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
"""Part of the names of the hidden folders in which files and folders are made."""

LOCK = ".lock"
"""The lock in such a folder. While its process runs, the process holds it; afterwards it is free, or missing."""

STARTED = "started.json"
"""A file in the folder of each stage of a run, written when the stage begins."""

MADE = ".made-by-fustal.json"
"""A list in a folder that may be replaced: each file that was made in it, with size and time. Others are the user's."""


class Busy(InputError):
    """Another process holds a lock."""


# --- files ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Writes a file completely or not at all: the block writes to a temporary path, which then replaces `path`.

    After an error, a kill or a power cut, `path` is unchanged or is the complete new file. Links are followed. An
    existing file keeps its mode.

    Args:
        path: the file.

    Yields:
        The temporary path, with the same name in another folder.

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


def write_json(value: Any, path: str | Path) -> None:
    """Writes a value as JSON, atomically.

    Raises:
        InputError: see `atomic`.
        ValueError, TypeError: the value contains NaN, or cannot be written as JSON.
    """
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


# --- checks before the work -------------------------------------------------------------------------------------------


def check_apart(out: str | Path, *inputs: str | Path) -> None:
    """Checks that an output does not replace an input.

    Raises:
        InputError: `out` is one of the inputs, by its path or by a link.
    """
    for path in inputs:
        if _same(Path(out), Path(path)):
            raise InputError(f"{out}: is also read, as {path}, and would be replaced: give another name")


def check_target(path: str | Path) -> None:
    """Checks that a file can be written to a path. `atomic` does it, too; a command does it before its work.

    Raises:
        InputError: there is a folder or a device.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path}: {kind_of(Path(path))}, and a file never replaces one: give another name")


def check_output(path: str | Path, *inputs: Path) -> None:
    """Checks the output file of a command, before its work.

    Raises:
        InputError: there is a folder or a device; the file is also an input; or it lies in the folder of a stage.
    """
    check_target(path)
    check_apart(Path(path), *inputs)
    if (Path(os.path.realpath(path)).parent / STARTED).exists():
        raise InputError(f"{path}: lies in the folder of a run's stage, which holds its own files: give another place")


def overlap(one: Path, other: Path) -> Path | None:
    """Finds out whether two folders share anything: one is or contains the other, or links lead from one to the other.

    Args:
        one: an existing folder. It is searched, links are followed.
        other: another folder, which need not exist.

    Returns:
        `one`, or the path in it that leads to `other`; None if they share nothing.
    """
    there = Path(os.path.realpath(other))
    here = Path(os.path.realpath(one))
    if here == there or here.is_relative_to(there) or there.is_relative_to(here):
        return one
    seen = set()
    for folder, folders, files in os.walk(one, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # links can form a circle
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
    except OSError:  # one of them does not exist
        return False


# --- folders ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_folder(path: str | Path, *, again: bool = False) -> Iterator[Path]:
    """Makes a folder completely or not at all: the block makes it at a temporary path, which then replaces `path`.

    After an error, a kill or a power cut, `path` is unchanged or is the complete new folder. A replacement needs two
    renames. If the process is killed between them, `recover` completes it; the next call begins with that.

    Args:
        path: nothing, an empty folder, or an unchanged folder that an earlier call made with `again`.
        again: write a list of the files into the folder (`MADE`); a later call can then replace the folder.

    Yields:
        The temporary path; the block makes the folder there.

    Raises:
        InputError: `path` contains something that this program did not make, or nothing can be written there.
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
        check_replaceable(target)  # the user may have changed it meanwhile
        replaced = workspace / "replaced"
        try:
            if target.exists():
                target.rename(replaced)
            publish(temporary, target)
        except BaseException:  # an interrupt by the keyboard, too, gives the old folder its name back
            if replaced.exists() and not target.exists():
                replaced.rename(target)
            raise


def check_replaceable(folder: Path) -> None:
    """Checks that nothing is lost if a folder is replaced.

    Raises:
        InputError: it is a file, or it contains a file that `atomic_folder` did not make or that has changed since.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: {kind_of(folder)}, and a folder never replaces one: move it away")
    there = _listing(folder)
    if not there:
        return
    move = "move it away, or choose another place"
    made = _made_files(folder)
    if not made:
        raise InputError(f"{folder}: holds {shown(min(there))}, which fustal did not make: {move}")
    for name, state in sorted(there.items()):
        if made.get(name) != state:
            how = "has changed since fustal made it" if name in made else "was not made by fustal"
            raise InputError(f"{folder}: {shown(name)} {how}, and would be lost: {move}")


def _made_files(folder: Path) -> dict[str, list[int]]:
    """The list `MADE` of a folder; empty if there is none that can be read."""
    if not (folder / MADE).is_file():
        return {}
    try:
        return read_json(folder / MADE)["files"]
    except (InputError, KeyError):
        return {}


def _listing(folder: Path) -> dict[str, list[int]]:
    """Each file and link below a folder except `MADE`: its path in the folder -> its size in bytes and time in ns."""
    found = {}
    for here, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(here) / name).is_symlink()]  # links to folders are not followed
        for name in [*files, *links]:
            path = Path(here) / name
            status = path.lstat()
            found[path.relative_to(folder).as_posix()] = [status.st_size, status.st_mtime_ns]
    found.pop(MADE, None)
    return found


# --- after a kill -----------------------------------------------------------------------------------------------------


def recover(path: Path) -> None:
    """Completes or removes what killed processes left beside a file or a folder, with a line on the error stream.

    If a folder was being replaced when its process was killed, and nothing has its name now, the name is given to the
    new folder if it is complete, else to the old one.
    """
    for left in list(path.parent.glob(f"{escape(_prefix(path))}*")):
        with _abandoned(left) as abandoned:
            if not abandoned:
                continue
            replaced = left / "replaced"
            made = left / path.name
            # The old folder is moved away only after the new one is complete and flushed
            if replaced.exists() and not path.exists():
                complete = made if made.exists() else replaced
                complete.rename(path)
                flush(path.parent)
                print(f"{path}: a killed process had not given it its name: done now", file=sys.stderr)
            else:
                print(f"{left}: left by a killed process: removed", file=sys.stderr)
            _remove(left)


def remove_unfinished(folder: Path) -> None:
    """Removes the unfinished files that killed processes left anywhere below a folder."""
    for left in list(folder.rglob(f".*{UNFINISHED}*")):
        with _abandoned(left) as abandoned:
            if abandoned:
                _remove(left)


@contextlib.contextmanager
def _abandoned(left: Path) -> Iterator[bool]:
    """Whether the process that worked in a hidden folder has ended.

    During the block this process holds the lock of such a folder: no other process recovers it at the same time.
    """
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


def _is_old_and_empty(left: Path) -> bool:
    """Whether a process was killed between making a folder and its lock; that takes less than the minute waited here.

    A folder without a lock that contains anything is not from this program.
    """
    try:
        return left.is_dir() and not any(left.iterdir()) and time.time() - left.stat().st_mtime > 60
    except OSError:
        return False


def _remove(workspace: Path) -> None:
    """Removes a hidden folder, its lock last: if this process is killed, too, the rest still counts as abandoned."""
    if not workspace.is_dir():
        return
    for path in workspace.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    shutil.rmtree(workspace, ignore_errors=True)


# --- locks ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def held(lock: Path, what: Path, patience: float = -1) -> Iterator[None]:
    """Holds a lock during the block. If the process ends for any reason, the lock is free.

    Args:
        lock: the file of the lock.
        what: the thing that it protects, for messages.
        patience: seconds to wait for another process; -1: without a limit.

    Raises:
        Busy: another process holds it.
        InputError: the file cannot be made, or is not a lock.
    """
    try:
        make_folder(lock.parent)
        if lock.exists() and not lock.is_file():
            raise OSError(f"{lock.name} {kind_of(lock)}")
        if lock.exists() and lock.stat().st_size:
            raise OSError(f"{lock.name} is not a lock, as it is not empty")
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
    """Holds a lock for making a folder: one process at a time makes it, the others wait."""
    return held(folder.parent / f".{folder.name}.lock", folder)


# --- on disk ----------------------------------------------------------------------------------------------------------


def publish(temporary: Path, target: Path) -> None:
    """Flushes a file, renames it, flushes the folder: after a power cut it is complete, or not there at all."""
    if temporary.is_file():
        flush(temporary)
    os.replace(temporary, target)
    flush(target.parent)


def flush(path: Path) -> None:
    """Waits until a file is on disk, or the names in a folder."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows cannot open a folder, and the mode of a file may forbid reading it
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir():  # some file systems cannot flush a folder
            raise OSError(f"{path}: cannot be flushed to disk: {error}") from None
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes a folder and the missing folders above it, and waits until their names are on disk."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for parent in missing:
        flush(parent.parent)


def _flush_tree(folder: Path) -> None:
    for here, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(here) / name
            if not path.is_symlink():
                flush(path)
        flush(Path(here))


def _target(path: str | Path) -> Path:
    """The path that a path leads to if links are followed. The folder above it is made."""
    try:
        target = Path(os.path.realpath(path))
        if not target.name:
            raise OSError("it names no file")
        target.exists()  # raises an error for a name that no file can have
        make_folder(target.parent)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written: {one_line(error)}") from None
    return target


@contextlib.contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target, for the time of the block. This process holds the lock in it."""
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
    """The beginning of the names of the hidden folders for a file or folder; a long name is cut, with a hash of it."""
    name = path.name
    if len(name) > 50:
        name = f"{name[:30]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f".{name}{UNFINISHED}"
