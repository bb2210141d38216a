"""The command line: what it prints, its exit status, and one line for each error."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from fustal import ROOT, runs
from fustal.cli import main
from fustal.fetch import ensure


@pytest.fixture
def fustal(monkeypatch, capsys):
    """Calls the command: exit status, standard output, standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fustal", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def files(tmp_path):
    """Annotations of three videos, and detections that are right but for one."""
    database = {
        "a": {"subset": "Test", "annotations": [{"label": "Run", "segment": [0, 10]}]},
        "b": {"subset": "test", "annotations": [{"label": "Run", "segment": [0, 10]}]},
        "c": {"subset": "train", "annotations": [{"label": "Run", "segment": [0, 10]}]},
    }
    found = {"a": [{"label": "Run", "score": 0.9, "segment": [0, 10]}]}
    (tmp_path / "gt.json").write_text(json.dumps({"database": database}))
    (tmp_path / "found.json").write_text(json.dumps({"results": found}))
    return tmp_path / "found.json", tmp_path / "gt.json"


def is_one_line(text):
    return text.startswith("error: ") and text.count("\n") == 1 and text.endswith("\n")


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_evaluate_gives_the_figures_of_the_fields_evaluator(fustal, shared, tmp_path):
    folder = shared / "thumos14"
    expected = json.loads((folder / "expected_evaluation.json").read_text())["crnet_test"]
    status, out, err = fustal(
        "evaluate", folder / "detections_test_crnet.json", folder / "gt.json", "--json", tmp_path / "out.json"
    )
    assert (status, err) == (0, "")
    assert out.splitlines()[0].endswith("subset test: 210 videos, 3311 segments")
    assert out.splitlines()[-1].split() == ["mAP", "average", "0.1:0.7", "41.68"]
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["videos"], written["segments"]) == (210, 3311)
    figures = [written["mAP"][f"{tiou:g}"] for tiou in expected["tiou"]]
    assert figures == pytest.approx(expected["mAP"], abs=3e-4)
    assert written["mAP"]["0.1:0.7"] == pytest.approx(expected["average_mAP"], abs=3e-4)


def test_evaluate_a_case_by_hand(fustal, files):
    status, out, err = fustal("evaluate", *files)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].endswith("subset test: 2 videos, 2 segments"), "subsets are compared without case"
    assert lines[1].split() == ["mAP", "0.1", "50.00"], "one of two actions is found"
    assert lines[-1].split() == ["mAP", "average", "0.1:0.7", "50.00"]


def test_evaluate_at_other_thresholds(fustal, files):
    status, out, _ = fustal("evaluate", *files, "--tiou", "0.5:0.05:0.95", "--subset", "TRAIN")
    assert status == 0
    assert "1 videos, 1 segments" in out
    names = [line.split()[-2] for line in out.splitlines()[1:]]
    assert names[:10] == [f"{t / 100:g}" for t in range(50, 100, 5)]
    assert set(line.split()[-1] for line in out.splitlines()[1:]) == {"0.00"}


def test_an_unknown_subset(fustal, files):
    status, out, err = fustal("evaluate", *files, "--subset", "validation")
    assert (status, out) == (2, "")
    assert is_one_line(err)
    assert "no video of subset 'validation' (there are ['Test', 'test', 'train'])" in err


@pytest.mark.parametrize("tiou", ["0.5", "0.5:0.1", "0.7:0.1:0.1", "a:b:c"])
def test_wrong_thresholds(fustal, files, tiou):
    status, _, err = fustal("evaluate", *files, "--tiou", tiou)
    assert status == 2
    assert is_one_line(err)
    assert tiou in err


def test_debug_shows_the_traceback(files):
    detections, annotations = files
    command = [sys.executable, "-m", "fustal", "evaluate", str(detections), str(annotations), "--subset", "nothing"]
    quiet = subprocess.run(command, capture_output=True, text=True)
    assert quiet.returncode == 2
    assert is_one_line(quiet.stderr)
    loud = subprocess.run([*command[:3], "--debug", *command[3:]], capture_output=True, text=True)
    assert loud.returncode != 0
    assert "Traceback (most recent call last)" in loud.stderr
    assert "fustal.InputError: " in loud.stderr


def test_an_error_that_is_not_the_inputs_is_status_1(fustal, files, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("fustal.annotations.read_results", fail)
    assert fustal("evaluate", *files) == (1, "", "error: ZeroDivisionError: by nought\n")


# --- run --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """Stands in for the chain: the parameters it was given, and metrics as it would write them."""
    calls = []

    def run_chain(params, *, stages, force, say):
        calls.append((params, force))
        path = tmp_path / params.run / "evaluation" / "metrics.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        metrics = {"run": params.run, "dataset": "demo", "test": "1 video", "parameters": {"seed": params.seed}}
        path.write_text(json.dumps(metrics | {"mAP": {"generator": {"0.5": 10.0 + params.seed}}, "labels": {}}))

    monkeypatch.setattr("fustal.batch.run_chain", run_chain)
    monkeypatch.setattr("fustal.names.OUTPUTS", tmp_path)
    monkeypatch.setattr(runs, "OUTPUTS", tmp_path)
    return calls


def test_run_reads_the_preset_and_replaces_parameters(fustal, ran):
    status, out, _ = fustal(
        "run", ROOT / "params" / "demo.yaml", "--set", "student_lr=1e-4", "--set", "class_agnostic_nms=true", "--force"
    )
    assert status == 0
    ((params, force),) = ran
    assert (params.run, params.student_lr, params.class_agnostic_nms, force) == ("demo", 1e-4, True, True)
    assert "| generator | 10.0 |" in out


def test_run_of_several_seeds_gives_each_its_folder_and_one_table(fustal, ran):
    status, out, _ = fustal("run", ROOT / "params" / "sbhar.yaml", "--seed", 3, "--seed", 5)
    assert status == 0
    assert [(params.run, params.seed, params.easy_ratio) for params, _ in ran] == [
        ("sbhar-seed3", 3, 10),
        ("sbhar-seed5", 5, 10),
    ]
    assert "2 seeds (3, 5)" in out
    assert "| generator | 14.0 ± 1.4 |" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "studnet_lr=1"], "unknown parameter 'studnet_lr' (did you mean 'student_lr'?)"),
        (["--set", "student_lr"], "--set student_lr: must be name=value"),
        (["--set", "student_lr=fast"], "student_lr"),
        (["--set", "student_lr=-1"], "student_lr"),
        (["--seed", "-1"], "seed"),
        (["--set", "erosion_large=2"], "erosion_large (2) must exceed erosion_small (3)"),
    ],
)
def test_run_with_wrong_parameters_writes_nothing(fustal, ran, tmp_path, arguments, says):
    status, out, err = fustal("run", ROOT / "params" / "demo.yaml", *arguments)
    assert (status, out, ran) == (2, "", [])
    assert is_one_line(err)
    assert says in err
    assert list(tmp_path.iterdir()) == []


def test_run_of_one_stage(fustal, monkeypatch):
    called = []
    monkeypatch.setattr("fustal.batch.run_chain", lambda params, *, stages, force, say: called.append(stages))
    assert fustal("run", ROOT / "params" / "demo.yaml", "--stage", "selection") == (
        0,
        "demo: demo, seed 0, recipe corrected\n",
        "",
    )
    assert called == [["selection"]]
    status, _, err = fustal("run", ROOT / "params" / "demo.yaml", "--stage", "filter")
    assert status == 2
    assert (
        err == "error: --stage filter: no such stage (there are generator, selection, student, distilled, evaluation)\n"
    )


def test_run_without_such_a_preset(fustal, ran):
    status, _, err = fustal("run", "nothing.yaml")
    assert status == 2
    assert is_one_line(err)
    assert "params/demo.yaml" in err, "what there is"


# --- the others -------------------------------------------------------------------------------------------------------


def test_validate(fustal, files, tmp_path):
    ensure("demo")
    status, out, _ = fustal("validate", "demo")
    assert status == 0
    assert out.endswith("no problems, no warnings\n")
    (tmp_path / "card.yaml").write_text(
        "{name: tiny, root: ., annotations: gt.json, grids: {student: {pattern: '{video}.npy', fps: 5, stride: 1, "
        "window: 1}}}"
    )
    status, out, _ = fustal("validate", tmp_path / "card.yaml")
    assert status == 2
    lines = out.splitlines()
    assert len(lines) == 5
    for video, line in zip("cab", lines[1:], strict=False):
        assert line.startswith(f"wrong  {video}.npy ")
        assert "no such feature file  put it there" in line
    assert lines[4].endswith("1 training and 2 test videos, 1 classes, 3 segments; 3 problems, no warnings")
    status, out, err = fustal("validate", "nothing")
    assert (status, out) == (2, "")
    assert is_one_line(err)


def test_init_writes_what_validate_and_run_read(fustal, ran, tmp_path, monkeypatch):
    folder = tmp_path / "two words"
    folder.mkdir()
    for video in "abcdef":
        np.save(folder / f"{video}.npy", np.ones((30, 2), np.float32))
    (folder / "labels.csv").write_text("video,label\n" + "".join(f"{video},Run\n" for video in "abcde"))
    status, out, err = fustal("init", folder)
    assert (status, out) == (2, "")
    assert is_one_line(err)
    assert "--fps" in err
    status, out, err = fustal("init", folder, "--fps", 25, "--stride", 8, "--window", 16, "--name", "mine")
    assert (status, err) == (0, "")
    assert out.splitlines()[-2:] == [
        f"  fustal validate '{folder / 'card.yaml'}'",
        f"  fustal run '{folder / 'params.yaml'}'",
    ]
    status, out, _ = fustal("validate", folder / "card.yaml")
    assert status == 0
    assert out.endswith("5 training and 1 test videos, 1 classes, no segments; no problems, no warnings\n")
    monkeypatch.chdir(folder)
    card = str(folder / "card.yaml")
    status, out, _ = fustal("run", folder / "params.yaml", "--stage", "generator")
    assert out.startswith(f"mine: {card}, seed 0")
    status, out, _ = fustal("run", ROOT / "params" / "demo.yaml", "--stage", "generator", "--set", "dataset=card.yaml")
    assert out.startswith(f"demo: {card}, seed 0"), "on a command line, relative to where the user is"


def test_results_into_a_page(fustal, ran, tmp_path):
    fustal("run", ROOT / "params" / "demo.yaml")
    page = tmp_path / "page.md"
    page.write_text("<!-- results: begin -->\n<!-- results: end -->\n")
    status, out, _ = fustal("results", "demo", "--readme", page)
    assert status == 0
    assert out.strip() in page.read_text()
    assert "| generator | 10.0 |" in out
    status, _, err = fustal("results", "never-ran")
    assert status == 2
    assert is_one_line(err)


def test_fetch_of_what_cannot_be_fetched(fustal, tmp_path):
    status, _, err = fustal("fetch", "sbhar", "--from", tmp_path / "nowhere")
    assert status == 2
    assert is_one_line(err)
    assert "nowhere: no such folder" in err


def test_fetch_tells_how_to_go_on_when_it_is_stopped(fustal, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("fustal.fetch.fetch", stopped)
    assert fustal("fetch", "sbhar") == (130, "", "stopped; the same command goes on with what has come\n")


def test_help_lists_the_commands():
    shown = subprocess.run(
        [sys.executable, "-m", "fustal", "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "120"},
    )
    assert shown.returncode == 0
    assert shown.stderr == ""
    for command in ("run", "fetch", "init", "validate", "evaluate", "results", "export", "report", "localize"):
        assert any(line.strip(" │").startswith(f"{command} ") for line in shown.stdout.splitlines()), command


def test_a_wrong_call(fustal):
    status, out, err = fustal("evaluate")
    assert (status, out) == (2, "")
    assert "Missing argument" in err
    status, _, err = fustal("evalute")
    assert status == 2
    assert "No such command 'evalute'" in err
