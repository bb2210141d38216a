"""Archives as data sets are published in: known by their content, checked whole, unpacked into their folder only."""

import bz2
import contextlib
import errno
import gzip
import lzma
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fustal.data.files import one_line, open_regular, printable
from fustal.exceptions import InputError

COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
"""How a compressed file begins -> what opens it."""

BLOCK = 1 << 20


def unpack(archive: Path, folder: Path) -> Path:
    """Unpacks an archive (zip, tar, compressed or not), and the zip archives in it, into a folder.

    Raises:
        InputError: it is no archive, damaged, encrypted, or would write outside of the folder.
    """
    _extract(archive, folder)
    for inner in list(folder.rglob("*.zip")):
        _extract(inner, inner.parent)
    return folder


def _extract(archive: Path, folder: Path) -> None:
    with open_regular(archive) as file:
        head = file.read(512)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:  # which compares the checksum of each file
                packed.extractall(folder)
        else:
            _extract_tar(archive, head, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the archive is not to blame
        raise _damaged(archive, head, error) from None
    except Exception as error:  # a damaged archive can raise anything
        raise _damaged(archive, head, error) from None


def _damaged(archive: Path, head: bytes, error: Exception) -> InputError:
    reason = printable(one_line(error))[:200] or type(error).__name__
    if head.lstrip()[:1] == b"<":
        reason = "it is a web page, which a server may send in place of a file"
    return InputError(f"{archive}: cannot be unpacked, remove it and try again: {reason}")


def _extract_tar(archive: Path, head: bytes, folder: Path) -> None:
    """Extracts a tar archive, and reads it to its end: only there gzip and others compare their checksum."""
    with _decompressed(archive, head) as stream, tarfile.open(fileobj=stream, mode="r:") as packed:
        packed.extraction_filter = tarfile.data_filter
        packed.extractall(folder)
    with _decompressed(archive, head) as stream:
        end = b""
        while block := stream.read(BLOCK):
            end = (end + block)[-1024:]
        if end.strip(b"\0"):
            raise tarfile.ReadError("it is cut off: the two empty blocks at the end of a tar archive are not there")


@contextlib.contextmanager
def _decompressed(archive: Path, head: bytes) -> Iterator[BinaryIO]:
    opener = next((opener for mark, opener in COMPRESSED.items() if head.startswith(mark)), open)
    with opener(archive, "rb") as stream:
        yield stream
