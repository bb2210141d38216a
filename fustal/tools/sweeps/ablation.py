"""What each stage and each choice is worth: variants of a sweep against the full system, paired by seed.

The variants are those of `params/sweeps/ablation.yaml` and `choose.yaml`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fustal.data.files import one_line
from fustal.data.names import among
from fustal.exceptions import InputError
from fustal.tools.sweeps.tables import ENOUGH, interval, markdown_lines

FULL = "full"
"""The variant that all others are compared with, by its distilled student."""


class Row(NamedTuple):
    """A line of a table: a variant of the sweep, measured at a stage."""

    title: str
    variant: str
    stage: str = "distilled"


GENERATOR, DISTILLED, SUPERVISED = (
    Row("generator", FULL, "generator"),
    Row("distilled student", FULL, "distilled"),
    Row("same student on true segments", FULL, "upper_bound"),
)
STAGES = (
    GENERATOR,
    Row("student", FULL, "student"),
    Row("student, EMA weights", FULL, "student_ema"),
    DISTILLED,
    SUPERVISED,
)
"""The stages of the full system."""

REMOVED = (
    Row("no contrast", "no-contrast"),
    Row("in-video contrast only", "in-video-contrast"),
    Row("no filter", "no-filter"),
    Row("filter: confidence only", "confidence-only"),
    Row("filter: IoU score only", "iou-score-only"),
    Row("no MIL loss", "no-mil"),
    Row("no distillation, no EMA", FULL, "student"),
    Row("no distillation, EMA weights", FULL, "student_ema"),
    Row("the same, trained as long", "no-relabelling"),
    Row("the paper's eta' = 0.4", "paper-eta-prime"),
    Row("recipe: published", "published"),
)
"""The paper's system with something taken away, or as it was published."""

ADDED = (
    Row("class-aware IoU score", "class-aware"),
    Row("labels weighted by confidence", "label-weights"),
    Row("both, the default", "class-aware-weighted"),
)
"""Beyond the paper: the system with something added."""

DEFAULT = tuple(row._replace(variant="class-aware-weighted") for row in STAGES[:-1])
"""The stages again, with those additions that are on by default; their upper bound is the same."""

CHOICES = (
    Row("gamma 0.5", "gamma-0.5"),
    Row("eta 0.3", "eta-0.3"),
    Row("eta 0.5", "eta-0.5"),
    Row("eta' 0.2", "relabel-0.2"),
    Row("eta' 0.6", "relabel-0.6"),
    Row("half the learning rate", "lr-halved"),
    Row("teacher from the ninth epoch on", "switch-early"),
    Row("average over 200 steps", "slow-average"),
)
"""Other values of parameters: the variants of `params/sweeps/choose.yaml`."""


def read_table(path: str | Path) -> pd.DataFrame:
    """Reads what `fustal collect` wrote, with the name of each job's variant.

    Args:
        path: a .parquet or .csv file.

    Returns:
        Its rows with the column variant: the job's name without preset and seed.

    Raises:
        InputError: there is no such file, it is no such table, or two of its jobs are the same.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such table (fustal sweep, then fustal collect, makes one)")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        table["value"] = pd.to_numeric(table.value)
        pairs = zip(table.run, table.dataset, strict=True)
        variant = [run.removeprefix(f"{dataset}-").rpartition("seed")[0].rstrip("-") for run, dataset in pairs]
        table = table.assign(variant=variant)
        twice = table[table.duplicated(["dataset", "variant", "seed", "stage", "measure"])]
    except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        raise InputError(f"{path}: is no table of fustal collect: {one_line(error)[:200]}") from None
    if len(twice):
        raise InputError(f"{path}: job {twice.run.iloc[0]} on {twice.dataset.iloc[0]} is there twice")
    return table


def values_of(table: pd.DataFrame, dataset: str, row: Row, measure: str) -> pd.Series:
    """What a row measured, indexed by seed; empty where the sweep has not run it."""
    chosen = (table.dataset == dataset) & (table.variant == row.variant)
    chosen &= (table.stage == row.stage) & (table.measure == measure)
    return table[chosen].set_index("seed").value.sort_index()


def compare(
    table: pd.DataFrame, rows: Sequence[Row], measure: str = "0.1:0.7", against: Row = DISTILLED
) -> pd.DataFrame:
    """Mean and spread of each row over seeds, and its difference to another one, paired by seed.

    Args:
        table: of `read_table`.
        rows: which.
        measure: of the table.
        against: what the differences are taken to; the full system's distilled student.

    Returns:
        One row for each data set and row that has been run: dataset, title, seeds, mean, std, difference, and its
        bootstrap interval of 95 %, low and high (NaN with fewer than three seeds in common).
    """
    lines = []
    for dataset in dict.fromkeys(table.dataset):
        reference = values_of(table, dataset, against, measure)
        for row in rows:
            values = values_of(table, dataset, row, measure)
            difference = (values - reference).dropna().to_numpy()
            if len(difference):
                spread = values.mean(), values.std(), difference.mean(), *interval(difference)
                lines.append((dataset, row.title, len(difference), *spread))
    columns = ["dataset", "title", "seeds", "mean", "std", "difference", "low", "high"]
    return pd.DataFrame(lines, columns=columns)


def in_words(comparison: pd.DataFrame) -> pd.DataFrame:
    """What a comparison says: better, worse, or no clear difference, a row a variant, a column a data set.

    A difference is clear when its interval, of three seeds or more, does not reach 0.

    Args:
        comparison: of `compare`.
    """
    few, better, worse = comparison.seeds < ENOUGH, comparison.low > 0, comparison.high < 0
    words = np.select([few, better, worse], ["too few seeds", "better", "worse"], "no clear difference")
    told = [f"{word} ({value:+.1f})" for word, value in zip(words, comparison.difference, strict=True)]
    table = comparison.assign(told=told).pivot(index="title", columns="dataset", values="told")
    return table.reindex(index=comparison.title.unique(), columns=comparison.dataset.unique()).fillna("not run")


def markdown(table: pd.DataFrame, measure: str = "0.1:0.7") -> str:
    """Tables for a page: each row on each data set, mean ± std (number of seeds), and its difference with interval.

    Args:
        table: of `read_table`.
        measure: which is compared.

    Raises:
        InputError: the stages were not measured so.
    """
    stages = {row.stage for row in (*STAGES, *REMOVED, *ADDED)}
    measures = list(dict.fromkeys(table.measure[table.stage.isin(stages)]))
    if measure not in measures:
        raise InputError(f"--measure {measure}: is not in the table {among(measure, measures)}")
    blocks = []
    for corner, rows, against in (
        ("the paper's system", STAGES, GENERATOR),
        ("with the additions that are on by default", DEFAULT, GENERATOR),
        ("something taken away", REMOVED, DISTILLED),
        ("something added", ADDED, DISTILLED),
    ):
        comparison = compare(table, rows, measure, against)
        datasets = list(dict.fromkeys(comparison.dataset))
        lines = [
            [corner, *(f"{name} | - {against.title}" for name in datasets)],
            ["---"] + ["---: | ---:"] * len(datasets),
        ]
        cells = {(row.title, row.dataset): _cells(row) for row in comparison.itertuples()}
        for title in dict.fromkeys(comparison.title):
            lines.append([title, *(cells.get((title, name), "— | —") for name in datasets)])
        if datasets:
            blocks.append(markdown_lines(lines))
    if not blocks:
        raise InputError(f"the table has nothing to compare: no job of variant {FULL!r} with {measure}")
    return "\n\n".join(blocks)


def _cells(row: Any) -> str:
    spread = "" if pd.isna(row.std) else f" ± {row.std:.1f}"
    between = "" if pd.isna(row.low) else f" [{row.low:+.1f}, {row.high:+.1f}]"
    return f"{row.mean:.1f}{spread} ({row.seeds}) | {row.difference:+.1f}{between}"
