"""Plans of sweeps: the jobs that a file describes, as stages of which equal ones are computed once.

`fustal.tools.sweeps.cluster` runs them. docs/cluster.md explains how to use it.
"""

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from fustal import ROOT
from fustal.data.cards import Dataset, load_dataset
from fustal.data.demo import ensure
from fustal.data.files import shown, validated
from fustal.data.names import read_as
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.runs.chain import CHAIN, stages_of
from fustal.runs.identity import data_key
from fustal.runs.stage import is_done, stage_key

Scalar = str | int | float | bool


class Sweep(BaseModel):
    """A file of `params/sweeps`. Each combination of a base, a variant, values of the grid and a seed is a job."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    base: str | dict[str, dict[str, Scalar]] = Field(
        description="preset, a name in params/ or a path; or several presets -> parameters that differ from them"
    )
    seeds: list[int] = Field(default=[0], min_length=1)
    grid: dict[str, list[Scalar]] = Field(default={}, description="parameter -> values; all combinations")
    variants: dict[str, dict[str, Scalar]] = Field(default={}, description="name -> parameters of one variant")
    skipped: dict[str, list[str]] = Field(default={}, description="variant -> presets with which it is not run")
    memory_gib: float = Field(default=4.0, gt=0, description="maximum memory of a job in GiB")


class SweepTask(NamedTuple):
    """One stage of one job of a sweep.

    Attributes:
        params: of the job; `run` is the job's name.
        stage: name of the stage.
        key: hash of parameters, data, code and inputs; tasks with equal keys have equal results.
        donor: name of the job that computes the stage, if it is another one.
        done: whether the job's folder has the result already.
    """

    params: Params
    stage: str
    key: str
    donor: str | None
    done: bool

    @property
    def name(self) -> tuple[str, str]:
        """Job and stage."""
        return self.params.run, self.stage


def read_sweep(path: Path) -> Sweep:
    """Reads a sweep file.

    Args:
        path: from `names.find`.

    Raises:
        InputError: the file is missing, not YAML, of another kind, or has unknown entries or entries of a wrong type.
    """
    return validated(Sweep, read_as("sweep", path, Sweep.model_fields), path)


def jobs_of(sweep: Sweep, path: Path) -> list[Params]:
    """The jobs of a sweep, each with its own name; jobs of the first seed come first.

    Args:
        sweep: what to combine.
        path: of the sweep file, for messages and for presets with a path relative to it.

    Returns:
        Parameters of each job; `run` is its name.

    Raises:
        InputError: an unknown preset or parameter, a value out of range, or two jobs with the same name.
    """
    bases = {sweep.base: {}} if isinstance(sweep.base, str) else sweep.base
    variants = sweep.variants or {"": {}}
    _check_varied(sweep, bases, path)
    jobs: dict[str, Params] = {}
    for seed, base, variant, point in itertools.product(sweep.seeds, bases, variants, _points(sweep.grid)):
        if base in sweep.skipped.get(variant, []):
            continue
        preset = _preset(base, path)
        parts = [f"{name}-{value}" for name, value in point.items()]
        if variant:
            parts.insert(0, variant)
        if len(bases) > 1:
            parts.insert(0, preset.stem)
        run = re.sub(r"[^\w.-]", "_", "-".join([*parts, f"seed{seed}"]))
        if run in jobs:
            raise InputError(f"{path}: two jobs have the name {run}")
        changes = bases[base] | variants[variant] | point | {"seed": seed, "run": run}
        try:
            jobs[run] = Params.read(preset, **changes)
        except InputError as error:
            raise InputError(f"{path}: job {run}: {error}") from None
    return list(jobs.values())


def _check_varied(sweep: Sweep, bases: Mapping[str, Mapping[str, Scalar]], path: Path) -> None:
    """Refuses a sweep that varies the parameters that `jobs_of` sets itself, or skips what it does not have."""
    varied = set(sweep.grid)
    for changes in [*bases.values(), *sweep.variants.values()]:
        varied.update(changes)
    for name in ("run", "seed"):
        if name in varied:
            raise InputError(f"{path}: {name} cannot be varied by hand (use 'seeds')")
    for variant, presets in sweep.skipped.items():
        if variant not in sweep.variants or not set(presets) <= set(bases):
            raise InputError(f"{path}: skipped: {shown(variant)} is not a variant, or has a preset that is not in base")


def _points(grid: Mapping[str, Sequence[Scalar]]) -> list[dict[str, Scalar]]:
    """All combinations of the values of a grid; one empty combination without a grid.

    >>> _points({"a": [1, 2], "b": [3]})
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _preset(base: str, path: Path) -> Path:
    """File of a preset: a name is in params/, a path is relative to the sweep file."""
    if re.fullmatch(r"[\w-]+", base):
        return ROOT / "params" / f"{base}.yaml"
    return path.parent / base


def plan(jobs: Sequence[Params], outputs: Path | None) -> list[SweepTask]:
    """The stages of all jobs, each one after those that it needs.

    Args:
        jobs: parameters of each job.
        outputs: folder that holds the jobs' folders; None if this process cannot read it.

    Returns:
        Tasks. Of those with the same key exactly one has no donor: the first that is done, else the first.

    Raises:
        InputError: a data set is missing.
    """
    datasets: dict[str, Dataset] = {}
    data_keys: dict[str, str] = {}
    for name in dict.fromkeys(params.dataset for params in jobs):
        ensure(name)
        datasets[name] = load_dataset(name)
        data_keys[name] = data_key(datasets[name])
    tasks = []
    for params in jobs:
        data = data_keys[params.dataset]
        key = ""
        for stage in stages_of(params, datasets[params.dataset]):
            # The key contains that of the stage before: equal keys mean equal inputs as well.
            key = hashlib.sha256(f"{key} {stage_key(params, CHAIN[stage], data)}".encode()).hexdigest()
            done = outputs is not None and is_done(params, stage, data, outputs)
            tasks.append(SweepTask(params, stage, key, None, done))
    donors = _donors(tasks)
    shared = []
    for task in tasks:
        donor = donors[task.key]
        shared.append(task if task.params.run == donor else task._replace(donor=donor))
    return shared


def _donors(tasks: Sequence[SweepTask]) -> dict[str, str]:
    """Name of the job that computes each key: the first that is done, else the first."""
    donors: dict[str, str] = {}
    for task in tasks:
        if task.done:
            donors.setdefault(task.key, task.params.run)
    for task in tasks:
        donors.setdefault(task.key, task.params.run)
    return donors


def describe(tasks: Sequence[SweepTask]) -> list[str]:
    """A line for each job of a plan: which stages are done, taken from another job, or computed."""
    lines: dict[str, list[str]] = {}
    for task in tasks:
        if task.done:
            what = "done"
        elif task.donor:
            what = f"from {task.donor}"
        else:
            what = "compute"
        lines.setdefault(task.params.run, []).append(f"{task.stage}: {what}")
    return [f"{run}: {', '.join(stages)}" for run, stages in lines.items()]


def digest_of(values: Any) -> str:
    """Hash of values, short enough for a name."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]
