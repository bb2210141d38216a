"""One stage of a run: opened by its notebook, finished with a record, or done already."""

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

from fustal.data.cards import Dataset, hold_out, load_dataset
from fustal.data.demo import ensure
from fustal.data.extraction import read_extraction
from fustal.data.features import FeatureStore
from fustal.data.files import digest, read_json, shown
from fustal.data.names import OUTPUTS
from fustal.data.results import read_results
from fustal.data.writing import STARTED, atomic, check_target, flush, held, make_folder, remove_unfinished, write_json
from fustal.engine.checkpoint import CHECKPOINT
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.runs.chain import CHAIN, FOREIGN, Stage, inputs_of, stages_of, why_not
from fustal.runs.identity import RECORD, Record, code_digest, data_key, read_record
from fustal.runs.provenance import provenance

LOCK_PATIENCE = 5
"""Seconds that a stage waits for another process to leave it: a kernel whose parent was killed takes a moment."""

NOT_COMPARED = ("run", "dataset")
"""Parameters that are only names: the data are compared by their own hash."""


@dataclass
class OpenStage:
    """One stage of a run while a notebook works on it.

    Attributes:
        params: validated parameters.
        stage: of the chain.
        run_folder: the folder of the run, `outputs/<run>`.
        inputs: paths of the files that it reads, by name.
        dataset: described by the card, with `held_out` applied.
        key: hash of parameters, data and code as they were when the stage began.
        data: hash of the data.
        code: hash of the code.
        read: hashes of the inputs as they were when the stage began, by name.
        started: seconds since the epoch.
    """

    params: Params
    stage: Stage
    run_folder: Path
    inputs: dict[str, Path]
    dataset: Dataset
    key: str
    data: str
    code: str
    read: dict[str, str]
    started: float

    @property
    def folder(self) -> Path:
        """The folder of the stage, `outputs/<run>/<stage>`."""
        return self.run_folder / self.stage.name

    def store(self) -> FeatureStore:
        """The features on the grid of this stage."""
        return FeatureStore(self.dataset, "generator" if self.stage.name == "generator" else "student")

    def results(self, name: str) -> pd.DataFrame:
        """Reads proposals, labels or detections, e.g. "distilled/labels_train.json".

        Raises:
            InputError: a video or label is unknown, or the file cannot be read.
        """
        path = self.inputs.get(name, self.run_folder / name)
        return read_results(path, self.dataset.videos.index, self.dataset.classes)

    def finish(self) -> list[str]:
        """Records that the stage is complete: parameters, inputs, outputs, provenance. Returns the outputs' names.

        Raises:
            InputError: an output is missing, or an input or the data have changed since the stage began.
        """
        changed = f"has changed while notebook {self.stage.notebook} worked on it: run it again"
        for name, path in self.inputs.items():
            if not path.is_file() or digest(path) != self.read[name]:
                raise InputError(f"{path}: {changed}")
        if data_key(load_dataset(self.params.dataset)) != self.data:
            raise InputError(f"data set {self.params.dataset}: {changed}")
        outputs = {name: digest(self.run_folder / name) for name in self.stage.outputs}
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
        if self.stage.name == "distilled":  # for `fustal localize`, which uses a run without its data set
            store = self.store()
            task = {"classes": self.dataset.classes, "grid": store.grid.model_dump(), "dim": store.dim}
            extraction = read_extraction(self.dataset.root)  # how the features were made from videos, if they were
            record["task"] = task | {"extraction": extraction.model_dump() if extraction else None}
        _remove_checkpoints(self.folder)
        write_json(record, self.folder / RECORD)
        _release(self.run_folder)
        return list(outputs)


def open_stage(name: str, namespace: Mapping[str, Any]) -> OpenStage:
    """Opens a stage from a notebook: validates its parameters, checks the files of the stages before, seeds torch.

    Until it is finished, no other process can open it.

    Args:
        name: of the stage.
        namespace: the notebook's `globals()`. Parameters that it does not define are those of the stage before.

    Raises:
        InputError: a wrong parameter, a missing data set; a stage before that has not run, or has run with other
            parameters, data or code; or another process that works on this stage.
    """
    stage = CHAIN[name]
    started = time.time()
    params = Params.from_notebook(namespace)
    run_folder = OUTPUTS / params.run
    if stage.inputs:
        earlier = (run_folder / stage.inputs[-1]).parent
        before = read_record(earlier)
        if before is not None:
            _check_version(before, earlier)
            params = Params.from_notebook(namespace, inherited=before.parameters)
    inputs = inputs_of(stage, params, run_folder)
    _check_inputs_exist(inputs, params, run_folder)
    ensure(params.dataset)
    dataset = load_dataset(params.dataset)
    if stage.name not in stages_of(params, dataset):
        raise InputError(f"{run_folder}: notebook {stage.notebook} has nothing to do: {why_not(stage, params)}")
    data = data_key(dataset)
    _check_earlier_stages(inputs, params, run_folder, data)
    seen = hold_out(dataset, params.held_out)
    if seen.segments_of("train").empty:
        print("no training video has true segments: measures on training videos are meaningless")
    opened = OpenStage(
        params=params,
        stage=stage,
        run_folder=run_folder,
        inputs=inputs,
        dataset=seen,
        key=stage_key(params, stage, data),
        data=data,
        code=code_digest(stage.notebook),
        read={item: digest(path) for item, path in inputs.items()},
        started=started,
    )
    _prepare_folder(opened)
    torch.set_num_threads(params.threads or os.cpu_count() or 1)
    torch.manual_seed(params.seed)
    return opened


def _check_version(record: Record, folder: Path) -> None:
    """Refuses the record of a version of fustal that had other parameters."""
    for name in record.parameters:
        if name not in Params.model_fields:
            made = f"made by another version of fustal, with a parameter {shown(name)}"
            raise InputError(f"{folder / RECORD}: {made}: run notebook {CHAIN[folder.name].notebook} again")


def _check_inputs_exist(inputs: Mapping[str, Path], params: Params, run_folder: Path) -> None:
    for item, path in inputs.items():
        if path.is_file():
            continue
        if path != run_folder / item:  # another method's
            raise InputError(f"{path}: no such file")
        maker = next(stage.notebook for stage in CHAIN.values() if item in stage.outputs)
        raise InputError(f"{path}: no such file: run notebook {maker} first, with run = {params.run!r}")


def _check_earlier_stages(inputs: Mapping[str, Path], params: Params, run_folder: Path, data: str) -> None:
    """Refuses inputs that were made with other parameters, data or code, or have been changed since."""
    for maker in _makers(inputs, run_folder):
        reason = _stale(maker, params, run_folder, data)
        if reason:
            raise InputError(f"{run_folder / maker.name}: {reason}: run notebook {maker.notebook} again")


def _prepare_folder(opened: OpenStage) -> None:
    """Locks the folder of a stage, and removes what an earlier, unfinished attempt has left in it."""
    folder = opened.folder
    _check_made_by_a_stage(folder)
    _hold(opened.run_folder, opened.stage.name)
    make_folder(folder)
    remove_unfinished(folder)
    (folder / RECORD).unlink(missing_ok=True)
    flush(folder)
    _remove_other_checkpoints(opened)


# --- done or not ------------------------------------------------------------------------------------------------------


def stage_key(params: Params, stage: Stage, data: str) -> str:
    """Hash of all that a stage's result depends on besides its input files: parameters, data set, code.

    Args:
        params: of the run.
        stage: of the chain.
        data: see `fustal.runs.identity.data_key`.
    """
    chosen = params.of(*stage.params)
    for name in NOT_COMPARED:
        chosen.pop(name, None)
    for name in FOREIGN:
        if chosen.get(name) and Path(chosen[name]).is_file():
            chosen[name] = digest(Path(chosen[name]))  # another method's file counts by its content
    parts = [json.dumps(chosen, sort_keys=True), data, code_digest(stage.notebook)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def is_done(params: Params, name: str, data: str, outputs: Path | None = None) -> bool:
    """Whether a stage is complete for exactly these parameters, inputs and code, and its files are still as written.

    The stages that made its inputs must be done as well: an evaluation is not done if the student's loss has changed.

    Args:
        params: of the run.
        name: of the stage.
        data: see `fustal.runs.identity.data_key`.
        outputs: the folder above the run's, if another one than `OUTPUTS`.
    """
    run_folder = (outputs or OUTPUTS) / params.run
    waiting = [CHAIN[name]]
    seen = set()
    while waiting:
        stage = waiting.pop()
        if stage.name in seen:  # stages share makers: each is checked once
            continue
        seen.add(stage.name)
        record = _complete(stage, run_folder)
        if record is None or record.key != stage_key(params, stage, data):
            return False
        if changed_file(stage, params, run_folder, record.inputs | record.outputs):
            return False
        waiting += _makers(inputs_of(stage, params, run_folder), run_folder)
    return True


def _makers(inputs: Mapping[str, Path], run_folder: Path) -> list[Stage]:
    """The stages that have made some of the inputs of a stage; another method's files have none."""
    made = {item for item, path in inputs.items() if path == run_folder / item}
    return [stage for stage in CHAIN.values() if made & set(stage.outputs)]


def _complete(stage: Stage, run_folder: Path) -> Record | None:
    """The record of a stage that has written all of its outputs."""
    record = read_record(run_folder / stage.name)
    if record is None or set(record.outputs) != set(stage.outputs):
        return None
    return record


def _stale(maker: Stage, params: Params, run_folder: Path, data: str) -> str:
    """The reason why the files that a stage has made must not be read; empty: none."""
    record = _complete(maker, run_folder)
    if record is None:
        return "has not finished (another method's files are given by a parameter)"
    changed = changed_file(maker, params, run_folder, record.inputs | record.outputs)
    if changed:
        return f"{changed} has changed since"
    for name, value in params.of(*maker.params).items():
        ran = record.parameters.get(name)
        if name not in NOT_COMPARED and ran != value:
            return f"it ran with {name} = {shown(ran)}, and this is with {value!r}"
    if record.data != data:
        return "the data have changed since"
    if record.code != code_digest(maker.notebook):
        return "its code, or fustal's, has changed since"
    return ""


def changed_file(stage: Stage, params: Params, run_folder: Path, known: Mapping[str, str]) -> str:
    """The first file that differs from what a stage has read or written; empty: none.

    Args:
        stage: of the chain.
        params: of the run.
        run_folder: of the run.
        known: recorded hashes of its inputs and outputs, by name.
    """
    inputs = inputs_of(stage, params, run_folder)
    for name, value in known.items():
        path = inputs.get(name, run_folder / name)
        if not path.is_file() or digest(path) != value:
            return name
    return ""


def adopt(source: Path, params: Params, name: str, outputs: Path) -> None:
    """Takes a finished stage over from another run in which it has the same parameters, data, code and inputs.

    Args:
        source: folder of the other run.
        params: of the run that takes it.
        name: of the stage.
        outputs: the folder above the run's.
    """
    run_folder = outputs / params.run
    stage = CHAIN[name]
    record = read_json(source / name / RECORD) | {"parameters": params.of(Params), "taken_from": source.name}
    (run_folder / name / RECORD).unlink(missing_ok=True)  # until all of it is here
    # The mark of a started stage comes first: a folder with files and without it counts as not made by a stage.
    paths = sorted((source / name).rglob("*"), key=lambda path: (path.name != STARTED, path))
    for path in paths:
        if path.is_file() and path.name != RECORD:
            _take(path, run_folder / path.relative_to(source))
    _take(source / "notebooks" / stage.notebook, run_folder / "notebooks" / stage.notebook)
    write_json(record, run_folder / name / RECORD)


def _take(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where the file system does not allow that; runs only replace files."""
    with atomic(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copy2(source, temporary)


# --- the folder of a stage --------------------------------------------------------------------------------------------


def _check_made_by_a_stage(folder: Path) -> None:
    """Refuses a folder with files that no stage has made."""
    check_target(folder / RECORD)
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    if files and not (folder / STARTED).exists():
        raise InputError(
            f"{folder}: holds {shown(files[0].name)}, which no stage made: move it away, or name another run"
        )


_locks: dict[Path, ExitStack] = {}
"""The lock of the stage that this process works on, by the folder of its run."""


def _hold(run_folder: Path, name: str) -> None:
    """Locks a stage until this process finishes it, opens another stage of the run, or ends."""
    _release(run_folder)
    stack = ExitStack()
    stack.enter_context(held(run_folder / f".{name}.lock", run_folder / name, LOCK_PATIENCE))
    _locks[run_folder] = stack


def _release(run_folder: Path) -> None:
    if run_folder in _locks:
        _locks.pop(run_folder).close()


def _remove_other_checkpoints(opened: OpenStage) -> None:
    """Keeps the checkpoints of an interrupted training only when they belong to exactly this stage."""
    marker = opened.folder / STARTED
    mine = {"key": opened.key, "inputs": opened.read}
    same = False
    if marker.exists():
        try:
            same = read_json(marker) == mine
        except InputError as error:
            print(f"{error}: the stage starts again", file=sys.stderr)
    if not same:
        _remove_checkpoints(opened.folder)
        write_json(mine, marker)


def _remove_checkpoints(folder: Path) -> None:
    for checkpoint in folder.rglob(CHECKPOINT):
        checkpoint.unlink()
