"""What a result depends on, as hashes: the data as they are read, the code that makes it, and the record of a stage."""

import ast
import contextlib
import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from fustal import PLACES, ROOT
from fustal.data.cards import Dataset
from fustal.data.features import FeatureStore
from fustal.data.files import digest, open_regular, read_json, validated
from fustal.exceptions import InputError

RECORD = "stage.json"
"""The file, in the folder of a stage, that records that it is complete, and from what it was made."""

NO_RESULT = ("fustal.tools", "fustal.viz")
"""Packages that change no result of a stage: commands, and figures."""

PIECE = 4096
"""Bytes read at the beginning, in the middle and at the end of a feature file, to distinguish it from others of its
size."""


class Record(BaseModel):
    """The entries of a `stage.json` that are read; it holds more."""

    model_config = ConfigDict(extra="allow", strict=True)

    key: str
    data: str
    code: str
    parameters: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]


def read_record(folder: Path) -> Record | None:
    """The record of the stage in a folder; None if there is none, or, with a warning, if it is broken."""
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        return validated(Record, read_json(path), path)
    except InputError as error:
        print(f"{error}: the stage counts as not done", file=sys.stderr)
        return None


def data_key(dataset: Dataset) -> str:
    """Hash of a data set: annotations, classes, who is in which subset with which labels, grids, features.

    Features are hashed by name, size, time and some of their bytes, as they may be many gigabytes.
    """
    total = hashlib.sha256(digest(dataset.annotations).encode())
    total.update(json.dumps(dataset.classes).encode())
    total.update(dataset.videos.to_csv().encode())
    for frame in (dataset.video_labels, dataset.segments):  # they depend on the card and on a list of classes as well
        total.update(frame.to_csv(index=False).encode())
    for stage, grid in dataset.grids.items():
        total.update(grid.model_dump_json().encode())
        store = FeatureStore(dataset, stage)
        for video in dataset.videos.index:
            for path in store.paths(video):
                if path.is_file():
                    total.update(_sample(path))
    return total.hexdigest()


def _sample(path: Path) -> bytes:
    status = path.stat()
    with open_regular(path) as file:
        pieces = [f"{path.name} {status.st_size} {status.st_mtime_ns}".encode()]
        for start in (0, status.st_size // 2, max(0, status.st_size - PIECE)):
            file.seek(start)
            pieces.append(file.read(PIECE))
    return b"\n".join(pieces)


def code_digest(notebook: str) -> str:
    """Hash of the code that makes a stage's result.

    These are the code cells of its notebook, without exercises, and the modules of fustal that they import, directly or
    not: a changed loss of the student changes the student's stage and not the generator's. Figures and commands
    (`NO_RESULT`) do not count.

    Args:
        notebook: name of the stage's notebook.
    """
    cells = []
    for cell in read_json(ROOT / "notebooks" / notebook)["cells"]:
        exercise = {"exercise", "solution"} & set(cell["metadata"].get("tags", []))
        if cell["cell_type"] == "code" and not exercise:
            cells.append("".join(cell["source"]))
    return hashlib.sha256((digest(*modules_used(cells)) + json.dumps(cells)).encode()).hexdigest()


def modules_used(sources: list[str]) -> list[Path]:
    """The files of fustal's modules that some Python code imports, directly or through each other.

    Args:
        sources: texts of Python code.

    Returns:
        Their paths, sorted; without those in `NO_RESULT`.
    """
    files = _module_files()
    found: set[Path] = set()
    waiting = list(sources)
    while waiting:
        for name in _imported(waiting.pop()):
            path = files.get(PLACES.get(name.removeprefix("fustal."), name))
            if path is not None and path not in found and not name.startswith(NO_RESULT):
                found.add(path)
                waiting.append(path.read_text(encoding="utf-8"))
    return sorted(found)


@functools.cache
def _imported(source: str) -> list[str]:
    """Full names of what a text imports from fustal: modules, and names that may be modules."""
    names = []
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.Import):
            names += [item.name for item in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names += [f"{node.module}.{item.name}" for item in node.names]
    return [name for name in names if name.startswith("fustal")]


def _parsed(source: str) -> ast.Module:
    """The syntax tree of a module or a cell; an empty one for a cell that is not Python.

    Such a cell imports nothing that can be found, and its text is part of the hash in any case.
    """
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!", "?"))]
    for text in (source, "\n".join(lines)):  # the second without IPython's own commands
        with contextlib.suppress(SyntaxError, ValueError):
            return ast.parse(text)
    return ast.Module(body=[], type_ignores=[])


def _module_files() -> dict[str, Path]:
    """Full name of each module of fustal -> its file."""
    files = {}
    for path in (ROOT / "fustal").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts).removesuffix(".__init__")] = path
    return files
