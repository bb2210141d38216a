"""Sweeps: many chains from one file, as stages of which equal ones are computed once.

What runs them is `fustal.tools.sweeps.cluster`. The page "From a laptop to a cluster" (docs/cluster.md) tells how.
"""

import hashlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from fustal import ROOT
from fustal.data.cards import load_dataset
from fustal.data.demo import ensure
from fustal.data.files import validated
from fustal.data.names import read_as
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.runs.chain import CHAIN, stages_of
from fustal.runs.identity import data_key
from fustal.runs.stage import is_done, stage_key

Scalar = str | int | float | bool


class Sweep(BaseModel):
    """A file of `params/sweeps`: every base with every variant, combination of the grid and seed is a job."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    base: str | dict[str, dict[str, Scalar]] = Field(
        description="preset, a name in params/ or a path; or several -> parameters that differ from theirs"
    )
    seeds: list[int] = Field(default=[0], min_length=1)
    grid: dict[str, list[Scalar]] = Field(default={}, description="parameter -> values; all combinations")
    variants: dict[str, dict[str, Scalar]] = Field(default={}, description="name -> parameters of one variant")
    memory_gib: float = Field(default=4.0, gt=0, description="that a job may need")


class Task(NamedTuple):
    """A stage of a job.

    Attributes:
        params: of the job; its run is the job's name.
        stage: its name.
        key: hash; tasks with the same one have equal parameters, data, code and inputs, and thus results.
        donor: the job that computes it, where another one does.
        done: whether the job's folder holds it already.
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
    """Reads a sweep file, whose path `names.find` gives.

    Raises:
        InputError: missing, not YAML, another kind of file, or with unknown or mistyped entries.
    """
    return validated(Sweep, read_as("sweep", path, Sweep.model_fields), path)


def jobs_of(sweep: Sweep, path: Path) -> list[Params]:
    """The jobs of a sweep, each with its own name; those of the first seed first.

    Args:
        sweep: what to combine.
        path: of its file, for messages and for presets that are named relative to it.

    Raises:
        InputError: an unknown preset or parameter, a value out of range, or two jobs that are the same.
    """
    bases = {sweep.base: {}} if isinstance(sweep.base, str) else sweep.base
    varied = {*sweep.grid, *itertools.chain(*bases.values(), *sweep.variants.values())}
    if reserved := {"run", "seed"} & varied:
        raise InputError(f"{path}: {sorted(reserved)[0]} cannot be varied by hand (there is 'seeds')")
    values = [[(name, value) for value in choices] for name, choices in sweep.grid.items()]
    jobs: dict[str, Params] = {}
    for seed, (base, own), (variant, changes), *point in itertools.product(
        sweep.seeds, bases.items(), (sweep.variants or {"": {}}).items(), *values
    ):
        preset = ROOT / "params" / f"{base}.yaml" if re.fullmatch(r"[\w-]+", base) else path.parent / base
        parts = [preset.stem] * (len(bases) > 1) + [variant] * bool(variant)
        parts += [f"{name}-{value}" for name, value in point] + [f"seed{seed}"]
        run = re.sub(r"[^\w.-]", "_", "-".join(parts))
        if run in jobs:
            raise InputError(f"{path}: two jobs have the name {run}")
        try:
            changed = own | changes | dict(point) | {"seed": seed, "run": run}
            jobs[run] = Params.read(preset, **changed)
        except InputError as error:
            raise InputError(f"{path}: job {run}: {error}") from None
    return list(jobs.values())


def plan(jobs: Sequence[Params], outputs: Path | None) -> list[Task]:
    """The stages of all jobs, each behind those that it needs.

    Args:
        jobs: parameters of each.
        outputs: the folder above the jobs' folders; None where this process cannot look into it.

    Returns:
        Tasks. Of those with the same key one has no donor: one that is done already, else the first.

    Raises:
        InputError: a data set is missing.
    """
    data, datasets = {}, {}
    for name in {params.dataset: None for params in jobs}:
        ensure(name)
        datasets[name] = load_dataset(name)
        data[name] = data_key(datasets[name])
    tasks: dict[str, list[Task]] = {}
    for params in jobs:
        key = ""
        for stage in (CHAIN[name] for name in stages_of(params, datasets[params.dataset])):
            key = hashlib.sha256(f"{key} {stage_key(params, stage, data[params.dataset])}".encode()).hexdigest()
            done = outputs is not None and is_done(params, stage.name, data[params.dataset], outputs)
            tasks.setdefault(key, []).append(Task(params, stage.name, key, None, done))
    donors = {key: next((t for t in equal if t.done), equal[0]).params.run for key, equal in tasks.items()}
    shared = [
        t if t.params.run == donors[t.key] else t._replace(donor=donors[t.key]) for e in tasks.values() for t in e
    ]
    order = {params.run: number for number, params in enumerate(jobs)}
    return sorted(shared, key=lambda task: order[task.params.run])  # a donor is the first of its equals, or done


def describe(tasks: Sequence[Task]) -> list[str]:
    """A line for each job of a plan: what is done, what another job computes, what is to be computed."""
    lines: dict[str, list[str]] = {}
    for task in tasks:
        what = "done" if task.done else f"from {task.donor}" if task.donor else "compute"
        lines.setdefault(task.params.run, []).append(f"{task.stage}: {what}")
    return [f"{run}: {', '.join(stages)}" for run, stages in lines.items()]


def digest_of(values: Any) -> str:
    """Short name of a task for the scheduler."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]
