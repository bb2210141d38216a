"""The table of results, from metrics files made by hand."""

import copy
import json

import pytest

from fustal.data.files import digest
from fustal.exceptions import InputError
from fustal.tools.sweeps.tables import changed_since, class_table, collect, collect_sweeps, insert, table

METRICS = {
    "run": "tiny-seed0",
    "dataset": "toy",
    "test": "2 videos / 3 segments",
    "mAP": {
        "generator": {"0.5": 20.0, "0.1:0.7": 30.0},
        "distilled": {"0.5": 40.0, "0.1:0.7": 50.0},
    },
    "video-level mAP": {"generator": 80.0, "distilled": 90.0},
    "labels": {
        "proposals": {"precision at 0.3": 9.0, "precision at 0.5": 5.0, "recall at 0.5": 80.0, "labels": 300},
        "pseudo labels": {"precision at 0.3": 30.0, "precision at 0.5": 25.0, "recall at 0.5": 60.0, "labels": 40},
    },
    "parameters": {"seed": 0},
    "provenance": {},
}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Writes the metrics of a run below outputs/ and returns the name of the run."""
    monkeypatch.setattr("fustal.data.names.OUTPUTS", tmp_path)

    def write(seed, shift=0.0, run="tiny", **changes):
        metrics = copy.deepcopy(METRICS) | {"run": f"{run}-seed{seed}", "parameters": {"seed": seed}} | changes
        for values in metrics["mAP"].values():
            values["0.1:0.7"] += shift
        path = tmp_path / metrics["run"] / "evaluation" / "metrics.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(metrics))
        return metrics["run"]

    return write


def test_three_seeds_are_mean_and_std(make):
    text = table(collect([make(2, 2.0), make(0, -1.0), make(1, 0.5)]))
    lines = text.splitlines()
    assert lines[0] == (
        "**tiny** — data set toy, tested on 2 videos / 3 segments; 3 seeds (0, 1, 2), mean ± std, last step"
    )
    assert lines[2:6] == [
        "| mAP at tIoU | 0.5 | 0.1:0.7 |",
        "| --- | ---: | ---: |",
        "| generator | 20.0 ± 0.0 | 30.5 ± 1.5 |",  # of 32, 29 and 30.5; standard deviation of a sample
        "| distilled student | 40.0 ± 0.0 | 50.5 ± 1.5 |",
    ]
    assert lines[7] == "Distilled student - generator, average over 0.1:0.7: +20.0 [+20.0, +20.0]"
    assert lines[9:11] == [
        "| labels of training videos | precision at 0.5 | recall at 0.5 | labels |",
        "| --- | ---: | ---: | ---: |",
    ]
    assert lines[11] == "| proposals | 5.0 ± 0.0 | 80.0 ± 0.0 | 300 ± 0 |"
    assert lines[12].startswith("| pseudo labels | 25.0 ± 0.0 |")
    assert len(lines) == 13


def test_one_seed_has_no_deviation(make):
    text = table(collect([make(7)]))
    assert "1 seed (7)" in text
    assert "| generator | 20.0 | 30.0 |" in text
    assert "| generator | 20.0 | 30.0 | ±" not in text


def test_gain_and_ratio_are_paired_by_seed(make):
    def stages(generator, distilled, upper):
        values = {"generator": generator, "distilled": distilled, "upper_bound": upper}
        return {"mAP": {stage: {"0.5": 1.0, "0.1:0.7": value} for stage, value in values.items()}}

    runs = [make(0, **stages(10, 20, 40)), make(1, **stages(30, 42, 70)), make(2, **stages(20, 34, 50))]
    text = table(collect(runs))
    # Of 10, 12 and 14: standard deviation 2, t = 4.303 for three seeds
    assert "average over 0.1:0.7: +12.0 [+7.0, +17.0]" in text
    assert "Distilled student / same student on true segments, average over 0.1:0.7: 0.59 ± 0.09" in text
    text = table(collect(runs[:1]))
    assert "Distilled student - generator, average over 0.1:0.7: +10.0\n" in text
    assert "average over 0.1:0.7: 0.50\n" in text


def test_each_run_has_its_own_block_in_the_order_given(make):
    text = table(collect([make(0, run="z"), make(0, run="a"), make(1, run="z")]))
    assert text.index("**z**") < text.index("**a**")
    assert text.count("mAP at tIoU") == 2


def test_a_missing_stage_has_no_row_and_a_missing_measure_is_a_dash(make):
    fewer = {"generator": {"0.5": 1.0, "0.1:0.7": 2.0}, "distilled": {"0.1:0.7": 3.0}}
    text = table(collect([make(0, mAP=fewer)]))
    assert "| generator | 1.0 | 2.0 |" in text
    assert "| distilled student | — | 3.0 |" in text
    assert "upper" not in text
    assert "true segments" not in text


def test_a_file_may_be_given_by_its_path(make, tmp_path):
    name = make(3)
    by_name, by_path = collect([name]), collect([tmp_path / name / "evaluation" / "metrics.json"])
    assert by_name.equals(by_path)
    assert set(by_name.seed) == {3}
    assert set(by_name.stage) == {"generator", "distilled", "labels/proposals", "labels/pseudo labels"}


def test_wrong_files(make, tmp_path):
    with pytest.raises(InputError, match=r"never-ran: no such run \(there are none\)"):
        collect(["never-ran"])
    metrics = {key: value for key, value in METRICS.items() if key != "mAP"}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"metrics\.json: is not the metrics of a run \(mAP: Field required\)"):
        collect([tmp_path / "metrics.json"])


@pytest.mark.parametrize(
    "changes",
    [
        {"mAP": [1]},
        {"mAP": {}},
        {"mAP": {"generator": 3.0}},
        {"mAP": {"generator": {"0.5": "high"}}},
        {"mAP": {"generator": {"0.5": "12.3"}}},
        {"mAP": {"generator": {"0.5": None}}},
        {"mAP": {"generator": {"half": 1.0}}},
        {"mAP": {"generator": {"0.5": 10**400}}},
        {"AP": {"generator": {"Run": {}}}},
        {"video-level mAP": [1]},
        {"parameters": 1},
        {"parameters": {"seed": None}},
        {"labels": None},
        {"run": 3},
    ],
)
def test_metrics_of_another_form(make, changes, tmp_path):
    (tmp_path / "m.json").write_text(json.dumps(METRICS | changes))
    with pytest.raises(InputError, match=r"m\.json: is not the metrics of a run"):
        collect([tmp_path / "m.json"])


MARKERS = ["<!-- speed: begin -->", "<!-- speed: end -->"]


def test_insert_replaces_what_is_between_the_markers(tmp_path):
    begin, end = MARKERS
    page = tmp_path / "README.md"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter ±\n", encoding="utf-8")
    insert("| new |", page, "speed")
    assert page.read_text(encoding="utf-8") == f"before\n{begin}\n| new |\n{end}\nafter ±\n"
    insert("| new |", page, "speed")
    assert page.read_text(encoding="utf-8") == f"before\n{begin}\n| new |\n{end}\nafter ±\n"


@pytest.mark.parametrize("kept", [[], MARKERS[:1], MARKERS[1:]])
def test_a_page_without_markers_is_not_changed(tmp_path, kept):
    page = tmp_path / "README.md"
    page.write_text("\n".join(["text", *kept]))
    with pytest.raises(InputError, match=r"README\.md: has no lines"):
        insert("new", page, "speed")
    assert page.read_text() == "\n".join(["text", *kept])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"caf\xe9", "is not UTF-8 but perhaps Latin-1"),
        ("folder", "cannot be read: it is a folder"),
    ],
)
def test_a_page_that_cannot_be_read(tmp_path, content, message):
    page = tmp_path / "README.md"
    if content == "folder":
        page.mkdir()
    elif content is not None:
        page.write_bytes(content)
    with pytest.raises(InputError, match=f"README.md: {message}") as error:
        insert("new", page)
    assert "\n" not in str(error.value)


def test_metrics_that_are_out_of_date_are_reported(make, tmp_path):
    folder = tmp_path / make(0)
    (folder / "student").mkdir()
    detections = folder / "student" / "detections_test.json"
    detections.write_text("{}")
    inputs = {"student/detections_test.json": digest(detections), "generator/foreign.json": "elsewhere"}
    (folder / "evaluation" / "stage.json").write_text(json.dumps({"inputs": inputs}))
    assert changed_since([folder.name]) == []
    detections.write_text("{ }")
    (line,) = changed_since([folder.name])
    assert "student/detections_test.json was made again since" in line


# --- how many seeds ---------------------------------------------------------------------------------------------------


def gain(text):
    return next(line for line in text.splitlines() if line.startswith("Distilled student - generator"))


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_an_interval_needs_three_seeds(make, seeds):
    text = table(collect([make(seed, float(seed)) for seed in range(seeds)]))
    assert f"; {seeds} seed{'s' * (seeds > 1)} (" in text
    assert ("mean ± std" in text) == (seeds > 1)
    assert gain(text).endswith(": +20.0 [+20.0, +20.0]" if seeds >= 3 else ": +20.0")
    assert "seed)" not in text, "rows do not differ"


def test_a_row_with_fewer_seeds_shows_their_number(make):
    lacking = {"mAP": {"generator": {"0.5": 20.0, "0.1:0.7": 30.0}}, "video-level mAP": {}, "labels": {}}
    text = table(collect([make(0), make(1), make(2), make(3, **lacking)]))
    assert "; 4 seeds (0, 1, 2, 3), " in text
    assert "| generator | 20.0 ± 0.0 |" in text
    assert "| distilled student (3 seeds) | 40.0 ± 0.0 |" in text
    assert "| proposals (3 seeds) | 5.0 ± 0.0 |" in text
    assert gain(text).endswith(" (3 seeds)")
    text = table(collect([make(0, run="b"), make(1, run="b", **lacking)]))
    assert "| distilled student (1 seed) | 40.0 | 50.0 |" in text
    assert gain(text).endswith(": +20.0 (1 seed)")


def test_a_cell_with_fewer_seeds_shows_their_number(make):
    fewer = {"generator": {"0.1:0.7": 30.0}, "distilled": {"0.5": 40.0, "0.1:0.7": 50.0}}
    text = table(collect([make(0), make(1, mAP=fewer)]))
    assert "| generator | 20.0 (1 seed) | 30.0 ± 0.0 |" in text


def test_a_run_is_not_given_twice(make, tmp_path):
    name = make(0)
    with pytest.raises(InputError, match="run 'tiny' with seed 0 is given twice"):
        collect([name, tmp_path / name / "evaluation" / "metrics.json"])


def test_a_copied_job_has_the_name_of_its_folder(make, tmp_path):
    copied = make(0)
    (tmp_path / copied).rename(tmp_path / "other-seed0")
    assert set(collect(["other-seed0", make(0)]).run) == {"other", "tiny"}


# --- single classes ---------------------------------------------------------------------------------------------------


def test_average_precision_of_each_class(make):
    def classes(value):
        values = {"Run": {"0.5": 1.0, "0.1:0.7": value}, "a|b\nc": {"0.5": 1.0, "0.1:0.7": 2.0}}
        return {"AP": {"generator": values, "distilled": {"Run": {"0.5": 1.0, "0.1:0.7": 9.0}}}}

    text = class_table([make(seed, **classes(10.0 * seed)) for seed in range(3)])
    assert text.splitlines()[2:] == [
        "| AP over 0.1:0.7 | generator | distilled student |",
        "| --- | ---: | ---: |",
        "| Run | 10.0 ± 10.0 | 9.0 ± 0.0 |",
        "| a\\|b c | 2.0 ± 0.0 | — |",
    ]


def test_older_metrics_have_no_classes(make):
    name = make(0)
    assert table(collect([name]))
    with pytest.raises(InputError, match=r"metrics\.json: has no average precision of single classes: run notebook 05"):
        class_table([name])


# --- sweeps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["x[1]", "a*", "x?", "plain"])
def test_a_sweep_in_a_folder_of_any_name(make, tmp_path, folder):
    for seed in range(2):
        make(seed)
    (tmp_path / folder).mkdir()
    for seed in range(2):
        (tmp_path / f"tiny-seed{seed}").rename(tmp_path / folder / f"job-seed{seed}")
    (tmp_path / folder / "results.csv").write_text("an earlier one")
    frame = collect_sweeps([str(tmp_path / folder)])
    assert set(frame.run) == {"job-seed0", "job-seed1"}
    with pytest.raises(InputError, match=r"contains no <job>/evaluation/metrics\.json"):
        collect_sweeps([str(tmp_path / "none")])


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"[1]", b"{}", b"[" * 100_000, b"\xff", b'{"mAP": 1}'], ids=range(7)
)
def test_a_job_with_broken_metrics_is_named(make, tmp_path, content):
    path = tmp_path / make(0) / "evaluation" / "metrics.json"
    path.write_bytes(content)
    for read in (lambda: collect_sweeps([str(tmp_path)]), lambda: collect(["tiny-seed0"])):
        with pytest.raises(InputError, match=r"tiny-seed0/evaluation/metrics\.json: ") as error:
            read()
        assert "\n" not in str(error.value)
