"""The run folder: which stage reads and writes what, whether it is done, and where everything came from."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout

from fustal import ROOT, InputError
from fustal.annotations import read_results
from fustal.dataset import Dataset, hold_out, load_dataset
from fustal.features import FeatureStore
from fustal.fetch import ensure
from fustal.files import atomic, digest, read_json, write_json
from fustal.names import OUTPUTS
from fustal.params import STAGES, Params, SharedParams, StudentParams
from fustal.provenance import provenance
from fustal.training import CHECKPOINT


@dataclass(frozen=True)
class Stage:
    """A step of the chain: its notebook, the files it reads and writes below the run's folder, its parameters."""

    name: str
    notebook: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[type, ...]


CHAIN = {
    stage.name: stage
    for stage in (
        Stage(
            "generator",
            "01_generator_training.ipynb",
            (),
            ("generator/model.safetensors", "generator/proposals_train.json", "generator/proposals_test.json"),
            (SharedParams, STAGES["generator"]),
        ),
        Stage(
            "selection",
            "02_proposal_filtering.ipynb",
            ("generator/proposals_train.json",),
            ("selection/pseudo_labels.json",),
            (SharedParams, STAGES["selection"]),
        ),
        Stage(
            "student",
            "03_student_training.ipynb",
            ("selection/pseudo_labels.json",),
            (
                "student/model.safetensors",
                "student/ema.safetensors",
                "student/optimizer.safetensors",
                "student/detections_test.json",
                "student/detections_test_ema.json",
            ),
            (SharedParams, StudentParams),
        ),
        Stage(
            "distilled",
            "04_ema_distillation.ipynb",
            (
                "selection/pseudo_labels.json",
                "student/model.safetensors",
                "student/ema.safetensors",
                "student/optimizer.safetensors",
            ),
            (
                "distilled/model.safetensors",
                "distilled/ema.safetensors",
                "distilled/labels_before.json",
                "distilled/labels_train.json",
                "distilled/detections_test.json",
            ),
            (SharedParams, StudentParams, STAGES["distilled"]),
        ),
        Stage(
            "evaluation",
            "05_evaluation.ipynb",
            (
                "generator/proposals_train.json",
                "generator/proposals_test.json",
                "selection/pseudo_labels.json",
                "student/detections_test.json",
                "student/detections_test_ema.json",
                "distilled/labels_before.json",
                "distilled/labels_train.json",
                "distilled/detections_test.json",
            ),
            ("evaluation/metrics.json",),
            (Params,),  # metrics.json records them all
        ),
    )
}
"""The stages by name, in their order."""

FOREIGN = {
    "proposals_file": "generator/proposals_train.json",
    "pseudo_labels_file": "selection/pseudo_labels.json",
    "detections_file": "distilled/detections_test.json",
}
"""Parameter -> the file of the chain in whose place it puts another method's. What leads there does not run then."""


def foreign(params: Params) -> dict[str, Path]:
    """Another method's files, by the name of the file of the chain that they stand for."""
    return {file: Path(value) for name, file in FOREIGN.items() if (value := getattr(params, name))}


def _made(params: Params) -> list[str]:
    """The stages that no file of another method stands for."""
    given = [list(CHAIN).index(Path(file).parts[0]) for file in foreign(params)]
    return list(CHAIN)[max(given, default=-1) + 1 :]


def stages_of(params: Params, dataset: Dataset) -> list[str]:
    """The stages that a run has: not those that another method's file stands for, nor an evaluation against nothing."""
    stages = _made(params)
    return stages[:-1] if hold_out(dataset, params.held_out).segments_of("test").empty else stages


def inputs_of(stage: Stage, params: Params, folder: Path) -> dict[str, Path]:
    """Where the files lie that a stage reads, by their name in the chain: in the run's folder, or another method's."""
    stages, given = _made(params), foreign(params)
    made = {name: folder / name for name in stage.inputs if Path(name).parts[0] in stages}
    return made | {name: path for name, path in given.items() if name in stage.inputs}


def changed_file(stage: Stage, params: Params, folder: Path, known: Mapping[str, str]) -> str:
    """The first file that is not as a stage read or wrote it; empty: none.

    Args:
        stage: which.
        params: of the run.
        folder: of the run.
        known: hashes of its inputs and outputs, by name, as recorded.
    """
    inputs = inputs_of(stage, params, folder)
    for name, value in known.items():
        path = inputs.get(name, folder / name)
        if not path.is_file() or digest(path) != value:
            return name
    return ""


def why_not(stage: Stage, params: Params) -> str:
    """Why a run does not have a stage."""
    given = [f"{name} = {getattr(params, name)!r}" for name in FOREIGN if getattr(params, name)]
    return given[-1] if given and stage.name != "evaluation" else "no test video has true segments"


@dataclass
class Run:
    """One stage of a run while a notebook works on it.

    Attributes:
        params: validated parameters.
        stage: which.
        folder: of the run, `outputs/<run>`.
        inputs: where the files lie that it reads, by name.
        dataset: what the card says.
        key: hash of parameters, data and code as they were when the stage began.
        data: hash of the data.
        code: hash of the code.
        started: seconds since the epoch.
    """

    params: Params
    stage: Stage
    folder: Path
    inputs: dict[str, Path]
    dataset: Dataset
    key: str
    data: str
    code: str
    started: float

    @property
    def here(self) -> Path:
        """The stage's own folder."""
        return self.folder / self.stage.name

    def store(self) -> FeatureStore:
        """The features on this stage's grid."""
        return FeatureStore(self.dataset, "generator" if self.stage.name == "generator" else "student")

    def results(self, name: str) -> pd.DataFrame:
        """Proposals, labels or detections, e.g. "distilled/labels_train.json"; unknown videos or labels are refused."""
        path = self.inputs.get(name, self.folder / name)
        return read_results(path, self.dataset.videos.index, self.dataset.classes)

    def finish(self) -> list[str]:
        """Records that the stage is complete: parameters, inputs, outputs, provenance. Returns what was written."""
        outputs = {name: digest(self.folder / name) for name in self.stage.outputs}
        record = {
            "stage": self.stage.name,
            "key": self.key,
            "data": self.data,
            "code": self.code,
            "parameters": self.params.of(Params),
            "inputs": {name: digest(path) for name, path in self.inputs.items()},
            "outputs": outputs,
            "seconds": round(time.time() - self.started, 1),
            "provenance": provenance(self.params),
        }
        if self.stage.name == "distilled":  # what it takes to use the run without its data: `fustal.localize`
            store = self.store()
            grid = store.grid.model_dump()
            record["task"] = {"classes": self.dataset.classes, "grid": grid, "dim": store.dim}
        for checkpoint in self.here.rglob(CHECKPOINT):
            checkpoint.unlink()
        write_json(record, self.here / "stage.json")
        _release(self.folder)
        return list(outputs)


def open_stage(name: str, namespace: Mapping[str, Any]) -> Run:
    """Opens a stage from a notebook: validates its parameters, checks the files of the stages before, seeds torch.

    Until it is finished, no other process can open it.

    Args:
        name: of the stage.
        namespace: the notebook's `globals()`. Parameters that it does not define are those of the stage before.

    Raises:
        InputError: a wrong parameter, a missing data set; a stage before that has not run, or has run with other
            parameters, data or code; or another process that works on this stage.
    """
    stage, started = CHAIN[name], time.time()
    params = Params.from_notebook(namespace)
    folder = OUTPUTS / params.run
    before = [folder / Path(item).parent / "stage.json" for item in stage.inputs]
    if before and before[-1].exists():
        params = Params.from_notebook(namespace, inherited=read_json(before[-1])["parameters"])
    inputs = inputs_of(stage, params, folder)
    for item in (item for item, path in inputs.items() if not path.is_file()):
        maker = next(s.notebook for s in CHAIN.values() if item in s.outputs)
        how = f": run notebook {maker} first, with run = {params.run!r}" if inputs[item] == folder / item else ""
        raise InputError(f"{inputs[item]}: no such file{how}")
    ensure(params.dataset)
    dataset = load_dataset(params.dataset)
    if stage.name not in stages_of(params, dataset):
        raise InputError(f"{folder}: notebook {stage.notebook} has nothing to do: {why_not(stage, params)}")
    data, code = data_key(dataset), code_digest(stage.notebook)
    made = {item for item, path in inputs.items() if path == folder / item}
    for maker in (s for s in CHAIN.values() if made & set(s.outputs)):
        if changed := _changed(maker, params, folder, data):
            raise InputError(f"{folder / maker.name}: {changed}: run notebook {maker.notebook} again")
    seen = hold_out(dataset, params.held_out)
    if seen.segments_of("train").empty:
        print("no training video has true segments: what is measured on them says nothing")
    run = Run(params, stage, folder, inputs, seen, stage_key(params, stage, data), data, code, started)
    _hold(folder, stage.name)
    for abandoned in list(run.here.rglob(".*")):  # by `atomic`, when it was killed
        shutil.rmtree(abandoned, ignore_errors=True)
    run.here.mkdir(parents=True, exist_ok=True)
    (run.here / "stage.json").unlink(missing_ok=True)
    _forget_other_checkpoints(run)
    torch.set_num_threads(params.threads or os.cpu_count() or 1)
    torch.manual_seed(params.seed)
    return run


def is_done(params: Params, name: str, data: str, outputs: Path | None = None) -> bool:
    """Whether a stage is complete for exactly these parameters, inputs and code, and its files are still as written.

    Args:
        params: of the run.
        name: of the stage.
        data: see `data_key`.
        outputs: the folder above the run's, if another one than `OUTPUTS`.
    """
    folder, stage = (outputs or OUTPUTS) / params.run, CHAIN[name]
    record_file = folder / name / "stage.json"
    if not record_file.exists():
        return False
    record = read_json(record_file)
    known = record["inputs"] | record["outputs"]
    return record["key"] == stage_key(params, stage, data) and not changed_file(stage, params, folder, known)


def adopt(source: Path, params: Params, name: str, outputs: Path) -> None:
    """Takes a finished stage over from another run in which it has the same parameters, data, code and inputs.

    Args:
        source: the other run's folder.
        params: of the run that takes it.
        name: of the stage.
        outputs: the folder above the run's.
    """
    folder, stage = outputs / params.run, CHAIN[name]
    with atomic(folder / name) as temporary:
        shutil.copytree(source / name, temporary, copy_function=_link)
        record = read_json(temporary / "stage.json") | {"parameters": params.of(Params), "taken_from": source.name}
        write_json(record, temporary / "stage.json")
    with atomic(folder / "notebooks" / stage.notebook) as temporary:
        _link(source / "notebooks" / stage.notebook, temporary)


def _link(source: str | Path, target: str | Path) -> None:
    """One file under two names, where the file system allows it, as what a run has written is only ever replaced."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def stage_key(params: Params, stage: Stage, data: str) -> str:
    """What a stage's result depends on besides its input files: parameters, data set, code. As one hash."""
    chosen = {key: value for key, value in params.of(*stage.params).items() if key not in ("run", "dataset")}
    chosen |= {key: digest(Path(chosen[key])) for key in FOREIGN if chosen.get(key) and Path(chosen[key]).is_file()}
    parts = [json.dumps(chosen, sort_keys=True), data, code_digest(stage.notebook)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def data_key(dataset: Dataset) -> str:
    """Hash of a data set: annotations by content; features by name, size and time, as they may be many gigabytes."""
    total = hashlib.sha256(digest(dataset.annotations).encode())
    for grid in dataset.grids.values():
        total.update(grid.model_dump_json().encode())
    for stage in dataset.grids:
        store = FeatureStore(dataset, stage)
        for path in (path for video in dataset.videos.index for path in store.paths(video) if path.exists()):
            status = path.stat()
            total.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return total.hexdigest()


def code_digest(notebook: str) -> str:
    """Hash of the package's source and of the code cells of one notebook, but for its exercises."""
    cells = [
        cell["source"]
        for cell in read_json(ROOT / "notebooks" / notebook)["cells"]
        if cell["cell_type"] == "code" and not {"exercise", "solution"} & set(cell["metadata"].get("tags", []))
    ]
    source = digest(*sorted((ROOT / "fustal").rglob("*.py")))
    return hashlib.sha256((source + json.dumps(cells)).encode()).hexdigest()


def _changed(maker: Stage, params: Params, folder: Path, data: str) -> str:
    """What is not any more as it was when a stage made its files, which therefore must not be read; empty: nothing."""
    if not (folder / maker.name / "stage.json").exists():
        return "has not finished (another method's files are given by a parameter)"
    record = read_json(folder / maker.name / "stage.json")
    if changed := changed_file(maker, params, folder, record["inputs"] | record["outputs"]):
        return f"{changed} has changed since"
    for name, value in params.of(*maker.params).items():
        if name not in ("run", "dataset") and record["parameters"][name] != value:
            return f"it ran with {name} = {record['parameters'][name]!r}, and this is with {value!r}"
    if record["data"] != data:
        return "the data have changed since"
    return "" if record["code"] == code_digest(maker.notebook) else "its code, or fustal's, has changed since"


PATIENCE = 5
"""Seconds that a stage waits for another process to leave it: a kernel whose parent was killed takes a moment."""

_held: dict[Path, FileLock] = {}


def _hold(folder: Path, name: str) -> None:
    """Locks a run's stage until this process finishes it, opens another stage of the run, or ends."""
    _release(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f".{name}.lock")
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise InputError(f"{folder / name}: another process works on it: wait for it, or end it") from None
    _held[folder] = lock


def _release(folder: Path) -> None:
    if folder in _held:
        _held.pop(folder).release()


def _forget_other_checkpoints(run: Run) -> None:
    """Keeps the checkpoints of an interrupted training only when they belong to exactly this stage."""
    marker, inputs = run.here / "started.json", {name: digest(path) for name, path in run.inputs.items()}
    if not marker.exists() or read_json(marker) != {"key": run.key, "inputs": inputs}:
        for checkpoint in run.here.rglob(CHECKPOINT):
            checkpoint.unlink()
    write_json({"key": run.key, "inputs": inputs}, marker)
