"""A preset as `fustal run` and `fustal params` take it: a parameter file, changed by `--set` and `--seed`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fustal.data.names import among, find_card
from fustal.exceptions import InputError
from fustal.params import PATHS, STAGE_PARAMS, Params, SharedParams, form, located

WIDE = 2000
"""Columns of a table that is not printed in a terminal: more than any line has, so no line is broken."""


def read_preset(preset: Path | None, assignments: Sequence[str] | None, **changes: Any) -> Params:
    """Reads a parameter file and replaces some of its parameters.

    Args:
        preset: the file, or a folder with a `params.yaml`; None: the default parameters.
        assignments: texts of the form "name=value" (`--set`). Paths in them are relative to the working directory.
        **changes: further parameters to replace; they have priority.

    Raises:
        InputError: no such file, a text of another form, or a parameter that is unknown, mistyped or out of range.
    """
    values = located(dict(_assignment(text) for text in assignments or []), Path.cwd())
    values |= changes
    return Params(**values) if preset is None else Params.read(preset, **values)


def _assignment(text: str) -> tuple[str, object]:
    """Name and value of a text "name=value"."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: must be name=value")
    try:
        return name.strip(), yaml.safe_load(value)
    except Exception:
        # Invalid YAML can raise any exception. As a text, the value fits the parameter's type or is refused there.
        return name.strip(), value


def runs_of(preset: Path, assignments: Sequence[str] | None, seeds: Sequence[int] | None) -> list[Params]:
    """The runs of one `fustal run`: one of the preset, or one for each seed, named `<run>-seed<k>`.

    Args:
        preset: see `read_preset`.
        assignments: see `read_preset`.
        seeds: seeds; a repeated one counts once.

    Raises:
        InputError: see `read_preset`; or a data-set card or another method's file is missing.
    """
    base = read_preset(preset, assignments)
    runs = [base]
    if seeds:
        runs = [read_preset(preset, assignments, seed=k, run=f"{base.run}-seed{k}") for k in dict.fromkeys(seeds)]
    _check_paths(base)
    return runs


def _check_paths(params: Params) -> None:
    """Raises at once what a stage would raise only later: a missing card, or a missing file of another method."""
    find_card(params.dataset)
    for name in PATHS:
        value = getattr(params, name)
        if name != "dataset" and value and not Path(value).is_file():
            raise InputError(f"{name}: {value}: no such file")


def stages_to_run(only: str | None, first: str | None) -> tuple[list[str], list[str]]:
    """The stages that `--stage` or `--from-stage` selects, and the stages before them that must be done already.

    Args:
        only: the one stage to run; None: see `first`.
        first: the first stage to run; None: all stages.

    Raises:
        InputError: both are given, or there is no such stage.

    >>> stages_to_run(None, "distilled")
    (['distilled', 'evaluation'], ['generator', 'selection', 'student'])
    """
    stages = list(STAGE_PARAMS)
    if only and first:
        raise InputError("--stage and --from-stage: give one of them")
    for option, name in (("--stage", only), ("--from-stage", first)):
        if name is not None and name not in stages:
            raise InputError(f"{option} {name}: no such stage {among(name, stages)}")
    if only:
        return [only], []
    start = stages.index(first) if first else 0
    return stages[start:], stages[:start]


def parameter_lines(params: Params) -> list[str]:
    """A table for each stage: value, allowed values and meaning of its parameters; * marks what is not the default.

    Args:
        params: the parameters.

    Returns:
        The lines to print, as wide as the terminal if the output goes to one.
    """
    differing = {name for name, field in Params.model_fields.items() if getattr(params, name) != field.default}
    groups: list[type[BaseModel]] = [SharedParams, *STAGE_PARAMS.values()]
    lines = []
    for group in groups:
        title = (group.__doc__ or "").splitlines()[0]
        lines.append(title.partition(" (")[0])  # without the reference to docs/method.md
        lines += _printed(_table_of(group, params, differing))
        lines.append("")
    count = f"{len(differing)} of {len(Params.model_fields)} differ from the default"
    lines.append(f"{count} (*)" if differing else count)
    return lines


def _table_of(group: type[BaseModel], params: Params, differing: set[str]) -> Table:
    """The table of one stage's parameters."""
    table = Table("", "parameter", "value", "allowed values", "meaning", box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for name, field in group.model_fields.items():
        mark = "*" if name in differing else ""
        default = f"; default {_as_yaml(field.default)}" if name in differing else ""
        cells = [mark, name, _as_yaml(getattr(params, name)), form(name), f"{field.description}{default}"]
        # As Text, not str: rich would read a value such as "[bold]" as markup.
        table.add_row(*[Text(cell) for cell in cells])
    return table


def _printed(table: Table) -> list[str]:
    """The lines of a table, without colours and without blanks at their ends."""
    width = None if sys.stdout.isatty() else WIDE
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def _as_yaml(value: Any) -> str:
    """A value as a parameter file holds it."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=9999)
    return text.removesuffix("...\n").strip()
