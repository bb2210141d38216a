"""The whole chain, as a user runs it, on data sets that are unusual but valid: no stage may fail on them."""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import nbformat
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from fustal import ROOT
from fustal.data import names
from fustal.data.results import read_results
from fustal.params import Params
from fustal.runs.batch import run_chain
from fustal.runs.chain import CHAIN
from fustal.tools import report
from fustal.tools.cli import app
from tests.notebooks.miniature import call, cells_without_exercises

TINY = {
    "generator_steps": 4,
    "generator_dim": 8,
    "generator_snippets": 8,
    "student_dim": 16,
    "student_mlp": 8,
    "student_levels": 2,
    "student_stem": 1,
    "student_bins": 4,
    "student_epochs": 1,
    "distill_epochs": 1,
    "upper_bound_epochs": 1,
    "max_snippets": 32,
    "device": "cpu",
}
NAMES = [
    r"$\frac{$",
    "100 $ or 50 $",
    "$x$",
    "_under score_",
    " blanks  everywhere ",
    "日本語",
    "😀",
    "\u202eabc",
    "x" * 300,
    "two\nlines",
    "%d {0} {video}",
    "=1+1",
    "nan",
    "\\alpha^{",
    "#",
    "'\"",
]


def action(label, start=3.0, end=8.0):
    return {"label": label, "segment": [start, end]}


def for_training(*labels, length=20):
    """A training video with an action of each label."""
    return "train", length, [action(label, 2.0 + i, 7.0 + i) for i, label in enumerate(labels)]


def for_test(*labels, length=20):
    return "test", length, [action(label) for label in labels]


def weak(subset, *labels, length=20):
    """A video with labels and without segments."""
    return subset, length, [{"label": label} for label in labels]


MANY = [action("ab"[i % 2], 3.0 * i, 3.0 * i + 2) for i in range(1000)]
BACKGROUND = {
    "empty 1": for_training(),
    "empty 2": for_training(length=1),
    "both": for_training("a", "b"),
    "empty 3": for_training(),
    "one snippet": for_test("a", length=1),
    "empty 4": for_test(),
    "new": for_test("only here"),
    "many": ("test", 3000, MANY),
}
"""All training videos except one are background, also the first one. Test videos: one of one snippet, one with a class
that no training video has, and one with a thousand actions."""

ONE = {"only": for_training("a", length=2), "other": for_test("a", length=3)}
"""One training and one test video, one class, and two or three snippets."""

UNKNOWN = {"t1": weak("train", "a"), "t2": weak("train", "b"), "s1": weak("test", "a"), "s2": weak("test")}
"""One video for each class, and no segments."""

NAMED = {f"video {i} $x_{{$ é": weak("train", name) for i, name in enumerate(NAMES)}
NAMED |= {f"_{i} 100 $ or 50 $ 日本 {{0}}": for_test(name) for i, name in enumerate(NAMES)}
NAMED |= {"all": for_test(*NAMES, length=60)}
"""Names with special characters, different frame rates, and segments in test videos only."""

CASES = {
    "background": (BACKGROUND, {}, {}),
    "one": (ONE, {"generator_batch": 1, "student_batch": 1}, {}),
    "unknown": (UNKNOWN, {"cas_thresholds": "0.1:0.1:0.1"}, {}),
    "named": (NAMED, {"student_batch": 8, "tious": "0.5:0.1:0.5"}, {"fps": "annotation"}),
}


def write(folder, videos, preset, grid):
    """Writes features, annotations, card and preset of a data set; a snippet lasts a second."""
    (folder / "features").mkdir(parents=True)
    random = np.random.default_rng(0)
    classes = []
    database = {}
    for number, (name, (subset, length, items)) in enumerate(videos.items()):
        features = random.normal(0, 0.3, (length, 4)).astype(np.float32)
        classes += [item["label"] for item in items if item["label"] not in classes]
        for item in items:
            start, end = item.get("segment", (0, length))
            features[int(start) : int(end), classes.index(item["label"]) % 4] += 3
        np.save(folder / "features" / f"{name}.npy", features)
        fps = 1 + number / 50
        database[name] = {"subset": subset, "annotations": items, "fps": fps, "duration": length / fps}
    (folder / "gt.json").write_text(json.dumps({"database": database}))
    grid = {"pattern": "features/{video}.npy", "fps": 1, "stride": 1, "window": 1} | grid
    card = {"name": "unusual", "root": ".", "annotations": "gt.json", "grids": {"generator": grid}}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    preset = TINY | {"run": "unusual", "dataset": str(folder / "card.yaml")} | preset
    (folder / "params.yaml").write_text(yaml.safe_dump(preset))


class Case(NamedTuple):
    """A data set, its folder, and the finished `fustal run`."""

    name: str
    folder: Path
    done: subprocess.CompletedProcess

    @property
    def outputs(self):
        return self.folder / "my outputs"


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """The chain on each data set; names of folders hold blanks and other letters, that of temporary files is long."""
    folder = tmp_path_factory.mktemp("a folder") / "Daten, größer {x} $" / request.param
    write(folder, *CASES[request.param])
    outputs = folder / "my outputs"
    temporary = folder / ("long" * 25)
    outputs.mkdir()
    temporary.mkdir()
    done = call("fustal", "run", "params.yaml", outputs=outputs, cwd=folder, TMPDIR=str(temporary))
    return Case(request.param, folder, done)


def test_the_data_are_valid(case):
    done = CliRunner().invoke(app, ["validate", str(case.folder / "card.yaml")])
    assert done.exit_code == 0, done.output


def test_the_chain_runs_to_its_end_and_is_done_then(case):
    assert (case.done.returncode, case.done.stderr) == (0, "")
    stages = [stage for stage in CHAIN.values() if stage.name != "evaluation" or case.name != "unknown"]
    for stage in stages:
        executed = nbformat.read(case.outputs / "unusual" / "notebooks" / stage.notebook, as_version=4)
        for cell in cells_without_exercises(executed):
            assert not [output for output in cell.outputs if output.output_type == "error"]
            assert not [output for output in cell.outputs if output.get("name") == "stderr"]
    lines = []
    run_chain(Params.read(case.folder / "params.yaml"), outputs=case.outputs, report=lines.append)
    states = [line.split(": ")[1] for line in lines]
    assert states == ["already done"] * len(stages) + ["nothing to do"] * (5 - len(stages))


def test_warnings_of_notebooks_are_printed(case):
    """The command prints them below the line of their stage."""
    warnings = [line for line in case.done.stdout.splitlines() if line.startswith("    warning: ")]
    nothing = "    warning: no proposal became a pseudo label: lower confidence_min or iou_score_min"
    labels = read_results(case.outputs / "unusual" / CHAIN["selection"].outputs[-1])
    proposals = read_results(case.outputs / "unusual" / CHAIN["generator"].outputs[-1])
    assert (nothing in warnings) == labels.empty
    subsets = [subset for subset, _, _ in CASES[case.name][0].values()]
    videos = subsets.count("test")
    missing = videos - proposals.video.nunique()
    assert (f"    warning: {missing} of {videos} test videos have no proposal" in warnings) == (missing > 0)


def test_the_report_is_written(case, monkeypatch):
    monkeypatch.setattr(names, "OUTPUTS", case.outputs)
    assert report.report("unusual").stat().st_size > 10_000


def test_the_task_is_shown(case, monkeypatch):
    """Notebook 00, which is no stage of the chain."""
    monkeypatch.setattr(names, "OUTPUTS", case.outputs)
    namespace = {}
    for cell in nbformat.read(ROOT / "notebooks" / "00_the_task.ipynb", as_version=4).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and "skip-execution" not in tags:
            exec(cell.source, namespace)
        if "parameters" in tags:
            namespace |= {"run": "unusual", "dataset": str(case.folder / "card.yaml")}
    assert len(list((case.outputs / "unusual" / "task").glob("*.png"))) == 3
