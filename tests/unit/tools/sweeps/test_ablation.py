"""Tables of a sweep: pairing by seed, intervals, verdicts."""

import numpy as np
import pandas as pd
import pytest
import yaml

from fustal import ROOT
from fustal.exceptions import InputError
from fustal.tools.sweeps.ablation import (
    ADDED,
    CHOICES,
    DISTILLED,
    FULL,
    GENERATOR,
    REMOVED,
    STAGES,
    TableRow,
    compare,
    in_words,
    interval,
    markdown,
    read_table,
)
from fustal.tools.sweeps.tables import write_table

ROWS = [TableRow("no MIL loss", "no-mil"), TableRow("fused", "fusion"), TableRow("never run", "nothing")]


def lines(variant, values, stage="distilled", dataset="sbhar"):
    """Rows of a table, one for each seed."""
    rows = []
    for seed, value in enumerate(values):
        run = f"{dataset}-{variant}-seed{seed}"
        row = {"run": run, "dataset": dataset, "seed": seed, "stage": stage, "measure": "0.1:0.7", "value": value}
        rows.append(row)
    return rows


@pytest.fixture
def table(tmp_path):
    rows = lines("full", [40.0, 50.0, 60.0]) + lines("no-mil", [35.0, 46.0, 54.0]) + lines("fusion", [41.0, 49.0])
    rows += lines("full", [20.0, 21.0, 22.0], stage="generator") + lines("full", [1.0, 2.0], dataset="other")
    return read_table(write_table(pd.DataFrame(rows), tmp_path / "table.parquet"))


def test_differences_are_paired_by_seed(table):
    found = compare(table, ROWS)
    assert found.title.tolist() == ["no MIL loss", "fused"], "variants that have not run are left out"
    mil, fused = found.itertuples()
    assert (mil.dataset, mil.seeds, mil.mean, mil.difference) == ("sbhar", 3, 45.0, -5.0)
    assert -6 <= mil.low < -5 < mil.high <= -4, "the spread over seeds does not matter, as the differences are equal"
    assert (fused.seeds, fused.difference) == (2, 0.0)


def test_against_another_stage(table):
    found = compare(table, STAGES, against=GENERATOR)
    assert found.title.tolist() == ["generator", "distilled student"]
    assert found.difference.tolist() == [0.0, 29.0]


def test_in_words(table):
    verdicts = in_words(compare(table, ROWS))
    assert verdicts.sbhar.to_dict() == {"no MIL loss": "worse (-5.0)", "fused": "too few seeds (+0.0)"}
    two = table[table.seed < 2]
    assert in_words(compare(two, ROWS[:1])).sbhar.tolist() == ["too few seeds (-4.5)"]
    assert in_words(compare(table, [TableRow("x", "y")])).empty
    elsewhere = compare(table, [*ROWS, TableRow("full", "full")])
    assert in_words(elsewhere).loc["fused"].tolist() == ["too few seeds (+0.0)", "not run"]


def test_page(table):
    text = markdown(table)
    assert "| the paper's system | sbhar | - generator |" in text, "a data set without anything to compare is left out"
    assert "| distilled student | 50.0 ± 10.0 (3) | +29.0 [" in text
    assert text.count("| no MIL loss | 45.0 ± 9.5 (3) | -5.0 [") == 1
    assert len({line.count("|") for line in text.split("\n\n")[1].splitlines()}) == 1


def test_interval_contains_the_mean_in_about_95_of_100_cases():
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(100):
        low, high = interval(random.normal(size=30))
        inside += low <= 0 <= high
    assert 87 <= inside <= 100
    assert np.isnan(interval(np.array([1.0]))).all()


def test_csv_and_parquet_are_read_alike(table, tmp_path):
    again = read_table(write_table(table.drop(columns="variant"), tmp_path / "table.csv"))
    pd.testing.assert_frame_equal(again, table)


def test_a_job_that_two_sweeps_have_run_is_refused(tmp_path):
    file = write_table(pd.DataFrame(lines("full", [1.0, 2.0]) + lines("full", [3.0])), tmp_path / "twice.csv")
    with pytest.raises(InputError, match="job sbhar-full-seed0 on sbhar appears twice"):
        read_table(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.parquet", None, "no such table"),
        ("broken.parquet", b"PAR1 but not really", "is not a table"),
        ("other.csv", b"a,b\n1,2\n", "is not a table"),
        ("empty.csv", b"", "is not a table"),
    ],
)
def test_files_that_are_not_tables_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_table(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sweep", "rows"), [("ablation", (*STAGES, *REMOVED, *ADDED)), ("choose", (DISTILLED, *CHOICES))]
)
def test_rows_are_the_variants_of_the_sweep(sweep, rows):
    variants = yaml.safe_load((ROOT / "params" / "sweeps" / f"{sweep}.yaml").read_text())["variants"]
    assert {row.variant for row in rows} == set(variants)
    assert rows[0].variant == FULL


def test_more_seeds_of_a_variant_are_of_the_same_system():
    whole = yaml.safe_load((ROOT / "params" / "sweeps" / "ablation.yaml").read_text())
    more = yaml.safe_load((ROOT / "params" / "sweeps" / "additions.yaml").read_text())
    assert more["base"].items() <= whole["base"].items()
    assert {**more["variants"], FULL: {}}.items() <= {**whole["variants"], FULL: {}}.items(), "except the upper bound"
    assert not set(more["seeds"]) & set(whole["seeds"])
