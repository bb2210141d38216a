"""Ablations: differences between variants of a sweep and the full system, paired by seed.

The variants are those of `params/sweeps/ablation.yaml` and `choose.yaml`. Used in notebook 06.
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
"""The variant whose distilled student is the reference for all others."""


class TableRow(NamedTuple):
    """A row of a table: a stage of a variant of the sweep.

    Attributes:
        title: first cell of the row.
        variant: name in the sweep file.
        stage: which results of the variant are shown.
    """

    title: str
    variant: str
    stage: str = "distilled"


GENERATOR = TableRow("generator", FULL, "generator")
DISTILLED = TableRow("distilled student", FULL, "distilled")
SUPERVISED = TableRow("same student on true segments", FULL, "upper_bound")

STAGES = (
    GENERATOR,
    TableRow("student", FULL, "student"),
    TableRow("student, EMA weights", FULL, "student_ema"),
    DISTILLED,
    SUPERVISED,
)
"""The stages of the full system."""

REMOVED = (
    TableRow("no contrast", "no-contrast"),
    TableRow("in-video contrast only", "in-video-contrast"),
    TableRow("no filter", "no-filter"),
    TableRow("filter: confidence only", "confidence-only"),
    TableRow("filter: IoU score only", "iou-score-only"),
    TableRow("no MIL loss", "no-mil"),
    TableRow("no distillation, no EMA", FULL, "student"),
    TableRow("no distillation, EMA weights", FULL, "student_ema"),
    TableRow("the same, trained as long", "no-relabelling"),
    TableRow("the paper's eta' = 0.4", "paper-eta-prime"),
    TableRow("recipe: published", "published"),
)
"""The paper's system without one of its parts, or as published."""

ADDED = (
    TableRow("class-aware IoU score", "class-aware"),
    TableRow("labels weighted by confidence", "label-weights"),
    TableRow("both, the default", "class-aware-weighted"),
)
"""The paper's system with an addition of this project."""

DEFAULT = tuple(row._replace(variant="class-aware-weighted") for row in STAGES[:-1])
"""The stages with the additions that are on by default. The upper bound is left out: it does not change."""

CHOICES = (
    TableRow("gamma 0.5", "gamma-0.5"),
    TableRow("eta 0.3", "eta-0.3"),
    TableRow("eta 0.5", "eta-0.5"),
    TableRow("eta' 0.2", "relabel-0.2"),
    TableRow("eta' 0.6", "relabel-0.6"),
    TableRow("half the learning rate", "lr-halved"),
    TableRow("teacher from the ninth epoch on", "switch-early"),
    TableRow("average over 200 steps", "slow-average"),
)
"""Other values of parameters: the variants of `params/sweeps/choose.yaml`."""


def read_table(path: str | Path) -> pd.DataFrame:
    """Reads a table of `fustal collect` and adds the name of each job's variant.

    Args:
        path: a .parquet or .csv file.

    Returns:
        Its rows with the column variant: the job's name without data set and seed.

    Raises:
        InputError: the file is missing, is not such a table, or contains a job twice.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such table (make one with fustal sweep and fustal collect)")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        table["value"] = pd.to_numeric(table.value)
        variants = []
        for run, dataset in zip(table.run, table.dataset, strict=True):
            without_seed = run.removeprefix(f"{dataset}-").rpartition("seed")[0]
            variants.append(without_seed.rstrip("-"))
        table = table.assign(variant=variants)
        twice = table[table.duplicated(["dataset", "variant", "seed", "stage", "measure"])]
    except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        raise InputError(f"{path}: is not a table of fustal collect: {one_line(error)[:200]}") from None
    if len(twice):
        raise InputError(f"{path}: job {twice.run.iloc[0]} on {twice.dataset.iloc[0]} appears twice")
    return table


def values_of(table: pd.DataFrame, dataset: str, row: TableRow, measure: str) -> pd.Series:
    """Values of one measure for a row, indexed by seed; empty if the sweep has not run the variant."""
    chosen = (table.dataset == dataset) & (table.variant == row.variant)
    chosen &= (table.stage == row.stage) & (table.measure == measure)
    return table[chosen].set_index("seed").value.sort_index()


def compare(
    table: pd.DataFrame, rows: Sequence[TableRow], measure: str = "0.1:0.7", against: TableRow = DISTILLED
) -> pd.DataFrame:
    """Mean and spread of each row over seeds, and its difference to a reference, paired by seed.

    Args:
        table: of `read_table`.
        rows: to be compared.
        measure: of the table.
        against: the reference.

    Returns:
        One row for each data set and row that has been run: dataset, title, seeds (in common with the reference), mean,
        std, difference, and its bootstrap interval of 95 %: low and high (NaN with fewer than three seeds).
    """
    lines = []
    for dataset in dict.fromkeys(table.dataset):
        reference = values_of(table, dataset, against, measure)
        for row in rows:
            values = values_of(table, dataset, row, measure)
            difference = (values - reference).dropna().to_numpy()
            if len(difference) == 0:
                continue
            low, high = interval(difference)
            lines.append(
                {
                    "dataset": dataset,
                    "title": row.title,
                    "seeds": len(difference),
                    "mean": values.mean(),
                    "std": values.std(),
                    "difference": difference.mean(),
                    "low": low,
                    "high": high,
                }
            )
    columns = ["dataset", "title", "seeds", "mean", "std", "difference", "low", "high"]
    return pd.DataFrame(lines, columns=columns)


def in_words(comparison: pd.DataFrame) -> pd.DataFrame:
    """A verdict for each difference: better, worse, or no clear difference.

    A difference is clear if its interval, of three seeds or more, does not contain 0.

    Args:
        comparison: of `compare`.

    Returns:
        A row per variant, a column per data set.
    """
    conditions = [comparison.seeds < ENOUGH, comparison.low > 0, comparison.high < 0]
    words = np.select(conditions, ["too few seeds", "better", "worse"], "no clear difference")
    verdicts = [f"{word} ({value:+.1f})" for word, value in zip(words, comparison.difference, strict=True)]
    table = comparison.assign(verdict=verdicts).pivot(index="title", columns="dataset", values="verdict")
    return table.reindex(index=comparison.title.unique(), columns=comparison.dataset.unique()).fillna("not run")


def markdown(table: pd.DataFrame, measure: str = "0.1:0.7") -> str:
    """Markdown tables: each row on each data set, mean ± std (number of seeds), and its difference with interval.

    Args:
        table: of `read_table`.
        measure: to be compared.

    Raises:
        InputError: the table has no such measure of the stages, or nothing to compare.
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
        if not comparison.empty:
            blocks.append(_block(corner, comparison, against))
    if not blocks:
        raise InputError(f"the table has nothing to compare: no job of variant {FULL!r} with {measure}")
    return "\n\n".join(blocks)


def _block(corner: str, comparison: pd.DataFrame, against: TableRow) -> str:
    """One table: a row per title, two columns per data set; dashes where a data set has no such row."""
    datasets = list(dict.fromkeys(comparison.dataset))
    cells = {(row.title, row.dataset): _cells(row) for row in comparison.itertuples()}
    lines = [
        [corner, *(f"{name} | - {against.title}" for name in datasets)],
        ["---"] + ["---: | ---:"] * len(datasets),
    ]
    for title in dict.fromkeys(comparison.title):
        lines.append([title, *(cells.get((title, name), "— | —") for name in datasets)])
    return markdown_lines(lines)


def _cells(row: Any) -> str:
    """The two cells of a row of `compare`: mean ± std (seeds), and difference [interval]."""
    spread = "" if pd.isna(row.std) else f" ± {row.std:.1f}"
    between = "" if pd.isna(row.low) else f" [{row.low:+.1f}, {row.high:+.1f}]"
    return f"{row.mean:.1f}{spread} ({row.seeds}) | {row.difference:+.1f}{between}"
