"""The command line: output, exit status, and one line for each error."""

import json
import os
import subprocess
import sys
import unicodedata
from importlib.metadata import version

import numpy as np
import pytest

from fustal import ROOT
from fustal.data.demo import ensure
from fustal.params import Params, form


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
    values = {line.split()[-1] for line in out.splitlines()[1:]}
    assert values == {"0.00"}


def test_an_unknown_subset(fustal, files):
    status, out, err = fustal("evaluate", *files, "--subset", "validation")
    assert (status, out) == (2, "")
    assert is_one_line(err)
    assert "no video of subset 'validation' (there are ['Test', 'test', 'train'])" in err
    _, _, err = fustal("evaluate", *files, "--subset", "training")
    assert "(there are ['Test', 'test', 'train']: did you mean 'train'?)" in err


@pytest.mark.parametrize(
    ("tiou", "message"),
    [
        ("0.5:0.1", "is not first:step:last, nor values such as 0.5 or 0.3,0.5"),
        ("a:b:c", "is not first:step:last, nor values such as 0.5 or 0.3,0.5"),
        ("half", "is not first:step:last, nor values such as 0.5 or 0.3,0.5"),
        ("0.3,", "is not first:step:last, nor values such as 0.5 or 0.3,0.5"),
        ("nan", "is not first:step:last, nor values such as 0.5 or 0.3,0.5"),
        ("0.7:0.1:0.1", "the step must be positive, last not before first, and the steps below 1000"),
        ("-1:0.5:1", "a tIoU threshold lies above 0 and is at most 1, unlike -1"),
        ("0:0.1:0.7", "a tIoU threshold lies above 0 and is at most 1, unlike 0"),
        ("2:1:3", "a tIoU threshold lies above 0 and is at most 1, unlike 2"),
        ("0.5,50", "a tIoU threshold lies above 0 and is at most 1, unlike 50"),
    ],
)
def test_wrong_thresholds(fustal, files, tiou, message):
    status, _, err = fustal("evaluate", *files, "--tiou", tiou)
    colon = "" if message.startswith("is") else ":"
    assert (status, err) == (2, f"error: --tiou: {tiou!r}{colon} {message}\n")


@pytest.mark.parametrize(
    ("tiou", "names"), [("0.5", ["0.5"]), ("1", ["1"]), ("0.7,0.3,0.5", ["0.3", "0.5", "0.7", "0.3:0.7"])]
)
def test_single_thresholds(fustal, files, tiou, names):
    status, out, _ = fustal("evaluate", *files, "--tiou", tiou)
    assert status == 0
    assert [line.split()[-2:] for line in out.splitlines()[1:]] == [[name, "50.00"] for name in names]


def test_debug_shows_the_traceback(files):
    detections, annotations = files
    command = [sys.executable, "-m", "fustal", "evaluate", str(detections), str(annotations), "--subset", "nothing"]
    quiet = subprocess.run(command, capture_output=True, text=True)
    assert quiet.returncode == 2
    assert is_one_line(quiet.stderr)
    loud = subprocess.run([*command[:3], "--debug", *command[3:]], capture_output=True, text=True)
    assert loud.returncode != 0
    assert "Traceback (most recent call last)" in loud.stderr
    assert "fustal.exceptions.InputError: " in loud.stderr


def test_an_error_that_the_input_did_not_cause_is_status_1(fustal, files, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("fustal.tools.evaluate.read_results_to_measure", fail)
    assert fustal("evaluate", *files) == (1, "", "error: ZeroDivisionError: division by zero\n")


# --- run --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """Replaces the chain: a list of its parameters; it writes metrics in the form of the chain."""
    calls = []

    def run_chain(params, *, stages, force, kept, report):
        calls.append((params, force))
        path = tmp_path / params.run / "evaluation" / "metrics.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        metrics = {"run": params.run, "dataset": "demo", "test": "1 video", "parameters": {"seed": params.seed}}
        path.write_text(json.dumps(metrics | {"mAP": {"generator": {"0.5": 10.0 + params.seed}}, "labels": {}}))

    monkeypatch.setattr("fustal.runs.batch.run_chain", run_chain)
    monkeypatch.setattr("fustal.data.names.OUTPUTS", tmp_path)
    monkeypatch.setattr("fustal.runs.stage.OUTPUTS", tmp_path)
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
    assert [(params.run, params.seed, params.generator_steps) for params, _ in ran] == [
        ("sbhar-seed3", 3, 1000),
        ("sbhar-seed5", 5, 1000),
    ]
    assert "2 seeds (3, 5)" in out
    assert "| generator | 14.0 ± 1.4 |" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "studnet_lr=1"], "unknown parameter 'studnet_lr' (did you mean 'student_lr'?)"),
        (["--set", "student_lr"], "--set student_lr: must be name=value"),
        (["--set", "student_lr=fast"], "student_lr"),
        (["--set", "student_lr=-1"], "student_lr"),
        (["--seed", "-1"], "seed"),
        (["--set", "erosion_large=2"], "erosion_large (2) must exceed erosion_small (3)"),
    ],
)
def test_run_with_wrong_parameters_writes_nothing(fustal, ran, tmp_path, arguments, message):
    status, out, err = fustal("run", ROOT / "params" / "demo.yaml", *arguments)
    assert (status, out, ran) == (2, "", [])
    assert is_one_line(err)
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_run_of_one_stage(fustal, monkeypatch):
    called = []
    monkeypatch.setattr(
        "fustal.runs.batch.run_chain", lambda params, *, stages, force, kept, report: called.append(stages)
    )
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
    assert "params/demo.yaml" in err, "the existing presets are listed"


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
        assert line.startswith(f"error  {video}.npy ")
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
    assert out.startswith(f"demo: {card}, seed 0"), "on a command line, paths are relative to the working directory"


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


def test_fetch_from_a_missing_folder(fustal, tmp_path):
    status, _, err = fustal("fetch", "sbhar", "--from", tmp_path / "nowhere")
    assert status == 2
    assert is_one_line(err)
    assert "nowhere: no such folder" in err


def test_a_stopped_fetch_prints_how_to_continue(fustal, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("fustal.tools.sources.fetch.fetch", stopped)
    assert fustal("fetch", "sbhar") == (
        130,
        "",
        "stopped; the same command continues with the files that are already downloaded\n",
    )


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


def test_wrong_calls(fustal):
    status, out, err = fustal("evaluate")
    assert (status, out) == (2, "")
    assert "Missing argument" in err
    status, _, err = fustal("evalute")
    assert status == 2
    assert "No such command 'evalute'" in err


# --- calls of beginners -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["params"],
        ["run", "params/dmeo.yaml"],
        ["run", "demo"],
        ["run", "params/datasets/demo.yaml"],
        ["run", "params/demo.yaml", "--set", "sead=1"],
        ["run", "params/demo.yaml", "--set", "seed=one"],
        ["run", "params/demo.yaml", "--set", "dataset=dmeo"],
        ["run", "params/demo.yaml", "--set", "proposals_file=nothing.json"],
        ["run", "params/demo.yaml", "--stage", "studnt"],
        ["run", "params/demo.yaml", "--from-stage", "studnt"],
        ["run", "params/demo.yaml", "--sed", "1"],
        ["rnu", "params/demo.yaml"],
        ["sweep", "params/sweeps/dmeo.yaml"],
    ],
    ids=" ".join,
)
def test_commands_without_work_import_no_slow_library(arguments):
    program = (
        "import sys; from fustal.tools.cli import main; sys.argv[0] = 'fustal'\n"
        "try: main()\n"
        "except SystemExit as stop: status = stop.code\n"
        "slow = {'torch', 'papermill', 'pandas', 'scipy', 'matplotlib', 'distributed'} & set(sys.modules)\n"
        "sys.exit(f'imported: {slow}' if slow else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT, env=os.environ
    )
    if arguments[0] in ("--version", "--help", "params"):
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert (done.returncode, done.stdout, is_one_line(done.stderr)) == (2, "", True), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evalute"], "No such command 'evalute'. Did you mean 'evaluate'"),
        (["run", "demo.yaml", "--sed", "1"], "No such option: --sed (Possible options: --se"),
        (["run", "params/dmo.yaml"], "/params/demo.yaml'? there are "),
        (["run", "demo"], "/params/demo.yaml'? there are "),
        (["run", ROOT / "params" / "demo.yaml", "--stage", "studnt"], "did you mean 'student'?"),
        (["run", ROOT / "params" / "demo.yaml", "--from-stage", "evalution"], "did you mean 'evaluation'?"),
        (["run", ROOT / "params" / "demo.yaml", "--set", "sead=1"], "unknown parameter 'sead' (did you mean 'seed'?)"),
        (["run", ROOT / "params" / "datasets" / "demo.yaml"], "this is a data-set card; a preset is wanted: fustal"),
        (["run", ROOT / "params" / "sweeps" / "demo.yaml"], "this is a sweep; a preset is wanted: fustal sweep "),
        (["run", ROOT / "params"], "params: is a folder without params.yaml"),
        (["validate", ROOT / "params" / "demo.yaml"], "this is a preset; a data-set card is wanted: fustal run "),
        (["fetch", ROOT / "params" / "demo.yaml"], "this is a preset; a data-set card is wanted: fustal run "),
        (["sweep", ROOT / "params" / "demo.yaml"], "this is a preset; a sweep is wanted: fustal run "),
        (["sweep", ROOT / "params" / "datasets" / "demo.yaml"], "this is a data-set card; a sweep is wanted: "),
        (["fetch", "thumos"], "did you mean 'thumos14'?"),
        (["results", "dmo"], "no such run (did you mean 'demo'? there are demo)"),
        (["results", "demo", "--resample", 1], "'--resample': Input should be greater than or equal to 100"),
        (["report", "dmo"], "no such run (there are none)"),
        (["export", "dmo", "x.csv"], "dmo: no such result file; "),
        (["export", "demo", "x", "--to", "str"], "--to str: no such form (did you mean 'srt'?"),
        (["collect", "dmo"], "dmo: no such sweep (there are none)"),
        (["ablations", ROOT / "docs" / "ablation.parquet", "--measure", "mAP"], "--measure mAP: is not in the table ("),
        (["report", "demo", "--out", "r.pdf"], "--out r.pdf: must end in .html or .htm"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_near_names_and_wrong_kinds(fustal, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "outputs" / "demo" / "evaluation").mkdir(parents=True)
    (tmp_path / "outputs" / "demo" / "evaluation" / "metrics.json").write_text("{}")
    monkeypatch.setattr("fustal.data.names.OUTPUTS", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    status, out, err = fustal(*arguments)
    assert (status, out) == (2, "")
    assert is_one_line(err)
    assert message in err


def test_the_version(fustal):
    status, out, err = fustal("--version")
    assert (status, err) == (0, "")
    assert out == f"fustal {version('fustal')}\n"


def test_without_arguments_the_help_is_shown(fustal):
    status, out, err = fustal()
    assert status == 2
    assert "Commands" in out + err
    assert "error:" not in err


def test_every_parameter_is_listed(fustal, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then writes as to a terminal
    status, out, err = fustal("params")
    assert (status, err) == (0, "")
    for name, field in Params.model_fields.items():
        lines = [line for line in out.splitlines() if line.split()[:1] == [name]]
        assert len(lines) == 1
        assert field.description in lines[0]
        assert form(name) in lines[0]
    assert out.endswith(f"0 of {len(Params.model_fields)} differ from the default\n")
    assert not [line for line in out.splitlines() if line != line.rstrip()]
    assert "x1b" not in out


def test_the_parameters_of_a_preset(fustal):
    status, out, _ = fustal("params", ROOT / "params" / "thumos14.yaml", "--set", "seed=7", "--set", "easy_ratio=5")
    assert status == 0
    lines = {line.split()[1]: line for line in out.splitlines() if line.startswith("*")}
    assert lines["seed"].endswith("seed of everything random; default 0")
    assert "  2048  " in lines["generator_dim"]
    assert "default 128" in lines["generator_dim"]
    assert "easy_ratio" not in lines
    expected = Params.read(ROOT / "params" / "thumos14.yaml", seed=7)
    assert set(lines) == {name for name, value in expected.of(Params).items() if value != getattr(Params(), name)}
    assert fustal("params", ROOT / "params" / "thumos14.yaml", "--set", "sead=7")[0] == 2


def test_run_from_a_stage_on(fustal, monkeypatch):
    called = []
    monkeypatch.setattr("fustal.runs.batch.run_chain", lambda params, **options: called.append(options))
    preset = ROOT / "params" / "demo.yaml"
    assert fustal("run", preset, "--from-stage", "student")[0] == 0
    assert called[0]["stages"] == ["student", "distilled", "evaluation"]
    assert called[0]["kept"] == ["generator", "selection"]
    status, _, err = fustal("run", preset, "--from-stage", "student", "--stage", "student")
    assert (status, err) == (2, "error: --stage and --from-stage: give one of them\n")


def test_a_stage_before_must_be_done(fustal, tmp_path, monkeypatch):
    ensure("demo")
    monkeypatch.setattr("fustal.runs.batch.OUTPUTS", tmp_path)
    status, _, err = fustal("run", ROOT / "params" / "demo.yaml", "--from-stage", "selection")
    assert status == 2
    assert is_one_line(err)
    assert "demo/generator: is not done with these parameters, inputs and code: run it first" in err
    assert list(tmp_path.iterdir()) == []


def test_control_characters_do_not_reach_a_terminal(fustal, tmp_path):
    status, out, err = fustal("validate", tmp_path / "a\x1b[31m\nb\u2028c\x85.yaml")
    assert (status, out) == (2, "")
    assert is_one_line(err)
    assert "a\\x1b[31m\\nb\\u2028c\\x85.yaml" in err
    database = {"v": {"subset": "test\x1b]0;x\x07", "annotations": [{"label": "Run\x1b[1m", "segment": [0, 1]}]}}
    (tmp_path / "gt.json").write_text(json.dumps({"database": database}))
    (tmp_path / "found.json").write_text(json.dumps({"results": {}}))
    for arguments in (["--subset", "x\x1b[2J"], ["--subset", "test\x1b]0;x\x07"]):
        _, out, err = fustal("evaluate", tmp_path / "found.json", tmp_path / "gt.json", *arguments)
        assert not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in (out + err).replace("\n", ""))


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000, "*a", "!!python/name:os.system", "{a: 1}", "2001-01-01"])
def test_values_that_cannot_be_read(fustal, value):
    status, out, err = fustal("run", ROOT / "params" / "demo.yaml", "--set", f"seed={value}")
    assert (status, out) == (2, "")
    assert is_one_line(err)
    assert len(err) < 500
