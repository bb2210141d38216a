"""Files from the internet: kept in a cache, resumed where they broke off, checked before they get their name."""

import contextlib
import glob
import re
import sys
from pathlib import Path

import gdown
import platformdirs
import requests
from tqdm.auto import tqdm

from fustal.data.files import digest, kind_of
from fustal.data.writing import held, publish
from fustal.exceptions import InputError

TIMEOUT = 60.0
"""Seconds without a byte after which a server counts as silent."""


def download(url: str, name: str, checksum: str | None = None) -> Path:
    """Gets a file from the cache or from the internet, and checks it.

    It says on the error stream how large the file is, as far as the server tells, and how far it has got. What came of
    a download that broke off stays in the cache, and the next call goes on from there.

    Args:
        url: of the file, or of its page on Google Drive.
        name: of the file in the cache.
        checksum: what it must have, e.g. "md5:375f…"; None: its source names none.

    Returns:
        The file's path in the cache.

    Raises:
        InputError: it cannot be downloaded, or is not the file that was expected.
    """
    file = cache() / name
    beginnings = file.parent / "partial"
    with held(beginnings / f"{name}.lock", file):
        if file.exists() and not file.is_file():
            raise InputError(f"{file}: {kind_of(file)}, where a download is kept: move it away")
        if not file.exists() or wrong(file, checksum):
            fresh = beginnings / name
            try:
                _complete(url, fresh)
            except (OSError, gdown.DownloadError) as error:
                raise InputError(f"{url}: cannot be downloaded: {_line(error)}{_advice(fresh)}") from None
            if problem := wrong(fresh, checksum):
                fresh.unlink()
                raise InputError(f"{url}: is not the file that was expected: {problem}")
            publish(fresh, file)
            if checksum is None:
                told = f"sha256 {digest(file)}; its source publishes no checksum to compare it with"
                secure = "" if url.startswith("https:") else ", and sends it over a connection that is not encrypted"
                print(f"{name}: {told}{secure}", file=sys.stderr)
    return file


def cache() -> Path:
    """Where downloads are kept: the user's folder for such things."""
    return Path(platformdirs.user_cache_dir("fustal"))


def wrong(file: Path, checksum: str | None) -> str:
    """What is wrong with a file, given the checksum that it must have; nothing: an empty text."""
    if checksum is None:
        return ""
    algorithm, expected = checksum.split(":")
    found = digest(file, algorithm=algorithm)
    return "" if found == expected else f"its {algorithm} is {found}, not {expected}"


def _complete(url: str, file: Path) -> None:
    """Downloads a file, or what is missing of it; `gdown` keeps a beginning beside it until it is whole."""
    have = _tidy(file)
    size, told, resumable = _ask(url, have)
    if not resumable:
        for part in _beginnings(file):
            print(f"{file.name}: a beginning of {_bytes(have)} is removed: the server sends no parts", file=sys.stderr)
            part.unlink()
        have = 0
    here = f", {_bytes(have)} of it are here" if have else ""
    print(f"{file.name}: {told}{here}, from {url}", file=sys.stderr)
    with tqdm(desc=file.name, total=size, initial=have, unit="B", unit_scale=True) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        gdown.download(url=url, output=str(file), quiet=True, resume=True, progress=show, timeout=TIMEOUT)


def _ask(url: str, have: int) -> tuple[int | None, str, bool]:
    """What a server says of a file: its bytes, how that is told, and whether it sends what is missing of it.

    Google Drive names the size of a large file, rounded, on a page that stands before it.
    """
    drive, _ = gdown.parse_url.parse_url(url)
    address = f"https://drive.google.com/uc?id={drive}" if drive else url
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with contextlib.closing(requests.get(address, headers=headers, stream=True, timeout=TIMEOUT)) as answer:
        beyond = answer.status_code == requests.codes.requested_range_not_satisfiable
        if not beyond:
            answer.raise_for_status()
        if drive and "text/html" in answer.headers.get("Content-Type", ""):
            rounded = re.search(r'class="uc-name-size">.*?\(([\d.]+ ?[KMGT])B?\)', answer.text, re.DOTALL)
            return None, f"about {rounded[1]}B" if rounded else "of unknown size", True
        part = answer.status_code == requests.codes.partial_content
        size = re.search(r"(\d+)$", answer.headers.get("Content-Range" if part or beyond else "Content-Length", ""))
        told = _bytes(int(size[1])) if size else "of unknown size"
        return int(size[1]) if size else None, told, part or not have


def _beginnings(file: Path) -> list[Path]:
    """What `gdown` keeps of a file until it is whole: it adds eight letters of its own and `.part`."""
    return list(file.parent.glob(f"{glob.escape(file.name)}{'?' * 8}.part"))


def _tidy(file: Path) -> int:
    """Keeps the longest of several beginnings, as `gdown` goes on from one alone; returns how many bytes it has."""
    parts = sorted(_beginnings(file), key=lambda part: part.stat().st_size)
    for part in parts[:-1]:
        print(f"{file.name}: a shorter beginning of a killed download is removed", file=sys.stderr)
        part.unlink()
    return parts[-1].stat().st_size if parts else 0


def _advice(file: Path) -> str:
    have = sum(part.stat().st_size for part in _beginnings(file))
    kept = f"{_bytes(have)} are kept and the same command goes on from there" if have else "try again"
    return f"; {kept}, or get it by hand and give --from"


def _bytes(count: int) -> str:
    return tqdm.format_sizeof(count, "B")


def _line(error: Exception) -> str:
    """An error in a line: the cause of a failed connection only, and without `gdown`'s advice on its own command."""
    cause = getattr(error.args[0], "reason", error) if error.args else error
    return " ".join(str(cause).partition("\nThe received bytes")[0].split()).rstrip(".")
