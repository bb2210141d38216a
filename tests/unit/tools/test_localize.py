"""A trained run on new videos: it gives the detections of the run, needs no data set, and has errors of one line."""

import json
import re
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from fustal.data.cards import load_dataset
from fustal.data.demo import ensure
from fustal.data.files import digest
from fustal.data.results import RESULT_COLUMNS, as_labels, read_results, write_results
from fustal.distillation import distill
from fustal.engine.checkpoint import load_module
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.runs.chain import CHAIN, inputs_of
from fustal.runs.identity import data_key
from fustal.runs.stage import OpenStage
from fustal.student import Student, detect_videos, train_student
from fustal.tools import localize_output
from fustal.tools.localize import find_files, load
from tests.datasets import planted_in
from tests.films import film_of
from tests.html_page import Page
from tests.networks import SMALL

TRAINED = SMALL | {
    "student_lr": 1e-2,
    "ema_memory": 0.5,
    "student_epochs": 16,
    "distill_epochs": 2,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of outputs, with a run trained in seconds, and of its test videos; the other videos are deleted."""
    outputs = tmp_path_factory.mktemp("outputs")
    data = tmp_path_factory.mktemp("data")
    dataset, store = planted_in(data)
    params = Params(run="tiny", **TRAINED)
    folder = outputs / "tiny"
    labels = as_labels(dataset.segments_of("train"))
    inputs = inputs_of(CHAIN["distilled"], params, folder)
    for item in (*inputs, *CHAIN["distilled"].outputs):
        (folder / item).parent.mkdir(parents=True, exist_ok=True)
        (folder / item).write_text("{}")
    state = train_student(params, store, labels, folder / "student")
    distill(params, store, labels, state, folder / "distilled")
    found = detect_videos(state.ema, store, dataset.split("test"), params)
    assert (found.score > 0.3).any(), "the student has learned"
    write_results(found, folder / "distilled" / "detections_test.json")
    read = {name: digest(path) for name, path in inputs.items()}
    ensure(params.dataset)
    key = data_key(load_dataset(params.dataset))
    OpenStage(params, CHAIN["distilled"], folder, inputs, dataset, "key", key, "code", read, time.time()).finish()
    for path in data.glob("train*.npy"):
        path.unlink()
    return outputs, data


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of the run's folder."""
    monkeypatch.setattr("fustal.data.names.OUTPUTS", tmp_path / "outputs")
    threads = torch.get_num_threads()
    yield shutil.copytree(trained[0], tmp_path / "outputs") / "tiny"
    torch.set_num_threads(threads)


@pytest.fixture
def videos(trained):
    return [str(trained[1] / f"test{i}.npy") for i in range(2)]


@pytest.fixture
def fustal(fustal, run):
    """Calls `fustal localize`, where the run is."""
    return partial(fustal, "localize")


def change(run, **entries):
    """Changes entries of the task in the record of the distilled stage."""
    path = run / "distilled" / "stage.json"
    record = json.loads(path.read_text())
    record["task"]["grid"] |= entries.pop("grid", {})
    record["task"] |= entries
    path.write_text(json.dumps(record))


# --- the detections of the run ----------------------------------------------------------------------------------------


def test_detections_in_the_test_videos_of_the_run_are_those_of_the_run(run, videos, fustal, tmp_path):
    status, out, err = fustal("tiny", *videos, "--out", tmp_path / "found.json")
    expected = run / "distilled" / "detections_test.json"
    assert (status, err) == (0, "")
    assert (tmp_path / "found.json").read_bytes() == expected.read_bytes()
    count = len(read_results(expected))
    assert out == f"{count} detections in 2 of 2 videos: {tmp_path / 'found.json'}\n"


def test_in_python(run, videos):
    """The lines in README.md."""
    features = np.load(videos[0])
    trained = load("tiny")
    detections = trained.localize({"holiday": features})
    expected = read_results(run / "distilled" / "detections_test.json")
    expected = expected[expected.video == "test0"]
    assert list(detections) == RESULT_COLUMNS
    assert set(detections.video) == {"holiday"}
    assert detections.label.tolist() == expected.label.tolist()
    np.testing.assert_allclose(detections.score, expected.score, atol=1e-5)
    np.testing.assert_allclose(detections[["start", "end"]], expected[["start", "end"]], atol=1e-3)
    best = detections.loc[detections.score.idxmax()]
    assert best.label == "a", "the planted action"
    assert best.start == pytest.approx(10, abs=1)
    assert best.end == pytest.approx(15, abs=1)


def test_the_average_is_used_and_not_the_student(run, videos):
    average = load("tiny").model.state_dict()
    shutil.copy(run / "distilled" / "model.safetensors", run / "distilled" / "ema.safetensors")
    with pytest.raises(InputError, match=r"ema\.safetensors: has changed since it was written: run notebook 04"):
        load("tiny")
    raw = Student.from_params(Params(**TRAINED), 6, 2)
    load_module(raw, run / "distilled" / "model.safetensors")
    assert any(not torch.equal(value, average[name]) for name, value in raw.state_dict().items())


def test_no_video_and_numbers_of_other_types(run, videos):
    trained = load("tiny")
    features = np.load(videos[1])
    assert list(trained.localize({})) == RESULT_COLUMNS
    expected = trained.localize({"v": features})
    forms = [features.astype(np.float64), torch.from_numpy(features), features.tolist(), np.asfortranarray(features)]
    for form in forms:
        assert trained.localize({"v": form}).equals(expected)


def test_threads_are_those_of_the_run(run):
    torch.set_num_threads(2)
    load("tiny")
    assert torch.get_num_threads() == Params().threads == 1


# --- what is printed, written, drawn ----------------------------------------------------------------------------------


def test_without_files_the_best_are_printed(run, videos, fustal):
    found = read_results(run / "distilled" / "detections_test.json")
    status, out, _ = fustal("tiny", *videos)
    lines = out.splitlines()
    heads = [line for line in lines if not line.startswith("  ")]
    counts = [((found.video == name) & (found.score >= 0.2)).sum() for name in ("test0", "test1")]
    assert status == 0
    assert [head.split(" detection")[0] for head in heads] == [
        f"test0, 32.0 s: {counts[0]}",
        f"test1, 33.5 s: {counts[1]}",
    ]
    best = found[found.video == "test0"].iloc[0]
    row = [best.label, f"{100 * best.score:.0f}", "%", f"{best.start:.2f}", "–", f"{best.end:.2f}", "s"]
    assert lines[1].split() == row
    _, out, _ = fustal("tiny", *videos, "--min-score", 0)
    assert [line.startswith("  ") for line in out.splitlines()] == 2 * ([False] + 10 * [True])
    assert "detections, the best 10\n" in out
    _, out, _ = fustal("tiny", videos[0], "--min-score", 1)
    assert out == "test0, 32.0 s: 0 detections\n"


def test_a_table_and_a_minimum_score(run, videos, fustal, tmp_path):
    found = read_results(run / "distilled" / "detections_test.json")
    status, _, _ = fustal("tiny", *videos, "--out", tmp_path / "new" / "found.csv", "--min-score", 0.3)
    rows = (tmp_path / "new" / "found.csv").read_text().splitlines()
    assert status == 0
    assert rows[0] == "video,label,score,start,end"
    assert len(rows) - 1 == (found.score >= 0.3).sum() > 0


def test_timelines(run, videos, fustal, tmp_path):
    name = tmp_path / "$x_$ 映画.npy"
    shutil.copy(videos[0], name)
    status, out, err = fustal("tiny", *videos, name, "--plot", tmp_path / "plots")
    assert (status, err) == (0, "")
    pictures = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert pictures == ["$x_$ 映画.png", "test0.png", "test1.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "plots").iterdir())
    assert out.endswith(f"3 timelines of detections of score 0.2 or more: {tmp_path / 'plots'}\n")


def test_a_timeline_does_not_replace_a_folder_and_nothing_is_written(run, videos, fustal, tmp_path):
    mine = tmp_path / "plots" / "test1.png"
    mine.mkdir(parents=True)
    status, _, err = fustal("tiny", *videos, "--plot", tmp_path / "plots", "--out", tmp_path / "found.json")
    assert (status, err) == (2, f"error: {mine}: is a folder, and a file never replaces one: give another name\n")
    assert not (tmp_path / "found.json").exists()
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["test1.png"]


def test_inputs_and_other_pictures_are_not_replaced(run, videos, fustal, tmp_path):
    mine = shutil.copy(videos[0], tmp_path / "mine.csv")
    status, _, err = fustal("tiny", mine, "--out", mine)
    assert status == 2
    assert "is also read" in err
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "test0.png").write_bytes(b"\x89PNG, a thumbnail")
    status, _, err = fustal("tiny", *videos, "--plot", tmp_path / "plots")
    assert status == 2
    assert err.endswith("test0.png: exists already, and is no timeline: move it away\n")
    assert (tmp_path / "plots" / "test0.png").read_bytes() == b"\x89PNG, a thumbnail"
    (tmp_path / "plots" / "test0.png").unlink()
    for _ in range(2):
        assert fustal("tiny", *videos, "--plot", tmp_path / "plots")[0] == 0, "timelines are replaced"


# --- the page of a video ----------------------------------------------------------------------------------------------


def tracks_of(path):
    """The names of the time lines on a page, and the number of detections in its list."""
    page = Page(path.read_text(encoding="utf-8"))
    names = {element["text"] for element in page.all("div") if element.get("class") == "track"}
    return names, len(page.all("li"))


def test_a_page(run, videos, fustal, tmp_path):
    film = tmp_path / "film.mp4"
    film.write_bytes(bytes(200_000))
    found = read_results(run / "distilled" / "detections_test.json")
    page = tmp_path / "page.html"
    status, out, err = fustal("tiny", videos[0], "--page", page, "--min-score", 0.4, "--video", film)
    assert (status, err) == (0, "")
    assert out.endswith(f"{page}: detections, with the video, 0.2 MB\n")
    assert tracks_of(page) == ({"detections"}, (found.video == "test0").sum())
    (slider,) = Page(page.read_text()).all("input")
    assert slider["value"] == "0.4"
    assert fustal("tiny", videos[0], "--page", page)[1].endswith(f"{page}: detections, without a video\n")


def test_a_page_with_true_segments_and_other_stages(run, trained, videos, fustal, tmp_path):
    """The run's data set has the video, by name and duration; the student has finished, the generator has not."""
    database = {"test1": {"subset": "test", "duration": 33.5, "annotations": [{"label": "b", "segment": [10.5, 15.5]}]}}
    database["train0"] = {"subset": "train", "duration": 45, "annotations": [{"label": "a"}]}
    (tmp_path / "gt.json").write_text(json.dumps({"database": database}))
    grid = "grids: {student: {pattern: '{video}.npy', fps: 2, stride: 1, window: 1}}"
    (tmp_path / "card.yaml").write_text(f"name: small\nabout: ''\nroot: .\nannotations: gt.json\n{grid}\n")
    record = json.loads((run / "distilled" / "stage.json").read_text())
    record["parameters"]["dataset"] = str(tmp_path / "card.yaml")
    for stage in ("student", "distilled"):
        (run / stage / "stage.json").write_text(json.dumps(record))
    found = read_results(run / "distilled" / "detections_test.json")
    (run / "generator").mkdir()
    (run / "generator" / "started.json").write_text("{}")
    write_results(found[found.video == "test1"].head(5), run / "student" / "detections_test.json")
    write_results(found[found.video == "test1"].head(5), run / "generator" / "proposals_test.json")
    page = tmp_path / "page.html"
    assert fustal("tiny", videos[1], "--page", page)[1].endswith(
        f"{page}: truth, detections, student, without a video\n"
    )
    assert tracks_of(page)[0] == {"truth", "detections", "student"}
    del database["test1"]["duration"]
    (tmp_path / "gt.json").write_text(json.dumps({"database": database}))
    fustal("tiny", videos[1], "--page", page)
    assert tracks_of(page)[0] == {"detections"}, "neither the annotations nor features tell a duration"
    shutil.copy(videos[1], tmp_path / "test1.npy")
    fustal("tiny", videos[1], "--page", page)
    assert tracks_of(page)[0] == {"truth", "detections", "student"}
    (tmp_path / "new").mkdir()
    shutil.copy(trained[1] / "test0.npy", tmp_path / "new" / "test0.npy")
    np.save(tmp_path / "new" / "test1.npy", np.ones((40, 6), np.float32))
    for other in ("test0", "test1"):
        fustal("tiny", tmp_path / "new" / f"{other}.npy", "--page", page)
        assert tracks_of(page)[0] <= {"detections"}, "a video that the data set has not, or not of this duration"


def test_pictures_in_the_timeline(run, videos, fustal, tmp_path):
    pytest.importorskip("av", reason="pip install '.[video]'")
    film = tmp_path / "film.mp4"
    film_of(film, seconds=8)
    fustal("tiny", videos[0], "--plot", tmp_path / "plain")
    status, out, err = fustal("tiny", videos[0], "--plot", tmp_path / "plots", "--video", film)
    assert (status, err) == (0, "")
    assert "no frames" not in out
    plain, pictured = (matplotlib.image.imread(tmp_path / name / "test0.png") for name in ("plain", "plots"))
    assert pictured.shape > plain.shape, "there is more to see"
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film")
    status, out, err = fustal("tiny", videos[0], "--plot", tmp_path / "new", "--video", broken)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {broken}: is cut off, or is no video: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_film_of_another_duration_is_doubted(run, videos, fustal, tmp_path):
    pytest.importorskip("av", reason="pip install '.[video]'")
    for seconds, doubted in ((31, False), (20, True)):
        film = tmp_path / f"{seconds}.mp4"
        film_of(film, seconds=seconds)
        out = fustal("tiny", videos[0], "--page", tmp_path / "page.html", "--video", film)[1]
        warning = f"warning: {film} lasts {seconds:.1f} s, and the features 32.0 s: are they of this video?\n"
        assert (warning in out) == doubted


def test_without_the_extra_the_timeline_has_no_pictures_and_says_so(run, videos, fustal, tmp_path, monkeypatch):
    monkeypatch.setattr(localize_output, "is_installed", lambda: False)
    (tmp_path / "film.mp4").write_bytes(b"not decoded")
    status, out, _ = fustal("tiny", videos[0], "--plot", tmp_path / "plots", "--video", tmp_path / "film.mp4")
    assert status == 0
    assert out.endswith("no frames of the video above the timeline: pip install 'fustal[video]'\n")
    assert (tmp_path / "plots" / "test0.png").exists()


# --- files of features ------------------------------------------------------------------------------------------------


def test_modalities_in_separate_files(run, videos, fustal, tmp_path):
    change(run, grid={"modalities": ["rgb", "flow"]})
    for name in videos:
        for modality, part in zip(("rgb", "flow"), np.split(np.load(name), [4], axis=1), strict=True):
            path = tmp_path / "[x]" / modality / name.split("/")[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, part)
    expected = (run / "distilled" / "detections_test.json").read_bytes()
    for given in (
        [tmp_path / "[x]" / "{modality}" / f"test{i}.npy" for i in range(2)],
        [tmp_path / "[x]" / "{modality}" / "*.npy"],
        videos,
    ):
        assert fustal("tiny", *given, "--out", tmp_path / "found.json")[0] == 0
        assert (tmp_path / "found.json").read_bytes() == expected, given


def test_names_of_videos(tmp_path):
    assert list(find_files(["a/v_-x.npy", "b.c.npy"], [])) == ["v_-x", "b.c"]
    assert find_files(["a/_v_{modality}.npy"], ["rgb", "flow"]) == {"_v": [Path("a/_v_rgb.npy"), Path("a/_v_flow.npy")]}
    assert list(find_files(["rgb/{modality}_v.npy"], ["rgb"])) == ["v"]


def test_frames_per_second_where_the_grid_takes_them_from_annotations(run, videos, fustal, tmp_path):
    change(run, grid={"fps": "annotation"})
    status, out, err = fustal("tiny", *videos)
    assert (status, out) == (2, "")
    assert err.startswith("error: fps: the run takes it from each video's annotation")
    assert err.count("\n") == 1
    assert fustal("tiny", *videos, "--fps", "2", "--out", tmp_path / "a.json")[0] == 0
    assert (tmp_path / "a.json").read_bytes() == (run / "distilled" / "detections_test.json").read_bytes()
    assert "test0, 16.0 s" in fustal("tiny", *videos, "--fps", "4")[1]
    for wrong in ("0", "-1", "nan", "inf"):
        assert fustal("tiny", *videos, "--fps", wrong)[0] == 2


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: np.save(path, np.ones((9, 5), np.float32)), "5 numbers a snippet, and run 'tiny' needs 6"),
        (lambda path: np.save(path, np.full((9, 6), np.nan, np.float32)), "NaN or infinity in snippet 0"),
        (lambda path: np.save(path, np.ones((9, 6))), "not float64"),
        (lambda path: np.save(path, np.ones(6, np.float32)), "of shape (6,)"),
        (lambda path: np.save(path, np.ones((0, 6), np.float32)), "has no snippets"),
        (lambda path: np.save(path, np.array([[{}]]), allow_pickle=True), "is not a readable .npy file"),
        (lambda path: path.write_text("no numpy"), "is not a readable .npy file"),
        (lambda path: path.mkdir(), "is not a readable .npy file"),
        (lambda path: None, "no such feature file"),
    ],
)
def test_files_that_are_not_features_of_the_run(make, message, videos, fustal, tmp_path):
    make(tmp_path / "new.npy")
    status, out, err = fustal("tiny", *videos, tmp_path / "new.npy", "--out", tmp_path / "a.json", "--plot", tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {tmp_path / 'new.npy'}: ")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("*.json")) + list(tmp_path.glob("*.png")), "nothing is written"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{0}"], "video 'test0' is given twice"),
        (["{{modality}}.npy"], "holds {modality}, and the run's features have none"),
        (["--fps", "25"], "fps 25: the run's features are of 2 frames per second"),
        (["--out", "a.txt"], "--out a.txt: ends in neither .json nor .csv"),
        (["--out", "folder.json"], "folder.json: is a folder, and a file never replaces one"),
        (["--plot", "file"], "--plot file: is a file"),
        (["--page", "a.pdf"], "error: a.pdf: must end in .html or .htm"),
        (["--page", "mine.html"], "error: mine.html: exists already, and is no page of a video: move it away"),
        (["--page", "a.html", "{1}"], "--page a.html: is for one video, and the features of 2 are given"),
        (
            ["--plot", "new", "--video", "file", "{1}"],
            "--video file: is for one video, and the features of 2 are given",
        ),
        (["--page", "a.html", "--video", "missing.mp4"], "error: missing.mp4: no such file"),
        (["--video", "file"], "--video file: nothing shows it: give --page or --plot as well"),
        (["--out", "film.csv", "--plot", "new", "--video", "film.csv"], "film.csv: is also read"),
        (["--min-score", "nan"], "--min-score nan: is not between 0 and 1"),
        (["--weights", "file"], "--weights file: is for videos, and"),
        (["--min-score", "2"], "--min-score 2.0: is not between 0 and 1"),
        (["--device", "moon"], "error: device: Input should be 'auto', 'cpu' or 'cuda'"),
        (["a\nb.npy"], "must be usable as the name of a file"),
    ],
)
def test_wrong_calls(options, message, videos, fustal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    for name in ("file", "film.csv", "mine.html"):
        (tmp_path / name).write_text("mine")
    status, out, err = fustal("tiny", videos[0], *(option.format(*videos) for option in options))
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_pattern_that_no_shell_has_expanded(run, fustal, tmp_path):
    for video in "vw":
        np.save(tmp_path / f"{video}.npy", np.ones((9, 6), np.float32))
    status, out, _ = fustal("tiny", f"{tmp_path}/*.npy")
    assert status == 0
    assert [line.split(",")[0] for line in out.splitlines() if re.match(r"[vw],", line)] == ["v", "w"]
    status, _, err = fustal("tiny", f"{tmp_path}/x*.npy")
    assert (status, err) == (2, f"error: {tmp_path}/x*.npy: there is no such file\n")


def test_patterns_that_match_no_file_or_have_two_stars(run, fustal, tmp_path):
    change(run, grid={"modalities": ["rgb", "flow"]})
    for text, message in (
        ("{modality}/*/*.npy", "holds more than one *"),
        ("{modality}/*.npy", "there is no such file"),
    ):
        status, _, err = fustal("tiny", f"{tmp_path}/{text}")
        assert (status, err) == (2, f"error: {tmp_path}/{text}: {message}\n")


def test_modalities_of_unequal_length_and_the_width_of_all(run, fustal, tmp_path):
    change(run, grid={"modalities": ["rgb", "flow"]})
    for modality, length in (("rgb", 9), ("flow", 8)):
        np.save(tmp_path / f"{modality}.v.npy", np.ones((length, 3), np.float32))
    _, _, err = fustal("tiny", tmp_path / "{modality}.v.npy")
    assert "modalities differ in length" in err
    _, _, err = fustal("tiny", tmp_path / "rgb.v.npy")
    assert "3 numbers a snippet, and run 'tiny' needs 6 (rgb, flow side by side)" in err


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"v": [[1.0], [1.0, 2.0]]}, "video 'v': features must be an array of numbers"),
        ({"v": np.array([[{}]])}, "video 'v': features must be an array of numbers"),
        ({"v": np.ones((9, 5))}, "v.npy: video 'v': 5 numbers a snippet"),
        ({"v": np.ones(6)}, "v.npy: features must be"),
        ({"v": np.full((9, 6), np.inf)}, "v.npy: video 'v': NaN or infinity"),
        ({"../v": np.ones((9, 6))}, "video '../v': the name of a video must be usable as the name of a file"),
    ],
)
def test_arrays_that_are_not_features_of_the_run(features, message, run):
    with pytest.raises(InputError) as error:
        load("tiny").localize(features)
    assert str(error.value).startswith(message), "without the path of a temporary folder"


def test_runs_that_cannot_be_used(run):
    with pytest.raises(InputError, match=r"other: no such run \(there are tiny\)"):
        load("other")
    path = run / "distilled" / "stage.json"
    record = path.read_text()
    change(run, dim=7)
    with pytest.raises(InputError, match=r"ema\.safetensors: does not fit the model"):
        load("tiny")
    change(run, dim=0)
    with pytest.raises(InputError, match=r"stage\.json: task\.dim: .*: run notebook 04_ema_distillation\.ipynb again"):
        load("tiny")
    path.write_text(json.dumps({key: value for key, value in json.loads(record).items() if key != "task"}))
    with pytest.raises(InputError, match=r"stage\.json: task: Field required: run notebook 04"):
        load("tiny")
    path.write_text(record.replace('"student_dim"', '"student_width"'))
    with pytest.raises(InputError, match=r"stage\.json: unknown parameter 'student_width'"):
        load("tiny")
    path.write_text(record)
    (run / "distilled" / "ema.safetensors").unlink()
    with pytest.raises(InputError, match=r"ema\.safetensors: no such file of weights"):
        load("tiny")
    path.unlink()
    with pytest.raises(InputError, match=r"distilled: has not finished: run notebook 04_ema_distillation\.ipynb first"):
        load("tiny")


@pytest.mark.parametrize(
    ("entries", "parameters", "message"),
    [
        ({"dim": 10**9}, {}, r"task\.dim: "),
        ({"classes": ["a"] * 20_000}, {}, r"task\.classes: "),
        ({"grid": {"stride": 10**400}}, {}, r"task\.grid\.stride: "),
        ({"grid": {"fps": 1e300}}, {}, r"task\.grid\.fps"),
        ({}, {"student_dim": 10**9}, "student_dim: "),
        ({}, {"student_mlp": 10**9}, "student_mlp: "),
        ({}, {"threads": 10**9}, "threads: "),
    ],
)
def test_sizes_in_a_record_have_limits(run, entries, parameters, message):
    change(run, **entries)
    path = run / "distilled" / "stage.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"parameters": record["parameters"] | parameters}))
    with pytest.raises(InputError, match=rf"stage\.json: {message}") as error:
        load("tiny")
    assert len(str(error.value)) < 400


# --- videos -----------------------------------------------------------------------------------------------------------


STRIPES = """
from torch import nn
from torch.nn.functional import adaptive_avg_pool1d

class Stripes(nn.Module):
    def forward(self, clips):
        parts = adaptive_avg_pool1d(clips.mean(dim=(1, 2, 3))[:, None], 18)[:, 0]
        return (parts[:, 1::3] - 100) / 30  # the middle of each stripe

def backbone():
    return lambda frame: frame.float(), Stripes()
"""
"""A backbone that reads six numbers from the grays of six stripes."""


def extraction(**changes):
    made = {"backbone": "stripes:backbone", "weights": None, "weights_file": None, "fps": 2, "stride": 1, "window": 1}
    return made | changes


@pytest.fixture
def film(run, videos, tmp_path, monkeypatch):
    """The features of test0 as a film of stripes, and a run that was trained on features of such films."""
    pytest.importorskip("av", reason="pip install '.[video]'")
    from fustal.video.rendered import write_video

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "stripes.py").write_text(STRIPES)
    grays = (100 + 30 * np.load(videos[0])).clip(0, 255).round().astype(np.uint8)
    pictures = np.broadcast_to(grays.repeat(16, axis=1)[:, None, :, None], (len(grays), 32, 96, 3))
    write_video(tmp_path / "film.mkv", pictures, 2)
    change(run, extraction=extraction())
    yield tmp_path / "film.mkv"
    sys.modules.pop("stripes", None)


def test_a_video_is_extracted_as_the_run_was_and_localised(run, videos, film, fustal, tmp_path):
    status, out, err = fustal("tiny", film, "--out", tmp_path / "found.csv")
    assert (status, err) == (0, "")
    assert out.endswith(f" in 1 of 1 videos: {tmp_path / 'found.csv'}\n")
    rows = [line.split(",") for line in (tmp_path / "found.csv").read_text().splitlines()[1:]]
    expected = load("tiny").localize({"film": np.load(videos[0])})
    best, right = max(rows, key=lambda row: float(row[2])), expected.loc[expected.score.idxmax()]
    assert fustal("tiny", film.parent, "--out", tmp_path / "folder.csv")[0] == 0
    assert (tmp_path / "folder.csv").read_bytes() == (tmp_path / "found.csv").read_bytes()
    assert best[:2] == ["film", right.label]
    np.testing.assert_allclose(
        [float(number) for number in best[2:]], right[["score", "start", "end"]].astype(float), atol=0.15
    )


@pytest.mark.parametrize(
    ("entries", "arguments", "message"),
    [
        ({"extraction": None}, (), "film.mkv: run 'tiny' was not trained on features of fustal extract"),
        (
            {"extraction": extraction(weights="ab" * 32)},
            (),
            "run 'tiny': the features were made with --weights abababababab, not none",
        ),
        ({"extraction": extraction(backbone="stripes:other")}, (), "--backbone stripes:other: AttributeError"),
        ({}, ("absent.mkv",), "absent.mkv: no such file"),
        ({}, ("test0.npy",), "test0.npy: is no video, as film.mkv is: give videos or features, not both"),
        ({"extraction": extraction(backbone="stripes:other")}, ("--fps", "25"), "fps 25: the run's features are of"),
        (
            {},
            ("--video", "film.mkv", "--plot", "plots"),
            "--video film.mkv: is for features, and film.mkv is shown itself",
        ),
    ],
)
def test_videos_that_cannot_be_extracted_as_the_run_was(run, film, fustal, tmp_path, entries, arguments, message):
    change(run, **entries)
    status, out, err = fustal("tiny", film.name, *arguments, "--out", tmp_path / "found.csv")
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "found.csv").exists()
