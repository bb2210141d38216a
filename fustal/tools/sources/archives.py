"""Archives of data sets: recognised by their content, verified completely, unpacked only into the given folder."""

import bz2
import contextlib
import errno
import gzip
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fustal.data.files import one_line, open_regular, printable
from fustal.exceptions import InputError

COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
"""First bytes of a compressed file -> the function that opens it."""

HEAD = 512
"""Bytes read at the beginning of an archive, to recognise it."""

BLOCK = 1 << 20
"""Bytes read at once."""

TAR_END = 1024
"""Bytes at the end of a complete tar archive: two blocks of zeros."""


def unpack(archive: Path, folder: Path) -> Path:
    """Unpacks an archive (zip, or tar, compressed or not), and the zip archives in it, into a folder.

    Args:
        archive: the file, under any name.
        folder: the folder to unpack into.

    Returns:
        The folder.

    Raises:
        InputError: it is no archive, damaged, encrypted, or would write outside of the folder.
    """
    _extract(archive, folder)
    for inner in list(folder.rglob("*.zip")):
        _extract(inner, inner.parent)
    return folder


def _extract(archive: Path, folder: Path) -> None:
    with open_regular(archive) as file:
        head = file.read(HEAD)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:  # compares the checksum of each file
                packed.extractall(folder)
        else:
            _extract_tar(archive, head, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the disk is full: the archive is not damaged
        raise _damaged(archive, head, error) from None
    except Exception as error:  # a damaged archive can raise any exception
        raise _damaged(archive, head, error) from None


def _damaged(archive: Path, head: bytes, error: Exception) -> InputError:
    reason = printable(one_line(error))[:200] or type(error).__name__
    if head.lstrip().startswith(b"<"):
        reason = "it is a web page, which a server may send in place of a file"
    return InputError(f"{archive}: cannot be unpacked, remove it and try again: {reason}")


def _extract_tar(archive: Path, head: bytes, folder: Path) -> None:
    """Extracts a tar archive, then reads it to its end: gzip and others compare their checksum only there."""
    with _decompressed(archive, head) as stream, tarfile.open(fileobj=stream, mode="r:") as packed:
        packed.extraction_filter = tarfile.data_filter
        packed.extractall(folder)
    with _decompressed(archive, head) as stream:
        end = b""
        while block := stream.read(BLOCK):
            end = (end + block)[-TAR_END:]
        if end.strip(b"\0"):
            raise tarfile.ReadError("it is cut off: the two empty blocks at the end of a tar archive are missing")


@contextlib.contextmanager
def _decompressed(archive: Path, head: bytes) -> Iterator[BinaryIO]:
    """The bytes of an archive, decompressed if it is compressed."""
    opener: Callable[..., Any] = open
    for mark, candidate in COMPRESSED.items():
        if head.startswith(mark):
            opener = candidate
    with opener(archive, "rb") as stream:
        yield stream
