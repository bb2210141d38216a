"""One stage of a run: opened by its notebook, finished with a record, done already or not."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fustal.data.annotations import read_results
from fustal.data.cards import Dataset, hold_out, load_dataset
from fustal.data.demo import ensure
from fustal.data.features import FeatureStore
from fustal.data.files import digest, read_json, shown
from fustal.data.names import OUTPUTS
from fustal.data.writing import STARTED, atomic, check_target, flush, held, make_folder, remove_unfinished, write_json
from fustal.engine.checkpoint import CHECKPOINT
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.runs.chain import CHAIN, FOREIGN, Stage, inputs_of, stages_of, why_not
from fustal.runs.identity import RECORD, code_digest, data_key, read_record
from fustal.runs.provenance import provenance


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
        read: hashes of the inputs as they were when the stage began, by name.
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
    read: dict[str, str]
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
        """Records that the stage is complete: parameters, inputs, outputs, provenance. Returns what was written.

        Raises:
            InputError: an output is missing, or an input or the data are not any more what the stage began with.
        """
        again = f"has changed while notebook {self.stage.notebook} worked on it: run it again"
        for name, path in self.inputs.items():
            if not path.is_file() or digest(path) != self.read[name]:
                raise InputError(f"{path}: {again}")
        if data_key(load_dataset(self.params.dataset)) != self.data:
            raise InputError(f"data set {self.params.dataset}: {again}")
        outputs = {name: digest(self.folder / name) for name in self.stage.outputs}
        record = {
            "stage": self.stage.name,
            "key": self.key,
            "data": self.data,
            "code": self.code,
            "parameters": self.params.of(Params),
            "inputs": self.read,
            "outputs": outputs,
            "seconds": round(time.time() - self.started, 1),
            "provenance": provenance(self.params),
        }
        if self.stage.name == "distilled":  # what it takes to use the run without its data: `fustal.tools.localize`
            store = self.store()
            grid = store.grid.model_dump()
            record["task"] = {"classes": self.dataset.classes, "grid": grid, "dim": store.dim}
        for checkpoint in self.here.rglob(CHECKPOINT):
            checkpoint.unlink()
        write_json(record, self.here / RECORD)
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
    if stage.inputs and (before := read_record(folder / Path(stage.inputs[-1]).parent)):
        params = Params.from_notebook(namespace, inherited=before.parameters)
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
    read = {item: digest(path) for item, path in inputs.items()}
    run = Run(params, stage, folder, inputs, seen, stage_key(params, stage, data), data, code, read, started)
    _check_ours(run.here)
    _hold(folder, stage.name)
    make_folder(run.here)
    remove_unfinished(run.here)
    (run.here / RECORD).unlink(missing_ok=True)
    flush(run.here)
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
    record = read_record(folder / name)
    if record is None or record.key != stage_key(params, stage, data) or set(record.outputs) != set(stage.outputs):
        return False
    return not changed_file(stage, params, folder, record.inputs | record.outputs)


def adopt(source: Path, params: Params, name: str, outputs: Path) -> None:
    """Takes a finished stage over from another run in which it has the same parameters, data, code and inputs.

    Args:
        source: the other run's folder.
        params: of the run that takes it.
        name: of the stage.
        outputs: the folder above the run's.
    """
    folder, stage = outputs / params.run, CHAIN[name]
    record = read_json(source / name / RECORD) | {"parameters": params.of(Params), "taken_from": source.name}
    (folder / name / RECORD).unlink(missing_ok=True)  # until all of it is here
    paths = sorted((source / name).rglob("*"), key=lambda path: (path.name != STARTED, path))
    for path in paths:
        if path.is_file() and path.name != RECORD:
            _take(path, folder / path.relative_to(source))
    _take(source / "notebooks" / stage.notebook, folder / "notebooks" / stage.notebook)
    write_json(record, folder / name / RECORD)


def _take(source: Path, target: Path) -> None:
    with atomic(target) as temporary:
        _link(source, temporary)


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


def _changed(maker: Stage, params: Params, folder: Path, data: str) -> str:
    """What is not any more as it was when a stage made its files, which therefore must not be read; empty: nothing."""
    record = read_record(folder / maker.name)
    if record is None or set(record.outputs) != set(maker.outputs):
        return "has not finished (another method's files are given by a parameter)"
    if changed := changed_file(maker, params, folder, record.inputs | record.outputs):
        return f"{changed} has changed since"
    for name, value in params.of(*maker.params).items():
        if name not in ("run", "dataset") and (ran := record.parameters.get(name)) != value:
            return f"it ran with {name} = {shown(ran)}, and this is with {value!r}"
    if record.data != data:
        return "the data have changed since"
    return "" if record.code == code_digest(maker.notebook) else "its code, or fustal's, has changed since"


def _check_ours(here: Path) -> None:
    """Refuses a stage's folder that holds files and was not made by a stage."""
    check_target(here / RECORD)
    files = [path for path in here.rglob("*") if path.is_file()] if here.is_dir() else []
    if files and not (here / STARTED).exists():
        raise InputError(
            f"{here}: holds {shown(files[0].name)}, which no stage made: move it away, or name another run"
        )


PATIENCE = 5
"""Seconds that a stage waits for another process to leave it: a kernel whose parent was killed takes a moment."""


_locks: dict[Path, ExitStack] = {}
"""The stage that this process works on, by the folder of its run."""


def _hold(folder: Path, name: str) -> None:
    """Locks a run's stage until this process finishes it, opens another stage of the run, or ends."""
    _release(folder)
    stack = ExitStack()
    stack.enter_context(held(folder / f".{name}.lock", folder / name, PATIENCE))
    _locks[folder] = stack


def _release(folder: Path) -> None:
    if folder in _locks:
        _locks.pop(folder).close()


def _forget_other_checkpoints(run: Run) -> None:
    """Keeps the checkpoints of an interrupted training only when they belong to exactly this stage."""
    marker, mine = run.here / STARTED, {"key": run.key, "inputs": run.read}
    try:
        same = read_json(marker) == mine if marker.exists() else False
    except InputError as error:
        print(f"{error}: the stage begins anew", file=sys.stderr)
        same = False
    if not same:
        for checkpoint in run.here.rglob(CHECKPOINT):
            checkpoint.unlink()
        write_json(mine, marker)
