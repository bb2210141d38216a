"""The folder of a run: what a stage depends on, when it is done, and which inputs it needs."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fustal import ROOT
from fustal.data.cards import load_dataset
from fustal.data.demo import ensure
from fustal.data.files import digest
from fustal.data.results import as_labels, write_results
from fustal.data.writing import LOCK, UNFINISHED
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.runs import identity
from fustal.runs.chain import CHAIN, FOREIGN, inputs_of, stages_of
from fustal.runs.identity import data_key
from fustal.runs.provenance import provenance
from fustal.runs.stage import is_done, open_stage, stage_key


@pytest.fixture(scope="module")
def dataset():
    ensure("demo")
    return load_dataset("demo")


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setattr("fustal.runs.stage.OUTPUTS", tmp_path)
    return tmp_path


def finish(name, **namespace):
    """Opens a stage, writes something for each of its outputs, and closes it."""
    run = open_stage(name, {"run": "tiny"} | namespace)
    for item in run.stage.outputs:
        (run.run_folder / item).write_text(f"{name} made {item} with {run.params.of(Params)}")
    assert run.finish() == list(run.stage.outputs)
    return run


# --- what a stage depends on ------------------------------------------------------------------------------------------


def test_the_key_changes_only_with_the_parameters_of_the_stage(dataset):
    def key(name, **changes):
        return stage_key(Params(**changes), CHAIN[name], data_key(dataset))

    assert key("generator") == key("generator", run="other") == key("generator", confidence_min=0.5)
    assert key("generator") != key("generator", generator_lr=1e-3)
    assert key("generator") != key("generator", seed=1)
    assert key("generator") != key("generator", recipe="published")
    assert key("selection") == key("selection", student_lr=0.1)
    assert key("selection") != key("selection", confidence_min=0.5)
    assert key("distilled") != key("distilled", student_dim=32), "distillation builds the same student"
    assert key("student") == key("student", distill_epochs=3)
    assert len({key(name) for name in CHAIN}) == len(CHAIN)


def test_the_key_changes_with_the_data(dataset, planted, tmp_path):
    small, store = planted
    small.annotations.write_text("{}")
    small.grids["generator"] = small.grids["student"]
    stage = CHAIN["generator"]
    keys = {"first": stage_key(Params(), stage, data_key(small))}
    assert stage_key(Params(), stage, data_key(small)) == keys["first"]
    small.annotations.write_text("{ }")
    keys["annotations"] = stage_key(Params(), stage, data_key(small))
    (path,) = store.paths("test1")
    path.write_bytes(path.read_bytes() + b" ")
    keys["features"] = stage_key(Params(), stage, data_key(small))
    small.grids["student"] = small.grids["student"].model_copy(update={"stride": 2})
    keys["grid"] = stage_key(Params(), stage, data_key(small))
    small.videos.loc["test1", "subset"] = "train"
    keys["subset"] = stage_key(Params(), stage, data_key(small))
    small.video_labels.loc[0, "label"] = "b"
    keys["labels"] = stage_key(Params(), stage, data_key(small))
    status = path.stat()
    np.save(path, np.load(path)[::-1])
    path.write_bytes(path.read_bytes() + b" ")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    keys["content of the same size and time"] = stage_key(Params(), stage, data_key(small))
    path.unlink()
    keys["missing"] = stage_key(Params(), stage, data_key(small))
    assert len(set(keys.values())) == 8, keys


@pytest.fixture
def checkout(dataset, monkeypatch, tmp_path):
    """A copy of code and notebooks, and a function that returns the keys of all stages for it."""
    for folder in ("fustal", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.setattr(identity, "ROOT", tmp_path)
    data = data_key(dataset)

    def keys():
        return {name: stage_key(Params(), stage, data) for name, stage in CHAIN.items()}

    return tmp_path, keys


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("tools/report.py", ""),
        ("tools/own_data/init.py", ""),
        ("viz/signals.py", ""),
        ("generator.py", "generator selection"),  # notebook 02 cuts proposals from a toy
        ("proposals.py", "generator selection"),
        ("labels.py", "selection distilled"),
        ("student/losses.py", "student distilled"),
        ("distillation.py", "distilled"),
        ("evaluation/labels.py", "selection distilled evaluation"),
        ("params.py", "generator selection student distilled evaluation"),
        ("data/features.py", "generator selection student distilled evaluation"),
    ],
)
def test_a_key_depends_on_the_code_that_its_stage_uses(checkout, module, stages):
    root, keys = checkout
    before = keys()
    path = root / "fustal" / module
    path.write_text(path.read_text() + "\n# another comment\n")
    after = keys()
    assert {name for name in CHAIN if after[name] != before[name]} == set(stages.split())


def test_a_key_depends_on_the_cells_of_its_notebook(checkout):
    root, keys = checkout
    before = keys()
    path = root / "notebooks" / CHAIN["selection"].notebook
    notebook = json.loads(path.read_text())

    def changed(edit):
        edited = copy.deepcopy(notebook)
        edit(edited["cells"])
        path.write_text(json.dumps(edited))
        after = keys()
        return {name for name in CHAIN if after[name] != before[name]}

    is_exercise = ["exercise" in cell["metadata"].get("tags", []) for cell in notebook["cells"]]
    exercise = is_exercise.index(True)
    assert changed(lambda cells: cells[0].update(source="# Prose")) == set()
    assert changed(lambda cells: cells[exercise].update(source="score = 1")) == set()
    assert changed(lambda cells: cells[1].update(source="import fustal.generator")) == {"selection"}


@pytest.mark.parametrize("line", ["%matplotlib inline", "!ls", "x = (", "%%time\nimport fustal.generator"])
def test_a_cell_that_is_not_plain_python_counts_by_its_text(checkout, line):
    root, keys = checkout
    before = keys()
    path = root / "notebooks" / CHAIN["selection"].notebook
    notebook = json.loads(path.read_text())
    cell = {"cell_type": "code", "metadata": {}, "source": line, "outputs": [], "execution_count": None}
    notebook["cells"].insert(1, cell)
    path.write_text(json.dumps(notebook))
    after = keys()
    assert {name for name in CHAIN if after[name] != before[name]} == {"selection"}


def test_a_record_of_another_version_is_refused_in_one_line(outputs):
    finish("generator")
    path = outputs / "tiny" / "generator" / "stage.json"
    record = json.loads(path.read_text())
    record["parameters"]["processes"] = 1
    path.write_text(json.dumps(record))
    with pytest.raises(
        InputError, match=r"generator/stage\.json: made by another version .* run notebook 01_.* again$"
    ):
        open_stage("selection", {"run": "tiny"})


def test_each_input_is_made_by_an_earlier_stage():
    made = set()
    for name, stage in CHAIN.items():
        assert stage.name == name
        assert set(stage.inputs) <= made, name
        made |= set(stage.outputs)
        assert all(item.startswith(f"{name}/") for item in stage.outputs)


# --- done or not ------------------------------------------------------------------------------------------------------


def test_a_stage_is_done_for_exactly_its_parameters_inputs_and_outputs(outputs, dataset):
    params = Params(run="tiny")
    assert not is_done(params, "generator", data_key(dataset))
    finish("generator")
    finish("selection")
    assert is_done(params, "generator", data_key(dataset))
    assert is_done(params, "selection", data_key(dataset))
    assert not is_done(params, "student", data_key(dataset))
    assert not is_done(Params(run="other"), "generator", data_key(dataset))

    changed = Params(run="tiny", confidence_min=0.5)
    assert is_done(changed, "generator", data_key(dataset))
    assert not is_done(changed, "selection", data_key(dataset))

    proposals = outputs / "tiny" / "generator" / "proposals_train.json"
    content = proposals.read_text()
    proposals.write_text(content + " ")
    assert not is_done(params, "generator", data_key(dataset)), "an output was changed"
    assert not is_done(params, "selection", data_key(dataset)), "an input was changed"
    proposals.write_text(content)
    assert is_done(params, "selection", data_key(dataset))
    proposals.unlink()
    assert not is_done(params, "generator", data_key(dataset)), "an output is gone"
    assert not is_done(params, "selection", data_key(dataset)), "an input is gone"


def test_a_stage_is_not_done_when_the_code_of_an_earlier_one_has_changed(outputs, dataset, monkeypatch):
    for name in CHAIN:
        finish(name)
    params = Params(run="tiny")
    data = data_key(dataset)
    assert all(is_done(params, name, data) for name in CHAIN)
    digest_of = identity.code_digest

    def changed(notebook):
        return "another loss" if notebook == CHAIN["student"].notebook else digest_of(notebook)

    monkeypatch.setattr("fustal.runs.stage.code_digest", changed)
    done = [name for name in CHAIN if is_done(params, name, data)]
    assert done == ["generator", "selection"]


def test_a_stage_that_was_started_again_is_not_done(outputs, dataset):
    finish("generator")
    open_stage("generator", {"run": "tiny"})
    assert not is_done(Params(run="tiny"), "generator", data_key(dataset))


BROKEN = {
    "empty": b"",
    "zeros": bytes(500),
    "cut off": b'{"key": "x',
    "a list": b"[]",
    "inputs that are a list": b'{"key": "", "data": "", "code": "", "parameters": {}, "inputs": [], "outputs": {}}',
    "no outputs": b'{"key": "", "data": "", "code": "", "parameters": {}, "inputs": {}, "outputs": null}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_record_means_not_done_and_is_reported(outputs, dataset, capsys, content):
    finish("generator")
    record = outputs / "tiny" / "generator" / "stage.json"
    record.write_bytes(content)
    assert not is_done(Params(run="tiny"), "generator", data_key(dataset))
    message = capsys.readouterr().err
    assert re.fullmatch(r".*stage\.json: .*: the stage counts as not done\n", message)
    with pytest.raises(InputError, match="generator: has not finished"):
        open_stage("selection", {"run": "tiny"})
    finish("generator")
    assert is_done(Params(run="tiny"), "generator", data_key(dataset))


@pytest.mark.parametrize("content", [b"", bytes(500), b'{"key'])
def test_a_broken_started_file_removes_the_checkpoint(outputs, content, capsys):
    run = open_stage("generator", {"run": "tiny"})
    checkpoint = run.folder / "checkpoint.safetensors"
    checkpoint.write_text("of an unknown training")
    (run.folder / "started.json").write_bytes(content)
    open_stage("generator", {"run": "tiny"})
    assert not checkpoint.exists()
    assert capsys.readouterr().err.count("started.json: ") == 1


@pytest.mark.parametrize("content", [b"", bytes(500)])
def test_an_output_that_a_power_cut_emptied_is_made_again(outputs, dataset, content):
    finish("generator")
    (outputs / "tiny" / "generator" / "model.safetensors").write_bytes(content)
    assert not is_done(Params(run="tiny"), "generator", data_key(dataset))


def write_outputs(run):
    for item in run.stage.outputs:
        (run.run_folder / item).write_text("made")


def test_a_stage_does_not_finish_when_an_input_changed_while_it_worked(outputs, dataset):
    finish("generator")
    run = open_stage("selection", {"run": "tiny"})
    write_outputs(run)
    proposals = outputs / "tiny" / "generator" / "proposals_train.json"
    content = proposals.read_text()
    proposals.write_text("those of another run of notebook 01")
    with pytest.raises(InputError, match=r"proposals_train\.json: has changed while notebook 02_.* run it again"):
        run.finish()
    assert not is_done(Params(run="tiny"), "selection", data_key(dataset))
    proposals.unlink()
    with pytest.raises(InputError, match=r"proposals_train\.json: has changed while"):
        run.finish()
    proposals.write_text(content)
    run.finish()
    assert is_done(Params(run="tiny"), "selection", data_key(dataset))


def test_a_stage_does_not_finish_when_the_data_changed_while_it_worked(outputs, dataset, tmp_path):
    shutil.copytree(dataset.root, tmp_path / "data")
    card = tmp_path / "card.yaml"
    card.write_text((ROOT / "params/datasets/demo.yaml").read_text().replace("../../data/demo", str(tmp_path / "data")))
    run = open_stage("generator", {"run": "tiny", "dataset": str(card)})
    write_outputs(run)
    path = run.store().paths(dataset.split("train")[0])[0]
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    with pytest.raises(InputError, match=r"card\.yaml: has changed while notebook 01_.* run it again"):
        run.finish()


def test_after_a_video_moves_to_the_test_subset_what_was_trained_on_it_is_not_done(outputs, dataset, tmp_path):
    train, test = dataset.split("train"), dataset.split("test")
    text = (ROOT / "params/datasets/demo.yaml").read_text().replace("../../data/demo", str(tmp_path / "data"))
    shutil.copytree(dataset.root, tmp_path / "data")
    gt = json.loads((tmp_path / "data" / "gt.json").read_text())
    for entry in gt["database"].values():
        entry["subset"] = "all"
    (tmp_path / "data" / "gt.json").write_text(json.dumps(gt))
    lists = "train_subset: all\ntest_subset: all\ntrain_split: train.txt\ntest_split: test.txt\n"
    card = tmp_path / "card.yaml"
    card.write_text(re.sub(r"(?m)^(train|test)_(subset|split):.*\n", "", text) + lists)
    (tmp_path / "data" / "train.txt").write_text("\n".join(train))
    (tmp_path / "data" / "test.txt").write_text("\n".join(test))
    finish("generator", dataset=str(card))
    params = Params(run="tiny", dataset=str(card))
    assert is_done(params, "generator", data_key(load_dataset(card)))
    (tmp_path / "data" / "train.txt").write_text("\n".join(train[:-2]))
    (tmp_path / "data" / "test.txt").write_text("\n".join(train[-2:] + test))
    assert not is_done(params, "generator", data_key(load_dataset(card)))


def test_a_folder_that_no_stage_made_is_not_changed(outputs):
    mine = outputs / "tiny" / "generator" / "model.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_text("made by hand")
    with pytest.raises(InputError, match=r"generator: holds 'model\.safetensors', which no stage made"):
        open_stage("generator", {"run": "tiny"})
    assert mine.read_text() == "made by hand"


def test_a_record_that_names_no_outputs_means_not_done(outputs, dataset):
    finish("generator")
    record = outputs / "tiny" / "generator" / "stage.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"outputs": {}}))
    (outputs / "tiny" / "generator" / "model.safetensors").unlink()
    assert not is_done(Params(run="tiny"), "generator", data_key(dataset))


@pytest.mark.parametrize("there", ["tiny", "tiny/.generator.lock"])
def test_a_run_that_cannot_be_locked_is_an_error(outputs, there):
    (outputs / there).parent.mkdir(exist_ok=True)
    if there == "tiny":
        (outputs / there).write_text("a file")
    else:
        (outputs / there).mkdir()
    with pytest.raises(InputError, match="generator: cannot be locked: ") as error:
        open_stage("generator", {"run": "tiny"})
    assert "\n" not in str(error.value)


def test_an_unfinished_stage_cannot_be_recorded(outputs):
    run = open_stage("generator", {"run": "tiny"})
    with pytest.raises(InputError):
        run.finish()
    assert not (run.folder / "stage.json").exists()


def test_the_record_holds_the_origin_of_a_result(outputs, dataset):
    finish("generator", seed=4)
    run = finish("selection", seed=4)
    record = json.loads((run.folder / "stage.json").read_text())
    assert record["stage"] == "selection"
    assert record["parameters"] == Params(run="tiny", seed=4).of(Params)
    labels = "selection/pseudo_labels.json"
    proposals = ["generator/proposals_train.json", "generator/opinion_1.json", "generator/opinion_2.json"]
    assert record["inputs"] == {name: digest(run.run_folder / name) for name in proposals}
    assert record["outputs"] == {labels: digest(run.run_folder / labels)}
    assert record["seconds"] >= 0


def test_provenance(monkeypatch):
    about = provenance(Params())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", about["date"])
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", about["git_commit"])
    assert {"torch", "numpy", "fustal"} <= set(about["packages"])
    assert provenance(Params(device="cpu"))["gpu"] is None
    monkeypatch.setenv("PATH", "")
    assert provenance(Params())["git_commit"] == "unknown", "without git, as in a downloaded archive"


# --- opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("selection", "01_generator_training.ipynb"),
        ("student", "02_proposal_filtering.ipynb"),
        ("distilled", "02_proposal_filtering.ipynb"),
        ("evaluation", "01_generator_training.ipynb"),
    ],
)
def test_the_error_of_a_missing_input_names_the_notebook_to_run_first(outputs, name, first):
    with pytest.raises(InputError) as error:
        open_stage(name, {"run": "tiny"})
    assert f"run notebook {first} first, with run = 'tiny'" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_first_missing_input_is_named(outputs):
    finish("generator")
    finish("selection")
    with pytest.raises(InputError, match=r"student/model\.safetensors: no such file: run notebook 03_student"):
        open_stage("distilled", {"run": "tiny"})


def test_parameters_are_inherited_from_the_stage_before(outputs):
    finish("generator", seed=7, generator_dim=32, confidence_min=0.3)
    run = finish("selection", seed=7, iou_score_min=0.1)
    assert run.params.generator_dim == 32
    assert run.params.confidence_min == 0.3
    assert run.params.iou_score_min == 0.1
    run = open_stage("student", {"run": "tiny", "student_lr": 0.5})
    assert run.params.seed == 7
    assert run.params.iou_score_min == 0.1
    assert run.params.student_lr == 0.5, "values of the notebook take precedence"
    assert run.folder.is_dir()
    assert open_stage("selection", {"run": "tiny"}).params.iou_score_min == Params().iou_score_min


def test_the_store_has_the_grid_of_the_stage(outputs, dataset):
    assert open_stage("generator", {"run": "tiny"}).store().grid == dataset.grids["generator"]
    finish("generator")
    assert open_stage("selection", {"run": "tiny"}).store().grid == dataset.grids["student"]


def test_a_wrong_parameter_or_data_set_creates_nothing(outputs):
    for namespace in ({"generator_dim": "wide"}, {"dataset": "nothing"}, {"run": "../up"}):
        with pytest.raises(InputError):
            open_stage("generator", {"run": "tiny"} | namespace)
    assert list(outputs.iterdir()) == []


def test_checkpoints_are_kept_for_the_same_stage_and_removed_for_another(outputs):
    def checkpoints(**namespace):
        run = open_stage("student", {"run": "tiny"} | namespace)
        return sorted(str(path.relative_to(run.folder)) for path in run.folder.rglob("checkpoint.safetensors"))

    def interrupt():
        for folder in ("student", "student/upper_bound"):
            (outputs / "tiny" / folder).mkdir(exist_ok=True)
            (outputs / "tiny" / folder / "checkpoint.safetensors").write_text("half-way")

    finish("generator")
    finish("selection")
    assert checkpoints() == []
    interrupt()
    both = ["checkpoint.safetensors", "upper_bound/checkpoint.safetensors"]
    assert checkpoints() == both
    assert checkpoints(student_lr=0.5) == [], "other parameters"
    interrupt()
    assert checkpoints(student_lr=0.5) == both
    finish("selection", confidence_min=0.5)
    assert checkpoints(student_lr=0.5) == [], "other inputs"


def rerun_generator(outputs, monkeypatch):
    finish("generator", generator_dim=16)


def edit_labels(outputs, monkeypatch):
    (outputs / "tiny" / "selection" / "pseudo_labels.json").write_text("others")


def begin_selection(outputs, monkeypatch):
    open_stage("selection", {"run": "tiny"})


def touch_data(outputs, monkeypatch):
    monkeypatch.setattr("fustal.runs.stage.data_key", lambda dataset: "other")


def edit_code(outputs, monkeypatch):
    monkeypatch.setattr("fustal.runs.stage.code_digest", lambda notebook: "other")


@pytest.mark.parametrize(
    ("change", "namespace", "message"),
    [
        (rerun_generator, {}, "selection: generator/proposals_train.json has changed since: run notebook 02"),
        (edit_labels, {}, "selection: selection/pseudo_labels.json has changed since: run notebook 02"),
        (begin_selection, {}, "selection: has not finished"),
        (
            None,
            {"confidence_min": 0.3},
            "selection: it ran with confidence_min = 0.4, and this is with 0.3: run notebook",
        ),
        (None, {"seed": 1}, "selection: it ran with seed = 0, and this is with 1: run notebook 02"),
        (touch_data, {}, "selection: the data have changed since: run notebook 02"),
        (edit_code, {}, "selection: its code, or fustal's, has changed since: run notebook 02"),
    ],
)
def test_an_input_that_is_out_of_date_is_not_read(outputs, monkeypatch, change, namespace, message):
    finish("generator")
    finish("selection")
    open_stage("student", {"run": "tiny"})
    if change:
        change(outputs, monkeypatch)
    with pytest.raises(InputError, match=re.escape(message)):
        open_stage("student", {"run": "tiny"} | namespace)


def test_a_file_of_another_method_replaces_the_stages_before(outputs, dataset, tmp_path):
    given = tmp_path / "theirs.json"
    with pytest.raises(InputError, match=r"theirs\.json: no such file$"):
        open_stage("selection", {"run": "tiny", "proposals_file": str(given)})
    write_results(as_labels(dataset.segments_of("train")[:3]), given)
    params = Params(run="tiny", proposals_file=str(given))
    assert stages_of(params, dataset) == ["selection", "student", "distilled", "evaluation"]
    run = open_stage("selection", {"run": "tiny", "proposals_file": str(given)})
    assert len(run.results("generator/proposals_train.json")) == 3
    (run.folder / "pseudo_labels.json").write_text("{}")
    run.finish()
    assert is_done(params, "selection", data_key(dataset))
    write_results(as_labels(dataset.segments_of("train")[:2]), given)
    assert not is_done(params, "selection", data_key(dataset)), "the file has another content"
    with pytest.raises(InputError, match=r"has nothing to do: proposals_file = "):
        open_stage("generator", {"run": "tiny", "proposals_file": str(given)})


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"pseudo_labels_file": "a.json"}, ["student", "distilled", "evaluation"]),
        ({"pseudo_labels_file": "a.json", "proposals_file": "b.json"}, ["student", "distilled", "evaluation"]),
        ({"detections_file": "a.json"}, ["evaluation"]),
    ],
)
def test_the_stages_before_a_given_file_do_not_run(given, left, dataset):
    params = Params(**given)
    assert stages_of(params, dataset) == left
    inputs = set(inputs_of(CHAIN["evaluation"], params, Path("run")))
    foreign = {FOREIGN[name] for name in given}
    assert inputs >= foreign
    makers = {Path(name).parts[0] for name in inputs - foreign}
    assert makers <= set(left)


def test_without_true_segments_there_is_no_evaluation(dataset):
    unknown = replace(dataset, segments=dataset.segments_of("train"))
    assert stages_of(Params(), unknown) == list(CHAIN)[:-1]


def test_a_finished_stage_has_no_checkpoints(outputs):
    run = open_stage("generator", {"run": "tiny"})
    (run.folder / "checkpoint.safetensors").write_text("the last step")
    finish("generator")
    assert not list(run.folder.rglob("checkpoint.safetensors"))


def test_unfinished_files_of_a_killed_process_are_removed(outputs):
    run = open_stage("generator", {"run": "tiny"})
    half = run.folder / f".proposals_train.json{UNFINISHED}x1y2"
    half.mkdir()
    (half / LOCK).touch()
    mine = run.folder / ".ipynb_checkpoints"
    mine.mkdir()
    (half / "proposals_train.json").write_text("{")
    open_stage("generator", {"run": "tiny"})
    assert not half.exists()
    assert mine.exists(), "it was not made by fustal"


def test_two_processes_do_not_work_on_the_same_stage(outputs, monkeypatch):
    code = f"""
from fustal.runs import stage
from pathlib import Path
stage.OUTPUTS = Path({str(outputs)!r})
run = stage.open_stage("generator", {{"run": "tiny"}})
print("open", flush=True)
input()
"""
    monkeypatch.setattr("fustal.runs.stage.LOCK_PATIENCE", 0)
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(InputError, match=r"tiny/generator: another process works on it: wait for it, or end it$"):
            open_stage("generator", {"run": "tiny"})
        assert open_stage("generator", {"run": "another"})
    finally:
        other.kill()
        other.communicate()
    assert open_stage("generator", {"run": "tiny"}), "a killed process holds no lock"
