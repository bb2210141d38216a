"""Files from the internet: kept in a cache, resumed after an interruption, checked before they get their name."""

import contextlib
import glob
import re
import sys
from pathlib import Path
from typing import NamedTuple

import gdown
import platformdirs
import requests
from tqdm.auto import tqdm

from fustal.data.files import digest, kind_of
from fustal.data.writing import held, publish
from fustal.exceptions import InputError

TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as lost."""


def download(url: str, name: str, checksum: str | None = None) -> Path:
    """Gets a file from the cache or from the internet, and checks it.

    Size (if the server sends it) and progress are printed to standard error. The part that an interrupted download
    received stays in the cache; the next call continues from there.

    Args:
        url: of the file, or of its page on Google Drive.
        name: of the file in the cache.
        checksum: the expected one, e.g. "md5:375f…"; None: its source publishes none.

    Returns:
        The file's path in the cache.

    Raises:
        InputError: it cannot be downloaded, or its checksum is wrong.
    """
    file = cache() / name
    partial = file.parent / "partial"
    with held(partial / f"{name}.lock", file):
        if file.exists() and not file.is_file():
            raise InputError(f"{file}: {kind_of(file)}, where a download is kept: move it away")
        if not file.exists() or wrong(file, checksum):
            _replace(url, file, partial / name, checksum)
    return file


def _replace(url: str, file: Path, fresh: Path, checksum: str | None) -> None:
    """Downloads to `fresh`, and puts it into the place of `file` only when it is complete and right."""
    try:
        _complete(url, fresh)
    except (OSError, gdown.DownloadError) as error:
        raise InputError(f"{url}: cannot be downloaded: {_line(error)}{_advice(fresh)}") from None
    problem = wrong(fresh, checksum)
    if problem:
        fresh.unlink()
        raise InputError(f"{url}: is not the file that was expected: {problem}")
    publish(fresh, file)
    if checksum is None:
        note = f"sha256 {digest(file)}; its source publishes no checksum to compare it with"
        if not url.startswith("https:"):
            note += ", and sends it over a connection that is not encrypted"
        print(f"{file.name}: {note}", file=sys.stderr)


def cache() -> Path:
    """The folder in which downloads are kept: the user's cache folder."""
    return Path(platformdirs.user_cache_dir("fustal"))


def wrong(file: Path, checksum: str | None) -> str:
    """What is wrong with a file; empty: nothing.

    Args:
        file: the file.
        checksum: the expected one, "algorithm:digits"; None: nothing is checked.
    """
    if checksum is None:
        return ""
    algorithm, expected = checksum.split(":")
    found = digest(file, algorithm=algorithm)
    return "" if found == expected else f"its {algorithm} is {found}, not {expected}"


def _complete(url: str, file: Path) -> None:
    """Downloads a file, or its missing part; `gdown` keeps a partial file beside it until it is complete."""
    have = _tidy(file)
    answer = _probe(url, have)
    if not answer.resumable:
        for part in _parts(file):
            print(
                f"{file.name}: a partial file of {_bytes(have)} is removed: the server cannot resume a download",
                file=sys.stderr,
            )
            part.unlink()
        have = 0
    here = f", {_bytes(have)} of it are here" if have else ""
    print(f"{file.name}: {answer.text}{here}, from {url}", file=sys.stderr)
    with tqdm(desc=file.name, total=answer.size, initial=have, unit="B", unit_scale=True) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        gdown.download(url=url, output=str(file), quiet=True, resume=True, progress=show, timeout=TIMEOUT)


class Answer(NamedTuple):
    """A server's answer about a file.

    Attributes:
        size: bytes; None where the server does not send it.
        text: the size in words.
        resumable: whether the server sends the missing part of a partial file.
    """

    size: int | None
    text: str
    resumable: bool


def _probe(url: str, have: int) -> Answer:
    """Requests a file without reading it.

    Google Drive shows the rounded size of a large file on a page that precedes it.

    Args:
        url: see `download`.
        have: bytes that are here already.
    """
    drive, _ = gdown.parse_url.parse_url(url)
    address = f"https://drive.google.com/uc?id={drive}" if drive else url
    headers = {"Accept-Encoding": "identity"}  # a compressed answer has another length
    if have:
        headers["Range"] = f"bytes={have}-"
    with contextlib.closing(requests.get(address, headers=headers, stream=True, timeout=TIMEOUT)) as answer:
        beyond = answer.status_code == requests.codes.requested_range_not_satisfiable  # all bytes are here, or more
        if not beyond:
            answer.raise_for_status()
        if drive and "text/html" in answer.headers.get("Content-Type", ""):
            rounded = re.search(r'class="uc-name-size">.*?\(([\d.]+ ?[KMGT])B?\)', answer.text, re.DOTALL)
            return Answer(None, f"about {rounded[1]}B" if rounded else "of unknown size", True)
        part = answer.status_code == requests.codes.partial_content
        # Content-Range ends with the size of the whole file; Content-Length is the size of the answer.
        size = re.search(r"(\d+)$", answer.headers.get("Content-Range" if part or beyond else "Content-Length", ""))
        resumable = part or not have
        if size is None:
            return Answer(None, "of unknown size", resumable)
        return Answer(int(size[1]), _bytes(int(size[1])), resumable)


def _parts(file: Path) -> list[Path]:
    """The partial files of a download: `gdown` adds eight letters and `.part` to the name."""
    return list(file.parent.glob(f"{glob.escape(file.name)}{'?' * 8}.part"))


def _tidy(file: Path) -> int:
    """Keeps only the longest partial file, as `gdown` resumes only a single one; returns its number of bytes."""
    parts = sorted(_parts(file), key=lambda part: part.stat().st_size)
    for part in parts[:-1]:
        print(f"{file.name}: a shorter partial file of a killed download is removed", file=sys.stderr)
        part.unlink()
    return parts[-1].stat().st_size if parts else 0


def _advice(file: Path) -> str:
    """What the user can do after a failed download."""
    have = sum(part.stat().st_size for part in _parts(file))
    kept = f"{_bytes(have)} are kept and the same command continues from there" if have else "try again"
    return f"; {kept}, or download it by hand and give --from"


def _bytes(count: int) -> str:
    return tqdm.format_sizeof(count, "B")


def _line(error: Exception) -> str:
    """An error in a line: only the cause of a failed connection, and without `gdown`'s advice on its own command."""
    cause = getattr(error.args[0], "reason", error) if error.args else error
    return " ".join(str(cause).partition("\nThe received bytes")[0].split()).rstrip(".")
