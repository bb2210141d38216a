"""Files that appear under their name only when complete; JSON and YAML that are checked while they are read."""

import contextlib
import difflib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from unicodedata import category

import yaml
from pydantic import BaseModel, ValidationError

from fustal import InputError

Model = TypeVar("Model", bound=BaseModel)

ESCAPED = ("Cc", "Cs", "Zl", "Zp")
"""Kinds of characters that do not reach a terminal: controls, halves of letters, ends of lines and paragraphs."""


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`, and renames it to `path` when the block ends without an error.

    Works for a file and for a folder (which the block then makes); an existing folder is replaced. After an error, or
    a kill, `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        if path.is_dir():
            path.rename(Path(folder) / "replaced")
        os.replace(temporary, path)


def digest(*paths: Path, algorithm: str = "sha256") -> str:
    """Hash of the contents of files, in the order given."""
    total = hashlib.new(algorithm, usedforsecurity=False)
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def read_json(path: str | Path) -> dict[str, Any]:
    """Reads a JSON object; broken JSON, NaN, a key that appears twice, another encoding or type: errors of one line."""
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number, object_pairs_hook=_no_twins)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a JSON object, not a {type(value).__name__}")
    return value


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in found if names.count(name) > 1)!r} appears twice")
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


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML mapping with names as keys; an empty file is an empty one. Errors are of one line."""
    try:
        value = yaml.load(Path(path).read_text(encoding="utf-8"), _PlainLoader)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {one_line(error)}") from None
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
        return f"unknown {kind} {name!r}" + (f" (did you mean {near[0]!r}?)" if near else "")
    message = error["msg"].removeprefix("Value error, ")
    value = "" if error["type"] == "missing" or not name else f", not {shown(error['input'])}"
    return f"{name}: {message}{value}" if name else message


def one_line(error: object) -> str:
    """An error on one line, as long as it is."""
    return " ".join(str(error).split())


def shown(value: Any) -> str:
    """A value as an error message shows it, not more than a line of it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def printable(text: str) -> str:
    r"""A text for a terminal: control characters, and letters that end a line but for the newline, are escaped.

    >>> printable("a" + chr(27) + "[31mb")
    'a\\x1b[31mb'
    """
    return "".join(c if c == "\n" or category(c) not in ESCAPED else ascii(c)[1:-1] for c in text)


def write_json(value: Any, path: str | Path) -> None:
    """Writes JSON atomically; NaN is refused."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
