"""What a result depends on, as hashes: the data as they are read, the code that makes it, and the record of a stage."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from fustal import ROOT, InputError
from fustal.dataset import Dataset
from fustal.features import FeatureStore
from fustal.files import digest, open_regular, read_json, validated

RECORD = "stage.json"
"""The file, in a stage's folder, that says that it is complete, and of what it was made."""

TOOLS = {
    "__main__",
    "ablation",
    "archives",
    "batch",
    "cli",
    "cluster",
    "download",
    "evaluate",
    "export",
    "fetch",
    "init",
    "layout",
    "localize",
    "progress",
    "provenance",
    "report",
    "results",
    "sbhar",
    "simulate",
    "sizes",
    "splits",
    "sweep",
    "timing",
    "validation",
    "writing",
    "wtalc",
}
"""Modules that no result depends on: they make data sets, call stages, or show what stages have made."""

PIECE = 4096
"""Bytes read at the beginning, in the middle and at the end of a feature file, to tell it from others of its size."""


class Record(BaseModel):
    """What is asked of a `stage.json`; it holds more."""

    model_config = ConfigDict(extra="allow", strict=True)

    key: str
    data: str
    code: str
    parameters: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]


def read_record(folder: Path) -> Record | None:
    """The record of the stage in a folder; None, said in a line, where it is broken: the stage has to be made again."""
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
    for frame in (dataset.video_labels, dataset.segments):  # the card and a list of classes have a say in them
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
    """Hash of the package's source but for `TOOLS`, and of the code cells of one notebook but for its exercises."""
    cells = [
        cell["source"]
        for cell in read_json(ROOT / "notebooks" / notebook)["cells"]
        if cell["cell_type"] == "code" and not {"exercise", "solution"} & set(cell["metadata"].get("tags", []))
    ]
    package = ROOT / "fustal"
    core = [path for path in sorted(package.rglob("*.py")) if path.parent != package or path.stem not in TOOLS]
    return hashlib.sha256((digest(*core) + json.dumps(cells)).encode()).hexdigest()
