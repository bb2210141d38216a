"""Reading files: only regular files are opened, JSON and YAML are checked, and an error is one line."""

import codecs
import contextlib
import difflib
import gc
import hashlib
import json
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

import orjson
import yaml
from pydantic import BaseModel, ValidationError

from fustal.exceptions import InputError

Model = TypeVar("Model", bound=BaseModel)

CONTROL = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: control characters, halves of letters (surrogates), line and paragraph separators."""


def digest(*paths: Path, algorithm: str = "sha256") -> str:
    """Hash of the contents of files, in the given order."""
    total = hashlib.new(algorithm, usedforsecurity=False)
    for path in paths:
        with open_regular(path) as file:
            # In blocks of 1 MiB, as a file may be larger than the memory
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file to read bytes.

    Raises:
        InputError: there is no such file, it cannot be read, or it is a pipe or a device, which may never end.
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
    """The content of a regular file.

    Raises:
        InputError: there is no such file, it cannot be read, or it does not fit into memory.
    """
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
"""Byte order mark at the beginning of a file -> its encoding. UTF-32 comes first: its mark begins with UTF-16's."""

COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""First bytes of a file -> the program that compressed it."""


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises:
        InputError: there is no such file, it is compressed, or it is in another encoding; the message names the
            probable one.
    """
    content = read_bytes(path)
    if program := _first_match(COMPRESSED, content):
        raise InputError(f"{path}: is compressed by {program}: unpack it first")
    encoding = _first_match(MARKS, content) or "utf-8"
    if encoding.startswith("utf-8") and b"\0" in content:
        what = "holds zero bytes: it is not text, or UTF-16 without a byte order mark, or was lost in a power cut"
        raise InputError(f"{path}: {what}")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8":
            where = f"byte {error.start} is 0x{content[error.start]:02x}"
            raise InputError(f"{path}: is not UTF-8 but perhaps Latin-1 ({where}): save it as UTF-8") from None
        raise InputError(f"{path}: begins as {encoding.upper()} and is not: {error.reason}: save it as UTF-8") from None


def _first_match(beginnings: Mapping[bytes, str], content: bytes) -> str | None:
    """The value of the first key with which the content begins; None if there is none."""
    for beginning, name in beginnings.items():
        if content.startswith(beginning):
            return name
    return None


# --- JSON -------------------------------------------------------------------------------------------------------------


def read_json(path: str | Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: there is no such file, it is in another encoding, it is not JSON or not an object, it contains NaN,
            or a key appears twice in one object.
    """
    return json_object(read_text(path), path)


def json_object(text: str, path: str | Path) -> dict[str, Any]:
    """The JSON object in the text of a file, see `read_json`; the path is for messages."""
    try:
        with no_collection():
            value = _parsed(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {_reason(error)}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a JSON object, not a {type(value).__name__}")
    return value


def _parsed(text: str) -> Any:
    """Parses JSON by orjson if possible, else by json.

    orjson is fast, but it keeps the last of two equal keys without an error. A colon follows each key. So if the text
    has as many colons as the value has keys, no key appeared twice. If it has more, a key appeared twice or a string
    contains a colon: json finds out which. It also gives better messages.
    """
    try:
        value = orjson.loads(text)
    except ValueError:
        value = None
    if value is not None and _count_keys(value) == text.count(":"):
        return value
    del value  # a large file may not fit into memory twice
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)


def _count_keys(value: Any) -> int:
    """The number of keys of all objects in a value.

    Level by level and not by recursion: a call for each of a million objects would take seconds.
    """
    count = 0
    level = [value]
    while level:
        below: list[Any] = []
        for item in level:
            if type(item) is dict:
                count += len(item)
                below.extend(item.values())
            elif type(item) is list:
                below.extend(item)
        level = below
    return count


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Switches Python's search for circular garbage off during the block.

    Values from JSON have no cycles, and for a large file the search takes longer than the reading.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict; raises a ValueError if a key appears twice."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise ValueError(f"{shown(name)} appears twice")
        seen.add(name)
    return found


# --- YAML -------------------------------------------------------------------------------------------------------------


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases and without keys that appear twice.

    A short text with nested aliases can stand for more data than fits into memory.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"*{self.peek_event().anchor}: aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        return _unique_keys(super().construct_pairs(node, deep=True))


_PlainLoader.add_constructor("tag:yaml.org,2002:map", _PlainLoader.construct_mapping)


LARGEST_YAML = 100_000
"""The maximum number of letters in a YAML file: PyYAML needs minutes for some texts of ten times this length."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML mapping from names to values; an empty file is an empty mapping.

    Raises:
        InputError: there is no such file, it cannot be read as YAML, or it is not such a mapping.
    """
    text = read_text(path)
    if len(text) > LARGEST_YAML:
        raise InputError(f"{path}: has {len(text)} letters, too many for a card, a preset or a sweep")
    try:
        value = yaml.load(text, _PlainLoader)
    except Exception as error:  # a value that does not fit its YAML tag can raise any exception
        raise InputError(f"{path}: cannot be read as YAML: {_reason(error)}") from None
    value = {} if value is None else value
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{path}: must be lines of 'name: value'")
    return value


def validated(model: type[Model], values: Mapping[str, Any], path: Path) -> Model:
    """The values of a file as a pydantic model.

    Args:
        model: the class.
        values: what has been read.
        path: the file, for messages.

    Raises:
        InputError: names the file and the first entry that does not fit.
    """
    try:
        return model(**values)
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error.errors()[0], model, 'entry')}") from None
    except InputError as error:  # Params raises its own
        raise InputError(f"{path}: {error}") from None


def explain(error: Mapping[str, Any], model: type[BaseModel], kind: str) -> str:
    """An error of pydantic as one line.

    Args:
        error: one item of `ValidationError.errors()`.
        model: the class that was to be made.
        kind: the word for a field of it, such as "parameter".
    """
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, model.model_fields, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"unknown {kind} {shown(name)}{hint}"
    message = error["msg"].removeprefix("Value error, ")
    if not name:  # an error of the model as a whole
        return message
    if error["type"] == "missing":
        return f"{name}: {message}"
    return f"{name}: {message}, not {shown(error['input'])}"


# --- parts of messages ------------------------------------------------------------------------------------------------


def kind_of(path: Path) -> str:
    """The kind of a thing in the file system, for a message: "is a folder"."""
    if path.is_dir():
        return "is a folder"
    if path.is_file():
        return "is a file"
    return "is a device, a pipe or a socket"


def one_line(error: object) -> str:
    """The full message with white space collapsed."""
    return " ".join(str(error).split())


def _reason(error: BaseException) -> str:
    """Why a file cannot be read, in one line of at most 200 letters, without the name of the file."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(one_line(text))[:200]


def printable(text: str) -> str:
    r"""Text for a terminal, with control characters as escapes, because a terminal can take them for commands.

    Line ends are kept.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    if text.isprintable():
        return text
    letters = []
    for letter in text:
        is_control = unicodedata.category(letter) in CONTROL and letter != "\n"
        letters.append(repr(letter)[1:-1] if is_control else letter)
    return "".join(letters)


_SHORT = reprlib.Repr()
_SHORT.maxstring = 80
_SHORT.maxother = 80
_SHORT.maxlong = 80
_SHORT.maxlist = 10
_SHORT.maxdict = 10


def shown(value: Any) -> str:
    """A value in an error message: escaped, and at most 80 letters."""
    text = _SHORT.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
