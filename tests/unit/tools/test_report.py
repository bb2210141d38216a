"""The page of a run: what it shows of whole and of partial runs made by hand, and that no name becomes markup."""

import json
import sys

import pandas as pd
import pytest
import yaml

from fustal.data.files import digest
from fustal.data.results import RESULT_COLUMNS, write_results
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.runs.chain import CHAIN
from fustal.tools import report
from fustal.tools.cli import main
from tests.html_page import Page

SCRIPT, IMAGE = "<script>alert(1)</script>", '"><img src=x onerror=alert(2)>'
METRICS = {
    "run": "tiny",
    "mAP": {"distilled": {"0.5": 41.25, "0.1:0.7": 50.0}, "generator": {"0.5": 20.0, "0.1:0.7": 30.0}},
    "labels": {"pseudo labels": {"precision at 0.5": 25.0, "recall at 0.5": 60.0, "f1 at 0.5": 35.3, "labels": 40}},
}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a data set of two training and two test videos, and a run on it; returns the folder of the run."""
    monkeypatch.setattr("fustal.data.names.OUTPUTS", tmp_path / "outputs")

    def write(
        run="tiny", stages=tuple(CHAIN), classes=("Jump", "Run"), prefix="", about="", card="card", true=True, **values
    ):
        videos = {}
        for subset in ("train", "test"):
            videos[f"{prefix}{subset}0"] = subset
            videos[f"{prefix}{subset}1"] = subset
        rows = []
        for video in videos:
            rows += [(video, name, 5.0 * k, 5.0 * k + 2) for k, name in enumerate(classes)]
        database = {video: {"subset": subset, "duration": 30.0} for video, subset in videos.items()}
        for video, entry in database.items():
            known = [{"label": label, "segment": [s, e]} for name, label, s, e in rows if name == video]
            entry["annotations"] = known if true or entry["subset"] == "train" else []
        (tmp_path / "gt.json").write_text(json.dumps({"database": database}))
        grids = {"student": {"pattern": "{video}.npy", "fps": 2.0, "stride": 1, "window": 1}}
        about = {"name": "tiny", "about": about, "root": str(tmp_path), "annotations": "gt.json", "grids": grids}
        (tmp_path / f"{card}.yaml").write_text(yaml.safe_dump(about))

        folder = tmp_path / "outputs" / run
        results = pd.DataFrame([(v, n, 0.9, s, e) for v, n, s, e in rows], columns=RESULT_COLUMNS)
        parameters = Params().of(Params) | {"run": "tiny", "dataset": str(tmp_path / f"{card}.yaml")} | values
        for name in stages:
            (folder / name).mkdir(parents=True)
            (folder / name / "started.json").write_text("{}")
            for item in CHAIN[name].outputs:
                (folder / item).write_text("weights")
                if item.endswith(".json"):
                    subset = "test" if "test" in item else "train"
                    write_results(results[results.video.map(videos) == subset], folder / item)
            if name in ("generator", "student", "distilled"):
                (folder / name / "log.csv").write_text("step,loss,mil\n0,2.5,1\n1,0.5,0.75\n")
            if name == "evaluation":
                (folder / name / "metrics.json").write_text(json.dumps(METRICS))
            (folder / "notebooks").mkdir(exist_ok=True)
            (folder / "notebooks" / CHAIN[name].notebook).write_text("{}")
            record = {
                "stage": name,
                "parameters": parameters,
                "inputs": {item: digest(folder / item) for item in CHAIN[name].inputs if (folder / item).exists()},
                "outputs": {item: digest(folder / item) for item in CHAIN[name].outputs},
                "seconds": 12.34,
                "provenance": {"date": "2026-01-02T03:04:05Z", "git_commit": "c0ffee", "packages": {"torch": "9.8.7"}},
            }
            (folder / name / "stage.json").write_text(json.dumps(record))
        return folder

    return write


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are made, but not drawn: drawing takes most of the time."""
    monkeypatch.setattr(report.viz, "as_source", lambda figure, **_: "data:image/png;base64,AAAA")


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def read(name="tiny"):
    return Page(report.report(name).read_text(encoding="utf-8"))


# --- a whole run ------------------------------------------------------------------------------------------------------


def test_the_page_of_a_whole_run(make, undrawn):
    folder = make(about="Made by hand.", seed=7, student_lr=0.5)
    page = read()
    assert report.report("tiny") == folder / "report.html"
    assert [element["text"] for element in page.all("h1")] == ["tiny"]
    assert "with seed 7 and the corrected recipe. Made by hand." in page.text

    stages = page.cells("Stages of the run")
    assert [row[0] for row in stages[1:]] == list(CHAIN)
    assert stages[1][1:] == ["01_generator_training.ipynb", "2026-01-02 03:04:05 UTC", "12.3", ""]
    links = [element["href"] for element in page.all("a") if "table" in element["in"]]
    assert links == [f"notebooks/{stage.notebook}" for stage in CHAIN.values()]
    assert all((folder / link).exists() for link in links)

    assert page.cells("mAP in percent") == [
        ["stage", "0.5", "0.1:0.7"],
        ["generator", "20.0", "30.0"],
        ["distilled student", "41.2", "50.0"],
    ]
    assert page.cells("Quality of the labels")[1] == ["pseudo labels", "25.0", "60.0", "35.3", "40"]
    counts = [["class", "pseudo labels", "teacher", "distilled"], *([name, *"222"] for name in ("Jump", "Run"))]
    assert page.cells("Number of labels of each class") == counts
    assert "on 2 test videos with 4 segments" in page.text

    changed = {row[0]: row[1:3] for row in page.cells("Changed from the default")[1:]}
    assert {name: value for name, value in changed.items() if name not in ("run", "dataset")} == {
        "seed": ["7", "0"],
        "student_lr": ["0.5", "0.001"],
    }
    unchanged = [row[0] for row in page.cells("Default values")[1:]]
    assert len(unchanged) + len(changed) == len(Params.model_fields)
    assert ["torch", "9.8.7"] in page.cells("Code, versions")
    assert ["git_commit", "c0ffee"] in page.cells("Code, versions"), "in one row, as it is the same in all stages"


def test_the_figures_of_a_whole_run(make, undrawn):
    make()
    captions = [element["text"] for element in read().all("figcaption")]
    beginnings = [
        "mAP at each tIoU",
        "Precision over recall",
        "Average precision of each class",
        "Kinds of errors",
        "mAP by length",
        "Quality of the labels",
        "Training: generator",
        "Training: student on",
        "Training: dist",
        "test0",
        "test1",
    ]
    for caption, beginning in zip(captions, beginnings, strict=True):
        assert caption.startswith(beginning)


def test_the_page_is_one_accessible_file(make):
    make()
    text = report.report("tiny").read_text(encoding="utf-8")
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert page.all("html")[0]["lang"] == "en"
    assert {"width=device-width, initial-scale=1"} == {m["content"] for m in page.all("meta") if m.get("name")}
    assert not page.all("script") + page.all("link") + page.all("iframe")
    style = page.all("style")[0]["text"]
    assert "url(" not in style
    assert "@import" not in style
    for element in page.elements:
        assert not str(element.get("href", "")).startswith(("http", "//", "/")), "a relative link"
        assert element["tag"] != "img" or element["src"].startswith("data:image/png;base64,iVBOR")
    assert "http" not in text.replace("http-equiv", "")
    assert all(len(image["alt"]) > 20 and "figure" in image["in"] for image in page.all("img"))
    assert len(page.all("img")) == len(page.all("figure")) == len(page.all("figcaption")) == 11
    assert len(page.all("table")) == len(page.all("caption")) == 7
    assert all("scope" in element for element in page.all("th"))
    names = [element["id"] for element in page.elements if "id" in element]
    assert len(names) == len(set(names))
    assert {e["href"][1:] for e in page.all("a") if e["href"].startswith("#")} == set(names)


def test_the_same_run_gives_the_same_page(make, undrawn, tmp_path):
    make()
    first = report.report("tiny")
    second = report.report("tiny", tmp_path / "outputs" / "tiny" / "b.html")
    assert first.read_bytes() == second.read_bytes()


def test_links_are_relative_to_the_page(make, undrawn, tmp_path):
    make(run="a run#1")
    path = report.report("a run#1", tmp_path / "elsewhere" / "page.html")
    links = [element["href"] for element in Page(path.read_text()).all("a") if "table" in element["in"]]
    assert links[0] == "../outputs/a%20run%231/notebooks/01_generator_training.ipynb"


# --- partial runs -----------------------------------------------------------------------------------------------------


def test_a_run_of_two_stages(make, undrawn):
    folder = make(stages=("generator", "selection"))
    (folder / "student").mkdir()
    (folder / "student" / "started.json").write_text("{}")
    (folder / "student" / "detections_test.json").write_text("of another student")
    page = read()
    assert [row[4] for row in page.cells("Stages of the run")[1:]] == ["", "", *["has not finished"] * 3]
    mean_ap = page.cells("mAP in percent")
    assert mean_ap[0][1:] == [*(f"0.{i}" for i in range(1, 8)), "0.1:0.5", "0.3:0.7", "0.1:0.7"]
    assert mean_ap[1:] == [["generator", *["100.0"] * 10]], "measured here, as notebook 05 has not run"
    labels = page.cells("Quality of the labels")
    assert [row[:4] for row in labels[1:]] == [[name, *["100.0"] * 3] for name in ("proposals", "pseudo labels")]
    assert len([c for c in page.all("figcaption") if c["text"].startswith("Training")]) == 1
    assert any("true segments 2, generator 2." in image["alt"] for image in page.all("img"))


def test_proposals_of_another_method_and_the_filter_alone(make, undrawn):
    folder = make(stages=("generator", "selection"))
    for name in ("stage.json", "started.json", "log.csv"):
        (folder / "generator" / name).unlink()
    page = read()
    assert page.cells("Stages of the run")[1][4] == "has not finished"
    assert [row[0] for row in page.cells("mAP in percent")[1:]] == ["generator"]
    assert "No training has finished." in page.text


def test_test_videos_without_true_segments(make, undrawn):
    folder = make(true=False, stages=("generator", "selection", "student", "distilled"))
    page = read()
    assert "The test videos have no true segments: there is no mAP." in page.text
    assert not any("mAP in percent" in table["text"] for table in page.all("table"))
    assert [row[0] for row in page.cells("Quality of the labels")[1:]] == [
        *("proposals", "pseudo labels", "teacher", "distilled")
    ]
    shown = [image["alt"] for image in page.all("img") if "by stage" in image["alt"]]
    assert shown == ["Segments of one video of 30 s by stage: generator 2, student 2, distilled 2."] * 2
    assert folder.name == "tiny"


def test_a_missing_data_set(make, undrawn, tmp_path):
    make()
    (tmp_path / "gt.json").unlink()
    page = read()
    assert "The data set cannot be read here" in page.text
    assert str(tmp_path) not in page.text.replace(str(tmp_path / "card.yaml"), ""), "no path of this machine"
    assert page.cells("mAP in percent")[1] == ["generator", "20.0", "30.0"]
    assert any("by stage: generator 2, student 2, distilled 2." in image["alt"] for image in page.all("img"))


def test_changed_files_are_reported(make, undrawn):
    folder = make()
    write_results(pd.DataFrame(columns=RESULT_COLUMNS), folder / "selection" / "pseudo_labels.json")
    change(folder / "generator" / "stage.json", taken_from="other", provenance={"git_commit": "decade"})
    page = read()
    notes = {row[0]: row[4] for row in page.cells("Stages of the run")[1:]}
    changed = "selection/pseudo_labels.json has changed since"
    assert notes == {
        "generator": "taken from other",
        "selection": changed,
        "student": changed,
        "distilled": changed,
        "evaluation": changed,
    }
    commits = [row[1] for row in page.cells("Code, versions") if row[0] == "git_commit"]
    assert len(commits) == 1
    assert commits[0].startswith("generator: decade; selection: c0ffee; ")


def test_a_stage_before_that_has_been_started_again_is_reported(make, undrawn):
    folder = make()
    (folder / "student" / "started.json").write_text("{}")
    (folder / "student" / "stage.json").unlink()
    notes = {row[0]: row[4] for row in read().cells("Stages of the run")[1:]}
    again = "has read student, which has been started again since"
    assert notes == {
        "generator": "",
        "selection": "",
        "student": "has not finished",
        "distilled": again,
        "evaluation": again,
    }


def test_parameters_of_another_version(make, undrawn):
    folder = make()
    for path in folder.glob("*/stage.json"):
        known = json.loads(path.read_text())["parameters"]
        change(path, parameters={k: v for k, v in known.items() if k != "mil_weight"} | {"future": 3})
    rows = read().cells("Changed from the default")
    assert ["future", "3", "", "not a parameter of this version"] in rows


def test_a_class_that_loses_its_labels_is_named(make, undrawn):
    folder = make()
    rows = [("train0", "Run", 0.9, float(i), i + 0.5) for i in range(20)]
    for number, name in zip(
        (20, 15, 1), ("selection/pseudo_labels", "distilled/labels_before", "distilled/labels_train"), strict=True
    ):
        write_results(pd.DataFrame(rows[:number], columns=RESULT_COLUMNS), folder / f"{name}.json")
    page = read()
    assert page.cells("Number of labels of each class")[1] == ["Run", "20", "15", "1"]
    warning = "After distillation 1 of 1 classes lost nearly all labels, lower label_share"
    assert warning in page.text


# --- no name becomes markup -------------------------------------------------------------------------------------------


def test_no_name_becomes_an_element(make):
    classes = [SCRIPT, IMAGE, "$x^{$", "_hidden", "日本", "a\nb"]
    folder = make(
        run=IMAGE,
        classes=classes,
        prefix=IMAGE,
        about=SCRIPT + IMAGE + "{{ 7 * 7 }}",
        card=IMAGE,
        **{SCRIPT: IMAGE, IMAGE: [SCRIPT]},
    )
    for path in folder.glob("*/stage.json"):
        facts = {"date": SCRIPT, IMAGE: SCRIPT, "packages": {SCRIPT: IMAGE}}
        change(path, taken_from=SCRIPT, provenance=facts)
    measures = {SCRIPT: 1.0, IMAGE: 2.0}
    change(folder / "evaluation" / "stage.json", outputs={SCRIPT + IMAGE: "0"})
    (folder / "evaluation" / "metrics.json").write_text(
        json.dumps({"mAP": {SCRIPT: {"0.5": 3.0}, IMAGE: {"0.5": 3.0}}, "labels": {SCRIPT: measures | {"labels": 3}}})
    )
    (folder / "student" / "log.csv").write_text(
        f'step,loss,{SCRIPT},"{IMAGE.replace(chr(34), chr(34) * 2)}"\n0,1,2,3\n'
    )

    page = read(IMAGE)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img src=x" not in text
    known = {"tag", "in", "text", "lang", "charset", "name", "content", "http-equiv", "class", "id", "href", "src"}
    known |= {"alt", "scope", "role", "tabindex", "aria-label", "aria-labelledby"}
    for element in page.elements:
        assert set(element) <= known, element
        assert element.get("href", "#").startswith(("#", "notebooks/"))
    assert not page.all("script")
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")

    assert page.all("h1")[0]["text"] == IMAGE, "the name is shown unchanged"
    assert SCRIPT + IMAGE + "{{ 7 * 7 }}" in page.text
    assert f"taken from {SCRIPT}" in page.text
    assert f"{SCRIPT + IMAGE} has changed since" in page.text
    captions = [element["text"] for element in page.all("figcaption")]
    assert captions[-2:] == [f"{IMAGE}test0", f"{IMAGE}test1"]
    alts = " ".join(image["alt"] for image in page.all("img"))
    assert SCRIPT in alts
    assert IMAGE in alts
    rows = page.cells("Changed from the default")
    assert [SCRIPT, IMAGE, "", "not a parameter of this version"] in rows
    assert [IMAGE, f"['{SCRIPT}']", "", "not a parameter of this version"] in rows
    assert [SCRIPT, IMAGE] in page.cells("Code, versions")


# --- errors -----------------------------------------------------------------------------------------------------------


def test_runs_without_a_finished_stage(make, capsys, monkeypatch):
    folder = make(stages=("generator",))
    (folder.parent / "begun" / "generator").mkdir(parents=True)
    lines = {
        "nothing": f"error: {folder.parent / 'nothing'}: no such run (there are tiny)\n",
        "begun": f"error: {folder.parent / 'begun'}: has not finished any stage\n",
    }
    for name, line in lines.items():
        monkeypatch.setattr(sys, "argv", ["fustal", "report", name])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        assert capsys.readouterr() == ("", line)
    assert not list(folder.parent.rglob("*.html"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("student/stage.json", "{}", r"student/stage\.json: parameters: Field required"),
        ("student/stage.json", "[1]", r"student/stage\.json: must hold a JSON object"),
        ("evaluation/metrics.json", '{"mAP": {"a": {"0.5": "high"}}}', r"metrics\.json: mAP\.a\.0\.5: Input should be"),
        ("evaluation/metrics.json", '{"mAP": [1]}', r"metrics\.json: mAP: Input should be a valid dict"),
        ("evaluation/metrics.json", '{"mAP": {"a": {"<b>": 1}}}', r"metrics\.json: mAP\.a\.<b>"),
        ("evaluation/metrics.json", '{"labels": {"a": {"f1": 1e999}}}', r"labels\.a\.f1: Input should be a finite"),
        ("student/log.csv", "step,loss\n0,low\n", r"log\.csv: cannot be read as the log of a training: could not"),
        ("student/log.csv", "step,loss\n0,1\n1,2,3,4\n", r"log\.csv: cannot be read as the log of a training: Error"),
        ("student/log.csv", "", r"log\.csv: cannot be read as the log"),
        ("student/log.csv", "loss\n1\n", r"log\.csv: has no column 'step'"),
        ("student/detections_test.json", '{"results": {"who": []}}', r"video 'who' is not in the data set"),
    ],
)
def test_broken_files_in_a_run(make, undrawn, file, content, message):
    folder = make()
    (folder / file).write_text(content)
    with pytest.raises(InputError, match=message) as error:
        report.report("tiny")
    assert "\n" not in str(error.value)
    assert not (folder / "report.html").exists()


def test_parameters_out_of_range(make):
    folder = make(seed=-1)
    with pytest.raises(InputError, match=r"evaluation/stage\.json: seed: Input should be greater"):
        report.report("tiny")
    assert not (folder / "report.html").exists()


def test_a_page_does_not_replace_a_folder(make, undrawn, tmp_path):
    make()
    (tmp_path / "mine.html").mkdir()
    with pytest.raises(InputError, match=r"mine\.html: is a folder, and a file never replaces one"):
        report.report("tiny", tmp_path / "mine.html")
    assert (tmp_path / "mine.html").is_dir()


@pytest.mark.parametrize("name", ["page.pdf", "page", "page.html.gz"])
def test_the_name_of_a_page_must_end_in_html(make, undrawn, tmp_path, name):
    make()
    with pytest.raises(InputError, match=f"--out .*{name}: must end in .html or .htm"):
        report.report("tiny", tmp_path / name)
    assert not (tmp_path / name).exists()


def test_the_command(make, undrawn, tmp_path, monkeypatch, capsys):
    make()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fustal", "report", "tiny", "--out", "page.html"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert capsys.readouterr() == ("tiny: page.html\n", "")
    assert Page((tmp_path / "page.html").read_text()).all("h1")[0]["text"] == "tiny"
