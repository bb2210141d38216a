"""Tables of a sweep: pairing by seed, differences, verdicts."""

import re

import numpy as np
import pandas as pd
import pytest
import yaml

from fustal import ROOT
from fustal.exceptions import InputError
from fustal.tools.sweeps.ablation import (
    CHOICES,
    CLAIMS,
    DISTILLED,
    GENERATOR,
    PAPER,
    REMOVED,
    STAGES,
    TableRow,
    before,
    compare,
    in_words,
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
    # Of -5, -4 and -6: standard deviation 1, t = 4.303 for three seeds. The spread over seeds does not matter.
    assert (mil.low, mil.high) == pytest.approx((-5 - 4.303 / 3**0.5, -5 + 4.303 / 3**0.5), abs=1e-3)
    assert (fused.seeds, fused.difference) == (2, 0.0)
    assert np.isnan([fused.low, fused.high, fused.p]).all()


def test_mean_and_difference_are_of_the_seeds_that_row_and_reference_share(table):
    (full,) = compare(table[table.dataset == "sbhar"], [DISTILLED], against=ROWS[1]).itertuples()
    assert (full.seeds, full.mean, full.difference) == (2, 45.0, 0.0), "of 40 and 50, the third seed is missing"


def test_against_another_stage(table):
    found = compare(table, STAGES, against=GENERATOR)
    assert found.title.tolist() == ["generator", "distilled student"]
    assert found.difference.tolist() == [0.0, 29.0]


def test_each_row_against_the_one_before(tmp_path):
    rows = lines("full", [20, 21, 25], stage="generator") + lines("full", [30, 32, 34], stage="student")
    table = read_table(
        write_table(pd.DataFrame(rows + lines("full", [31, 34, 37], stage="student_ema")), tmp_path / "t.csv")
    )
    found = compare(table, STAGES, against=before(STAGES))
    assert found.title.tolist() == ["generator", "student", "student, EMA weights"]
    assert found.against.tolist() == ["generator", "generator", "student"]
    assert found.difference.tolist() == [0.0, 10.0, 2.0]
    assert found.seeds.tolist() == [3, 3, 3]


def test_p_values_have_holms_correction_over_all_rows_and_data_sets(tmp_path):
    rows = []
    for dataset in ("sbhar", "shrec22", "other"):
        rows += lines("full", [40, 50, 60, 70, 80], dataset=dataset)
        rows += lines("no-mil", [41, 52, 63, 74, 81], dataset=dataset)
    table = read_table(write_table(pd.DataFrame(rows), tmp_path / "t.csv"))
    alone = compare(table[table.dataset == "sbhar"], ROWS)
    # Differences of 1, 2, 3, 4 and 1: t = 2.2 / (1.304 / 5 ** 0.5) = 3.773 with four degrees of freedom
    assert alone.p.tolist() == pytest.approx([0.0196], abs=1e-4)
    assert in_words(alone).sbhar.tolist() == ["better (+2.2)"]
    assert in_words(alone).columns.name == "at 5 %, Holm's correction over 1"
    together = compare(table, [*ROWS, DISTILLED])
    assert together.p.dropna().tolist() == pytest.approx([3 * 0.0196] * 3, abs=3e-4), (
        "a row against itself is no comparison"
    )
    assert set(in_words(together).loc["no MIL loss"]) == {"no clear difference (+2.2)"}
    assert in_words(together).columns.name == "at 5 %, Holm's correction over 3"


def test_in_words(table, tmp_path):
    verdicts = in_words(compare(table, ROWS))
    assert verdicts.sbhar.to_dict() == {"no MIL loss": "too few seeds (-5.0)", "fused": "too few seeds (+0.0)"}
    rows = lines("full", [40.0, 50, 60, 70, 80]) + lines("no-mil", [35.0, 46, 54, 65, 75])
    five = read_table(write_table(pd.DataFrame(rows), tmp_path / "five.csv"))
    assert in_words(compare(five, ROWS)).sbhar.to_dict() == {"no MIL loss": "worse (-5.0)"}
    assert in_words(compare(table, [TableRow("x", "y")])).empty
    elsewhere = compare(table, [*ROWS, TableRow("full", "full")])
    assert in_words(elsewhere).loc["fused"].tolist() == ["too few seeds (+0.0)", "not run"]


def test_page(table):
    text = markdown(table)
    assert "| the full system | sbhar | - row above |" in text, "a data set without anything to compare is left out"
    assert "| generator | 21.0 ± 1.0 (3) | — |" in text
    assert text.count("| no MIL loss | 45.0 ± 9.5 (3) | -5.0 [-7.5, -2.5] |") == 1, "three seeds are not tested"
    assert text.endswith("over all differences of a table with at least five seeds.")


@pytest.mark.parametrize("datasets", [["sbhar"], ["shrec22", "sbhar", "thumos14-simulated"]])
def test_a_page_of_any_number_of_data_sets(tmp_path, datasets):
    rows = []
    for number, dataset in enumerate(datasets):
        for row in {*STAGES, *PAPER, *REMOVED}:
            # The last data set lacks the variants with something taken away, so the cells are dashes.
            if row in (*STAGES, *PAPER) or number < 2:
                rows += lines(row.variant, np.arange(5.0) + len(row.title), row.stage, dataset)
        rows += lines("in-video-contrast", np.arange(5.0), "generator", dataset)
    table = pd.DataFrame(rows).drop_duplicates(["run", "stage"])
    text = markdown(read_table(write_table(table, tmp_path / "table.csv")))
    blocks = text.split("\n\n")
    assert [block.split(" | ")[0] for block in blocks[:-1]] == [
        "| the paper claims that this helps",
        "| the full system",
        "| the paper's system",
        "| something taken away",
    ]
    for number, block in enumerate(blocks[:-1]):
        columns = len(datasets) * (1 if number == 0 else 2)
        assert {line.count(" | ") for line in block.splitlines()} == {columns}
        assert re.findall(r"sbhar|shrec22|thumos14-simulated", block.splitlines()[0]) == datasets
    assert ("| — | — |" in blocks[3]) == (len(datasets) == 3)


def test_claims_of_the_paper_have_their_own_references(tmp_path):
    values = {
        ("full", "generator"): 20,
        ("in-video-contrast", "generator"): 19,
        ("full", "student"): 30,
        ("full", "distilled"): 40,
        ("in-video-contrast", "distilled"): 38,
        ("no-prior", "distilled"): 37,
        ("no-relabelling", "distilled"): 36,
    }
    rows = []
    for (variant, stage), value in values.items():
        noise = np.array([0.0, 0.1, -0.1, 0.1, -0.1]) * (variant != "full" or stage == "student")
        rows += lines(variant, value + noise, stage)
    text = markdown(read_table(write_table(pd.DataFrame(rows), tmp_path / "table.csv")))
    claims = text.split("\n\n")[0].splitlines()[2:]
    differences = [float(re.search(r"[+-]\d+\.\d", line)[0]) for line in claims]
    assert differences == [1.0, 2.0, 3.0, 10.0, 10.0, 4.0]
    assert all(re.search(r"\| \*\*\+.*\]\*\* \(5\) \|$", line) for line in claims)


def test_csv_and_parquet_are_read_alike(table, tmp_path):
    again = read_table(write_table(table.drop(columns="variant"), tmp_path / "table.csv"))
    pd.testing.assert_frame_equal(again, table)


def test_data_sets_are_in_the_order_of_the_tables(tmp_path):
    rows = []
    for name in ("mine", "sbhar", "thumos14-simulated", "shrec22", "a"):
        rows += lines("full", [1.0, 2.0], dataset=name)
    read = read_table(write_table(pd.DataFrame(rows), tmp_path / "table.csv"))
    assert list(dict.fromkeys(read.dataset)) == ["shrec22", "sbhar", "thumos14-simulated", "mine", "a"]
    assert read.seed.tolist() == [0, 1] * 5


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


def sweep_file(name):
    return yaml.safe_load((ROOT / "params" / "sweeps" / f"{name}.yaml").read_text())


def test_rows_are_the_variants_of_the_sweeps():
    claims, others, choose = map(sweep_file, ("claims", "ablation", "choose"))
    assert claims["base"] == others["base"], "so that the variants can be compared"
    assert not set(claims["variants"]) & set(others["variants"])
    assert {row.variant for row in (*CLAIMS, *CLAIMS.values())} == set(claims["variants"])
    assert {row.variant for row in (*STAGES, *PAPER, *REMOVED)} == set(claims["variants"]) | set(others["variants"])
    assert {row.variant for row in (DISTILLED, *CHOICES)} == set(choose["variants"])
