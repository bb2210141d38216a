"""Ablations: differences between stages and between variants of a sweep, paired by seed.

The variants are those of `claims.yaml`, `ablation.yaml` and `choose.yaml` in `params/sweeps`. Used in notebook 06.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fustal.data.files import one_line
from fustal.data.names import among
from fustal.exceptions import InputError
from fustal.tools.sweeps.intervals import LEVEL, holm, interval, p_value
from fustal.tools.sweeps.tables import markdown_lines

FULL = "full"
"""The variant whose distilled student is the reference for all others."""


DATASETS = ("shrec22", "sbhar", "thumos14-simulated")
"""Data sets in the order of all tables and figures: first hands that one can see; simulated features last."""

ENOUGH_FOR_WORDS = 5
"""Minimum number of seeds for a verdict in words: the interval of fewer depends much on one of them, and it misses the
true difference too often where differences are skewed (notebook 06)."""


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
STUDENT = TableRow("student", FULL, "student")
EMA = TableRow("student, EMA weights", FULL, "student_ema")
DISTILLED = TableRow("distilled student", FULL, "distilled")
SUPERVISED = TableRow("same student on true segments", FULL, "upper_bound")

STAGES = (GENERATOR, STUDENT, EMA, DISTILLED, SUPERVISED)
"""The stages of the full system."""

PAPER = tuple(row._replace(variant="paper") for row in STAGES[:-1])
"""The stages of the paper's system. The upper bound is left out: it does not change."""

REMOVED = (
    TableRow("the paper's system", "paper"),
    TableRow("classes compete (softmax)", "softmax"),
    TableRow("classes do not compete (sigmoid)", "sigmoid"),
    TableRow("one share of snippets", "one-ratio"),
    TableRow("labels by thresholds", "thresholds"),
    TableRow("labels without the IoU score", "no-prior"),
    TableRow("no typical durations", "no-durations"),
    TableRow("borders of the curve", "curve-borders"),
    TableRow("borders of the features", "feature-borders"),
    TableRow("labels of equal weight", "equal-weights"),
    TableRow("no contrast", "no-contrast"),
    TableRow("in-video contrast only", "in-video-contrast"),
    TableRow("no MIL loss", "no-mil"),
    TableRow("no distillation, no EMA", FULL, "student"),
    TableRow("no distillation, EMA weights", FULL, "student_ema"),
    TableRow("the same, trained as long", "no-relabelling"),
    TableRow("the paper's memory of the average", "paper-memory"),
)
"""The full system with one of its parts taken away, or replaced by the paper's."""

CLAIMS = {
    TableRow("generator: cross-video over in-video contrast", FULL, "generator"): TableRow(
        "generator: in-video contrast only", "in-video-contrast", "generator"
    ),
    TableRow("cross-video over in-video contrast", FULL): TableRow("in-video contrast only", "in-video-contrast"),
    TableRow("IoU score and confidence over confidence only", FULL): TableRow(
        "labels without the IoU score", "no-prior"
    ),
    TableRow("student over generator", FULL, "student"): GENERATOR,
    TableRow("EMA distillation over none", FULL): STUDENT,
    TableRow("EMA distillation over training as long", FULL): TableRow("the same, trained as long", "no-relabelling"),
}
"""What the paper contributes: a system with it -> the system with something else instead."""

CHOICES = (
    TableRow("gamma 0.5", "gamma-0.5"),
    TableRow("eta 0.3", "eta-0.3"),
    TableRow("eta 0.5", "eta-0.5"),
    TableRow("eta' 0.2", "relabel-0.2"),
    TableRow("eta' 0.6", "relabel-0.6"),
    TableRow("half the learning rate", "lr-halved"),
    TableRow("teacher from the ninth epoch on", "switch-early"),
    TableRow("average over more steps", "slow-average"),
)
"""Other values of the paper's parameters: the variants of `params/sweeps/choose.yaml`."""


def read_table(path: str | Path) -> pd.DataFrame:
    """Reads a table of `fustal collect` and adds the name of each job's variant.

    Args:
        path: a .parquet or .csv file.

    Returns:
        Its rows with the column variant: the job's name without data set and seed. Data sets are in the order of
        `DATASETS`, others after them.

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
    place = {name: i for i, name in enumerate(DATASETS)}
    order = table.dataset.map(lambda name: place.get(name, len(DATASETS)))
    return table.iloc[np.argsort(order.to_numpy(), kind="stable")].reset_index(drop=True)


def values_of(table: pd.DataFrame, dataset: str, row: TableRow, measure: str) -> pd.Series:
    """Values of one measure for a row, indexed by seed; empty if the sweep has not run the variant."""
    chosen = (table.dataset == dataset) & (table.variant == row.variant)
    chosen &= (table.stage == row.stage) & (table.measure == measure)
    return table[chosen].set_index("seed").value.sort_index()


def compare(
    table: pd.DataFrame,
    rows: Sequence[TableRow],
    measure: str = "0.1:0.7",
    against: TableRow | Sequence[TableRow] = DISTILLED,
) -> pd.DataFrame:
    """Mean and spread of each row over seeds, and its difference to a reference, paired by seed.

    Args:
        table: of `read_table`.
        rows: to be compared.
        measure: of the table.
        against: the reference of all rows, or one for each.

    Returns:
        One row for each data set and row that has been run: dataset, title, against (title of the reference), seeds (of
        both), mean, std and difference over these seeds, and for the difference the t interval of 95 % (low, high) and
        the p-value of the t test, with Holm's correction over all rows of the result that have one. With fewer than
        three seeds, low and high are NaN; with fewer than `ENOUGH_FOR_WORDS`, p is, and where a row is its own
        reference.
    """
    references = [against] * len(rows) if isinstance(against, TableRow) else against
    lines = []
    for dataset in dict.fromkeys(table.dataset):
        for row, reference in zip(rows, references, strict=True):
            pair = {"row": values_of(table, dataset, row, measure)}
            pair["reference"] = values_of(table, dataset, reference, measure)
            both = pd.DataFrame(pair).dropna()
            if both.empty:
                continue
            difference = (both.row - both.reference).to_numpy()
            low, high = interval(difference)
            tested = row != reference and len(both) >= ENOUGH_FOR_WORDS
            lines.append(
                {
                    "dataset": dataset,
                    "title": row.title,
                    "against": reference.title,
                    "seeds": len(both),
                    "mean": both.row.mean(),
                    "std": both.row.std(),
                    "difference": difference.mean(),
                    "low": low,
                    "high": high,
                    "p": p_value(difference) if tested else float("nan"),
                }
            )
    columns = ["dataset", "title", "against", "seeds", "mean", "std", "difference", "low", "high", "p"]
    result = pd.DataFrame(lines, columns=columns)
    return result.assign(p=holm(result.p.to_numpy(float)))


def before(rows: Sequence[TableRow]) -> list[TableRow]:
    """The row before each row, as its reference; the first one is its own."""
    return [rows[0], *rows[:-1]]


def in_words(comparison: pd.DataFrame) -> pd.DataFrame:
    """A verdict for each difference: better, worse, or no clear difference.

    A difference is clear if it is significant at 5 %, with Holm's correction over all rows of the comparison; the
    corner of the table says so. With fewer than `ENOUGH_FOR_WORDS` seeds there is no verdict.

    Args:
        comparison: of `compare`.

    Returns:
        A row per variant, a column per data set.
    """
    conditions = [comparison.seeds < ENOUGH_FOR_WORDS, ~_clear(comparison), comparison.difference > 0]
    words = np.select(conditions, ["too few seeds", "no clear difference", "better"], "worse")
    verdicts = [f"{word} ({value:+.1f})" for word, value in zip(words, comparison.difference, strict=True)]
    table = comparison.assign(verdict=verdicts).pivot(index="title", columns="dataset", values="verdict")
    table = table.reindex(index=comparison.title.unique(), columns=comparison.dataset.unique()).fillna("not run")
    return table.rename_axis(columns=f"at 5 %, Holm's correction over {comparison.p.notna().sum()}")


def _clear(comparison: pd.DataFrame) -> pd.Series:
    """Whether each difference is significant after Holm's correction."""
    return comparison.p <= 1 - LEVEL


def markdown(table: pd.DataFrame, measure: str = "0.1:0.7") -> str:
    """Markdown tables: what the paper claims; then each row on each data set, and its difference to another row.

    Args:
        table: of `read_table`.
        measure: to be compared.

    Raises:
        InputError: the table has no such measure of the stages, or nothing to compare.
    """
    stages = {row.stage for row in (*STAGES, *REMOVED)}
    measures = list(dict.fromkeys(table.measure[table.stage.isin(stages)]))
    if measure not in measures:
        raise InputError(f"--measure {measure}: is not in the table {among(measure, measures)}")
    blocks = []
    claims = compare(table, list(CLAIMS), measure, list(CLAIMS.values()))
    if not claims.empty:
        blocks.append(_block("the paper claims that this helps", claims, ""))
    for corner, rows, against, name in (
        ("the full system", STAGES, before(STAGES), "row above"),
        ("the paper's system", PAPER, before(PAPER), "row above"),
        ("something taken away", REMOVED, DISTILLED, DISTILLED.title),
    ):
        comparison = compare(table, rows, measure, against)
        if not comparison.empty:
            blocks.append(_block(corner, comparison, name))
    if not blocks:
        raise InputError(f"the table has nothing to compare: no job of variant {FULL!r} with {measure}")
    return "\n\n".join([*blocks, LEGEND])


LEGEND = (
    "Mean ± std (number of seeds); differences are paired by seed, with t intervals of 95 % [in brackets]. **Bold**: "
    "significant at 5 % with Holm's correction over all differences of a table with at least five seeds."
)
"""Explains the tables of `markdown`."""


def _block(corner: str, comparison: pd.DataFrame, against: str) -> str:
    """One table: a row per title, and for each data set its mean and its difference; dashes where it has no such row.

    Args:
        corner: text of the first cell.
        comparison: of `compare`.
        against: what the column of differences is called after; empty: the table has no column of means.
    """
    datasets = list(dict.fromkeys(comparison.dataset))
    heads = datasets
    if against:
        heads = [f"{name} | - {against}" for name in datasets]
    dash = "— | —" if against else "—"
    cells = {}
    for row, clear in zip(comparison.itertuples(), _clear(comparison), strict=True):
        difference = _difference(row, clear)
        cells[row.title, row.dataset] = f"{_mean(row)} | {difference}" if against else f"{difference} ({row.seeds})"
    lines = [[corner, *heads], ["---"] + [dash.replace("—", "---:")] * len(datasets)]
    for title in dict.fromkeys(comparison.title):
        lines.append([title, *(cells.get((title, name), dash) for name in datasets)])
    return markdown_lines(lines)


def _mean(row: Any) -> str:
    """A row of `compare`: mean ± std (seeds)."""
    spread = "" if pd.isna(row.std) else f" ± {row.std:.1f}"
    return f"{row.mean:.1f}{spread} ({row.seeds})"


def _difference(row: Any, clear: bool) -> str:
    """A row of `compare`: difference [interval], bold if it is clear; a dash if the row is its own reference."""
    if row.title == row.against:
        return "—"
    between = "" if pd.isna(row.low) else f" [{row.low:+.1f}, {row.high:+.1f}]"
    text = f"{row.difference:+.1f}{between}"
    return f"**{text}**" if clear else text
