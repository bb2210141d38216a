"""Files that are read: regular ones alone, JSON and YAML checked while they are read, errors of one line."""

import codecs
import contextlib
import difflib
import gc
import hashlib
import json
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

import orjson
import yaml
from pydantic import BaseModel, ValidationError

from fustal.exceptions import InputError

Model = TypeVar("Model", bound=BaseModel)


def digest(*paths: Path, algorithm: str = "sha256") -> str:
    """Hash of the contents of files, in the order given."""
    total = hashlib.new(algorithm, usedforsecurity=False)
    for path in paths:
        with open_regular(path) as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file to read bytes. A pipe or a device, which might never end, is refused.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise OSError(f"it {kind_of(path)}")
        return open(path, "rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from None


def read_bytes(path: str | Path) -> bytes:
    """The content of a regular file; errors of one line."""
    with open_regular(path) as file:
        try:
            return file.read()
        except (OSError, MemoryError) as error:
            raise InputError(f"{path}: cannot be read: {_reason(error) or 'it does not fit into memory'}") from None


MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order mark at the beginning of a file -> its encoding. The mark of UTF-32 begins as that of UTF-16 does."""


COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""First bytes of a file -> the program that packed it."""


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises:
        InputError: there is no such file, it is compressed, or it is in another encoding; the message says what it
            looks like.
    """
    content = read_bytes(path)
    if packer := next((name for first, name in COMPRESSED.items() if content.startswith(first)), None):
        raise InputError(f"{path}: is compressed by {packer}: unpack it first")
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    if encoding.startswith("utf-8") and b"\0" in content:
        what = "holds zero bytes: it is no text, or UTF-16 without a byte order mark, or was lost in a power cut"
        raise InputError(f"{path}: {what}")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8":
            where = f"byte {error.start} is 0x{content[error.start]:02x}"
            raise InputError(f"{path}: is not UTF-8 but perhaps Latin-1 ({where}): save it as UTF-8") from None
        raise InputError(f"{path}: begins as {encoding.upper()} and is not: {error.reason}: save it as UTF-8") from None


def read_json(path: str | Path) -> dict[str, Any]:
    """Reads a JSON object; broken JSON, NaN, a key that appears twice, another encoding or type: errors of one line."""
    return json_object(read_text(path), path)


def json_object(text: str, path: str | Path) -> dict[str, Any]:
    """The JSON object in the text of a file, as `read_json` gives it."""
    try:
        with no_collection():
            value = _parsed(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {_reason(error)}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a JSON object, not a {type(value).__name__}")
    return value


def _parsed(text: str) -> Any:
    """JSON by orjson, which is fast but takes the last of two equal keys; by json where there may be such, or an error.

    Each key is followed by a colon. So where there are as many colons as keys were kept, no key was there twice.
    """
    try:
        value = orjson.loads(text)
    except ValueError:
        value = None
    if value is not None and _count_keys(value) == text.count(":"):
        return value
    del value  # two of a large file may not fit into memory
    return json.loads(text, parse_constant=_no_number, object_pairs_hook=_no_twins)


def _count_keys(value: Any) -> int:
    """Keys of all objects in a value: level by level, as a call for each of a million objects would take seconds."""
    count, level = 0, [value]
    while level:
        objects = [item for item in level if type(item) is dict]
        lists = [item for item in level if type(item) is list]
        count += sum(map(len, objects))
        below = chain(chain.from_iterable(map(dict.values, objects)), chain.from_iterable(lists))
        level = [item for item in below if type(item) is dict or type(item) is list]
    return count


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Without Python's search for circular garbage, which JSON has none of: it costs more than reading a large file."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise ValueError(f"{shown(name)} appears twice")
        seen.add(name)
    return found


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, which can stand for more than a machine holds, and without keys that appear twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"*{self.peek_event().anchor}: aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        return _no_twins(super().construct_pairs(node, deep=True))


_PlainLoader.add_constructor("tag:yaml.org,2002:map", _PlainLoader.construct_mapping)


LARGEST_YAML = 100_000
"""Letters that a card, a preset or a sweep may have: PyYAML takes minutes for some texts ten times as long."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML mapping with names as keys; an empty file is an empty one. Errors are of one line."""
    text = read_text(path)
    if len(text) > LARGEST_YAML:
        raise InputError(f"{path}: has {len(text)} letters, too many for a card, a preset or a sweep")
    try:
        value = yaml.load(text, _PlainLoader)
    except Exception as error:  # a value that its tag does not fit can raise anything
        raise InputError(f"{path}: cannot be read as YAML: {_reason(error)}") from None
    value = {} if value is None else value
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{path}: must be lines of 'name: value'")
    return value


def validated(model: type[Model], values: Mapping[str, Any], path: Path) -> Model:
    """The values of a file as a pydantic model; one line names the file and the first entry that does not fit."""
    try:
        return model(**values)
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error.errors()[0], model, 'entry')}") from None
    except InputError as error:  # of a model that explains itself, as Params does
        raise InputError(f"{path}: {error}") from None


def explain(error: Mapping[str, Any], model: type[BaseModel], kind: str) -> str:
    """One of pydantic's errors on a line.

    Args:
        error: what does not fit.
        model: into which.
        kind: what a field of it is called.
    """
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, model.model_fields, n=1, cutoff=0.5)
        return f"unknown {kind} {shown(name)}" + (f" (did you mean {near[0]!r}?)" if near else "")
    message = error["msg"].removeprefix("Value error, ")
    value = "" if error["type"] == "missing" or not name else f", not {shown(error['input'])}"
    return f"{name}: {message}{value}" if name else message


def kind_of(path: Path) -> str:
    """What stands under a name, as a message says it: "is a folder"."""
    return "is a folder" if path.is_dir() else "is a file" if path.is_file() else "is a device, a pipe or a socket"


def one_line(error: object) -> str:
    """The full message with white space collapsed."""
    return " ".join(str(error).split())


def _reason(error: BaseException) -> str:
    """Why a file cannot be read, in a line of at most 200 letters, without the file's name, which stands before it."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(one_line(text))[:200]


def printable(text: str) -> str:
    r"""Text for a terminal: control characters, which could be commands to it, as escapes; line ends stay.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    if text.isprintable():
        return text
    return "".join(
        repr(letter)[1:-1] if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") and letter != "\n" else letter
        for letter in text
    )


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlist = _SHORT.maxdict = 10


def shown(value: Any) -> str:
    """A value as an error message shows it: escaped, and at most 80 letters of it."""
    text = _SHORT.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
