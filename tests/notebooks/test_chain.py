"""A small chain of notebooks on the demo data: its files, the stages that it skips, and its errors."""

import json
import re
import shutil

import nbformat
import numpy as np
import pytest

from fustal import ROOT
from fustal.data.cards import load_dataset
from fustal.data.features import FeatureStore
from fustal.data.results import read_results
from fustal.evaluation.labels import pseudo_label_quality
from fustal.params import Params
from fustal.runs.chain import CHAIN
from tests.notebooks.miniature import SMALL, call, cells_without_exercises

NOTEBOOKS = [stage.notebook for stage in CHAIN.values()]


def run_chain(outputs, **changes):
    """`fustal run params/demo.yaml` with small sizes, called in a folder outside the repository."""
    options = []
    for name, value in (SMALL | changes).items():
        options += ["--set", f"{name}={value}"]
    return call("fustal", "run", ROOT / "params" / "demo.yaml", *options, outputs=outputs, cwd=outputs)


def states(done):
    """The state of each stage in the output of the command: "done" or "run"."""
    found = []
    for line in done.stdout.splitlines():
        if line[1:3] == "/5" and not line.endswith("..."):
            found.append("done" if line.endswith("already done") else "run")
    return found


def modified(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The first call: its folder of outputs and the finished process."""
    outputs = tmp_path_factory.mktemp("outputs")
    return outputs, run_chain(outputs)


@pytest.fixture
def again(first, tmp_path):
    """A copy of the folder of the run, for a second call."""
    return shutil.copytree(first[0], tmp_path / "again")


@pytest.fixture
def metrics(first):
    return json.loads((first[0] / "demo" / "evaluation" / "metrics.json").read_text())


def test_the_chain_runs_to_its_end(first):
    outputs, done = first
    assert (done.returncode, done.stderr) == (0, "")
    assert states(done) == ["run"] * 5
    assert "| distilled student |" in done.stdout
    assert "warning" not in done.stdout, "the student learns its labels, and every check holds"
    for stage in CHAIN.values():
        for item in stage.outputs:
            assert (outputs / "demo" / item).stat().st_size > 0, item
        assert (outputs / "demo" / stage.name / "stage.json").exists()
    assert not list(outputs.rglob("checkpoint.safetensors")), "no checkpoint is left"
    assert [path.name for path in outputs.iterdir()] == ["demo"]


def test_the_executed_notebooks_are_complete(first):
    folder = first[0] / "demo" / "notebooks"
    assert sorted(path.name for path in folder.iterdir()) == NOTEBOOKS
    for path in folder.iterdir():
        cells = cells_without_exercises(nbformat.read(path, as_version=4))
        outputs = outputs_of(cells)
        assert not [output for output in outputs if output.output_type == "error"]
        assert not [output for output in outputs if output.get("name") == "stderr"], "no warnings"
        images = []
        for output in outputs:
            images += re.findall("<img[^>]{,999}", output.get("data", {}).get("text/html", ""))
        assert images, "it has figures"
        assert all(re.match(r'<img alt="[^"]+" src="data:image/png;base64,', image) for image in images)


def outputs_of(cells):
    outputs = []
    for cell in cells:
        if cell.cell_type == "code":
            outputs += cell.outputs
    return outputs


def test_the_metrics_have_every_stage_and_their_provenance(metrics):
    assert (metrics["run"], metrics["dataset"]) == ("demo", "demo")
    assert set(metrics["mAP"]) == {"generator", "student", "student_ema", "distilled", "upper_bound"}
    names = [f"0.{i}" for i in range(1, 8)] + ["0.1:0.5", "0.3:0.7", "0.1:0.7"]
    for values in metrics["mAP"].values():
        assert list(values) == names
        assert all(0 <= value <= 100 for value in values.values())
    assert metrics["mAP"]["generator"]["0.1:0.7"] > 5, "the generator learns in 30 steps"
    assert set(metrics["AP"]) == set(metrics["mAP"])
    for stage, classes in metrics["AP"].items():
        assert list(classes) == load_dataset("demo").classes
        mean = np.mean([values["0.1:0.7"] for values in classes.values()])
        assert mean == pytest.approx(metrics["mAP"][stage]["0.1:0.7"], abs=2e-3)
    assert list(metrics["labels"]) == ["proposals", "pseudo labels", "teacher", "distilled"]
    assert metrics["labels"]["proposals"]["labels"] > metrics["labels"]["pseudo labels"]["labels"] > 0
    assert metrics["labels"]["proposals"]["coverage"] == 100
    assert {f"recall at {tiou}" for tiou in (0.3, 0.5, 0.7)} < set(metrics["labels"]["distilled"])
    assert set(metrics["video-level mAP"]) == set(metrics["mAP"])
    assert all(0 <= value <= 100 for value in metrics["video-level mAP"].values())
    assert metrics["parameters"] == Params(run="demo", dataset="demo", **SMALL).of(Params)
    assert {"git_commit", "packages", "platform", "cores", "date"} <= set(metrics["provenance"])


def test_the_artefacts_agree_with_each_other(first, metrics):
    dataset = load_dataset("demo")
    folder = first[0] / "demo"
    labels = read_results(folder / "selection" / "pseudo_labels.json")
    assert len(labels) == metrics["labels"]["pseudo labels"]["labels"]
    known = dataset.video_labels[dataset.video_labels.video.isin(dataset.split("train"))]
    pairs = set(zip(known.video, known.label, strict=True))
    assert set(zip(labels.video, labels.label, strict=True)) == pairs, "every class of every video has a label"
    for stage in ("student", "distilled"):
        detections = read_results(folder / stage / "detections_test.json")
        assert set(detections.video) <= set(dataset.split("test"))
        assert set(detections.label) <= set(dataset.classes)


def test_localize_detects_the_same_in_the_test_videos_as_the_run(first, tmp_path):
    """Up to the end of the last snippet: a video without annotation ends there."""
    outputs = first[0]
    dataset = load_dataset("demo")
    pattern = dataset.root / "features" / "student" / "{modality}"
    files = [pattern / f"{video}.npy" for video in dataset.split("test")]
    done = call("fustal", "localize", "demo", *files, "--out", tmp_path / "a.json", outputs=outputs, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = read_results(tmp_path / "a.json")
    expected = read_results(outputs / "demo" / "distilled" / "detections_test.json")
    assert found[["video", "label", "score"]].equals(expected[["video", "label", "score"]])
    ends = np.minimum(found.groupby("video").end.max(), expected.groupby("video").end.max())
    last = ends[expected.video].to_numpy()
    for side in ("start", "end"):
        np.testing.assert_array_equal(np.minimum(found[side], last), np.minimum(expected[side], last))


def test_a_second_call_runs_nothing(first):
    outputs, done = first
    before = modified(outputs)
    second = run_chain(outputs)
    assert (second.returncode, second.stderr) == (0, "")
    assert states(second) == ["done"] * 5
    assert modified(outputs) == before
    assert second.stdout.splitlines()[-4:] == done.stdout.splitlines()[-4:], "the same table"


def test_another_parameter_runs_only_what_depends_on_it(again):
    before = modified(again)
    done = run_chain(again, label_share=0.95)
    assert done.returncode == 0, done.stderr
    assert states(done) == ["done", "run", "run", "run", "run"]
    after = modified(again)
    unchanged = {name for name in before if before[name] == after[name]}
    of_generator = {name for name in before if name.startswith("demo/generator/")}
    assert of_generator <= unchanged
    assert "demo/notebooks/01_generator_training.ipynb" in unchanged
    assert not [name for name in unchanged if name.endswith("stage.json") and "generator" not in name]


def test_a_stage_that_fails_stops_the_chain_and_keeps_its_notebook(again):
    done = run_chain(again, student_lr=1e3)
    assert done.returncode == 1, "the input was valid, the work failed"
    assert done.stderr.startswith("error: StageError: 03_student_training.ipynb: FloatingPointError: student: the loss")
    assert done.stderr.count("\n") == 1
    assert states(done) == ["done"] * 2
    assert "4/5" not in done.stdout
    partial = again / "demo" / "notebooks" / "03_student_training.partial.ipynb"
    assert str(partial) in done.stderr
    outputs = outputs_of(nbformat.read(partial, as_version=4).cells)
    assert [output.ename for output in outputs if output.output_type == "error"] == ["FloatingPointError"]
    assert not (again / "demo" / "student" / "stage.json").exists(), "the stage is not done"


@pytest.mark.parametrize("name", CHAIN)
def test_a_stage_can_be_opened_again_in_the_same_notebook(again, monkeypatch, name):
    monkeypatch.setattr("fustal.runs.stage.OUTPUTS", again)
    notebook = nbformat.read(ROOT / "notebooks" / CHAIN[name].notebook, as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    imports, parameters, opening = code[:3]
    assert "open_stage(" in opening
    namespace = {}
    for source in (imports, parameters, opening, opening, parameters, opening):
        exec(source, namespace)
        namespace |= {key: value for key, value in SMALL.items() if key in namespace}
    groups = CHAIN[name].params
    assert namespace["stage"].params.of(*groups) == Params(**SMALL).of(*groups)


def test_invalid_input_of_a_stage_is_status_2(tmp_path):
    broken = file_of_a_copy(tmp_path, "generator")
    features = np.load(broken)
    features[3] = np.nan
    np.save(broken, features)
    done = run_chain(tmp_path, dataset=tmp_path / "card.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {broken}: ")
    assert "NaN or infinity in snippet 3" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "demo" / "notebooks" / "01_generator_training.partial.ipynb").exists()


@pytest.mark.parametrize("stage", ["generator", "student"])
def test_a_missing_or_broken_file_stops_a_run_before_its_first_stage(tmp_path, stage):
    missing = file_of_a_copy(tmp_path, stage)
    for what in ("is not a readable .npy file", "no such feature file"):
        if what.startswith("no"):
            missing.unlink()
        else:
            missing.write_bytes(b"broken")
        done = run_chain(tmp_path, dataset=tmp_path / "card.yaml")
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {missing}: {what}")
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "demo" / "notebooks").exists()


def file_of_a_copy(folder, stage):
    """Copies the demo's data, with a card; returns the features of a training video for a stage."""
    demo = load_dataset("demo")
    data = folder.resolve() / "data"
    shutil.copytree(demo.root, data)
    card = (ROOT / "params" / "datasets" / "demo.yaml").read_text()
    (folder / "card.yaml").write_text(card.replace("name: demo", "name: mine").replace("../../data/demo", str(data)))
    first = FeatureStore(demo, stage).paths(demo.split("train")[0])[0]
    return data / first.relative_to(demo.root)


def papermill(target, *options, outputs):
    return call(
        "papermill",
        ROOT / "notebooks" / "01_generator_training.ipynb",
        target,
        "-f",
        ROOT / "params" / "demo.yaml",
        "--no-progress-bar",
        *options,
        outputs=outputs,
        cwd=target.parent,
    )


def test_plain_papermill_runs_a_notebook_from_any_folder(first, tmp_path):
    done = papermill(tmp_path / "out.ipynb", "-p", "generator_steps", "30", outputs=tmp_path)
    assert done.returncode == 0, done.stderr
    cells_without_exercises(nbformat.read(tmp_path / "out.ipynb", as_version=4))
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [".generator.lock", "generator"]
    for item in CHAIN["generator"].outputs:
        assert (tmp_path / "demo" / item).read_bytes() == (first[0] / "demo" / item).read_bytes(), "the same bits"


def test_plain_papermill_with_an_unknown_parameter_fails(tmp_path):
    done = papermill(tmp_path / "out.ipynb", "-p", "generator_step", "30", outputs=tmp_path)
    assert done.returncode != 0
    assert "InputError: unknown parameter 'generator_step' (did you mean 'generator_steps'?)" in done.stderr
    assert not (tmp_path / "demo").exists()


def test_notebook_02_filters_proposals_of_another_method(shared, tmp_path):
    thumos = shared / "thumos14"
    card = (ROOT / "params" / "datasets" / "thumos14.yaml").read_text()
    (tmp_path / "card.yaml").write_text(card.replace("root: ../../data/thumos14", f"root: {thumos}"))
    given = thumos / "proposals_train_pmil.json"
    command = ["papermill", ROOT / "notebooks" / "02_proposal_filtering.ipynb", tmp_path / "out.ipynb"]
    command += ["-p", "run", "pmil", "-p", "dataset", tmp_path / "card.yaml", "-p", "proposals_file", given]
    done = call(*command, "--no-progress-bar", outputs=tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    proposals = read_results(given)
    labels = read_results(tmp_path / "pmil" / CHAIN["selection"].outputs[0])
    assert len(proposals) == 33_895
    assert 0 < len(labels) < len(proposals)
    truth = load_dataset(tmp_path / "card.yaml").segments_of("train")
    before = pseudo_label_quality(proposals, truth).loc[0.5]
    after = pseudo_label_quality(labels, truth).loc[0.5]
    assert after.precision > 1.3 * before.precision, "the filter improves the labels"
    assert after.f1 > 1.3 * before.f1
    assert "share of TPs" in (tmp_path / "out.ipynb").read_text()


def test_detections_of_another_method_are_evaluated_alone(first, metrics, tmp_path):
    given = first[0] / "demo" / "distilled" / "detections_test.json"
    done = run_chain(tmp_path, run="given", detections_file=given)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("nothing to do: detections_file = ") == 4
    assert {path.name for path in (tmp_path / "given").glob("[!.]*")} == {"notebooks", "evaluation"}
    ap = json.loads((tmp_path / "given" / "evaluation" / "metrics.json").read_text())["mAP"]
    assert ap == {"given": metrics["mAP"]["distilled"]}
    assert "| another method's detections |" in done.stdout


def test_the_chain_runs_with_video_level_labels_alone(tmp_path):
    """Without a segment in training and test all stages run, except the evaluation."""
    videos = load_dataset("demo").videos
    labels = load_dataset("demo").video_labels.query("video.str.startswith('train')")
    rows = [f"{row.video},{row.label},train,{videos.duration[row.video]}" for row in labels.itertuples()]
    rows += [f"{video},,test," for video in load_dataset("demo").split("test")]
    (tmp_path / "labels.csv").write_text("\n".join(["video,label,subset,duration", *rows]))
    card = (ROOT / "params" / "datasets" / "demo.yaml").read_text()
    card = card.replace("annotations: gt.json", "annotations: labels.csv")
    card = card.replace("root: ../../data/demo", f"root: {tmp_path}")
    (tmp_path / "card.yaml").write_text(card)
    (tmp_path / "features").symlink_to(ROOT / "data" / "demo" / "features")
    (tmp_path / "outputs").mkdir()
    done = run_chain(tmp_path / "outputs", run="weak", dataset=tmp_path / "card.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2].endswith("nothing to do: no test video has true segments")
    found = read_results(tmp_path / "outputs" / "weak" / "distilled" / "detections_test.json")
    assert found.video.nunique() == len(load_dataset("demo").split("test"))
    assert not (tmp_path / "outputs" / "weak" / "evaluation").exists()
    executed = (tmp_path / "outputs" / "weak" / "notebooks" / "02_proposal_filtering.ipynb").read_text()
    assert "no training video has true segments" in executed
