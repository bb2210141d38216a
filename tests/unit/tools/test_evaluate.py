"""`fustal evaluate`: what it counts, ignores and refuses, with the message for each."""

import json
import sys

import pytest

from fustal.data.annotations import read_annotations
from fustal.data.files import read_json
from fustal.data.results import read_results
from fustal.exceptions import InputError
from fustal.tools.cli import main

HIT = {"label": "Run", "score": 0.5, "segment": [0, 10]}
TRUTH = {
    "a": {"subset": "test", "annotations": [{"label": "Run", "segment": [0, 10]}]},
    "b": {"subset": "test", "annotations": [{"label": "Run", "segment": [0, 10]}]},
    "c": {"subset": "train", "annotations": [{"label": "Jump", "segment": [0, 10]}]},
}


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Evaluates some results against some annotations: exit status, lines of both streams."""

    def evaluate(results, database, *options):
        for value, name in (({"results": results}, "found.json"), ({"database": database}, "gt.json")):
            (tmp_path / name).write_text(json.dumps(value))
        return on_files("found.json", "gt.json", *options)

    def on_files(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["fustal", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out.splitlines(), err.splitlines()

    evaluate.on_files = on_files
    return evaluate


def map_of(lines, tiou="0.5"):
    found = [line for line in lines if line.split()[:2] == ["mAP", tiou]]
    assert len(found) == 1
    return float(found[0].split()[-1])


def with_score(score, **changes):
    return HIT | {"score": score} | changes


# --- videos and labels without ground truth ---------------------------------------------------------------------------


def test_detections_in_other_videos_are_false_positives_or_left_out(call):
    """A published file has a video without annotations; other files have training videos."""
    results = {"a": [with_score(0.5)], "z": [with_score(0.9), with_score(0.8)], "c": [with_score(0.7)], "y": []}
    status, out, err = call(results, TRUTH)
    assert (status, map_of(out)) == (0, 12.5), "one of two actions, at rank 4"
    message = "found.json: videos that are not in subset 'test' of gt.json: 2, 'z', 'c'; detections "
    assert err == [f"{message}counted as false positives, as by the field's evaluators (see --known-only): 3"]
    status, out, err = call(results, TRUTH, "--known-only")
    assert (status, map_of(out)) == (0, 50)
    assert err == [f"{message}ignored: 3"]


def test_published_detections_with_a_video_that_has_no_ground_truth(call, shared):
    """The case of the field's own files: 210 videos of ground truth, and detections in one more."""
    folder = shared / "thumos14"
    database = read_json(folder / "gt.json")["database"]
    results = read_json(folder / "detections_test_crnet.json")["results"]
    one = max(results, key=lambda video: len(results[video]))
    without = {video: entry for video, entry in database.items() if video != one}
    others = {video: items for video, items in results.items() if video != one}
    _, left_out, _ = call(others, without)
    _, known, _ = call(results, without, "--known-only")
    _, counted, err = call(results, without)
    assert known == left_out
    assert map_of(counted, "0.3") < map_of(known, "0.3")
    assert err[0].endswith(f": {len(results[one])}")


def test_labels_that_no_true_segment_has(call):
    results = {"a": [HIT, HIT | {"label": "run"}, HIT | {"label": "Swim"}, HIT | {"label": "Jump"}, HIT]}
    status, out, err = call(results, TRUTH)
    assert (status, map_of(out)) == (0, 50)
    assert out[0] == "found.json, 2 detections, on gt.json, subset test: 2 videos, 2 segments"
    assert err == [
        "found.json: labels that no true segment has: 3, 'run' (did you mean 'Run'?), 'Swim', 'Jump'; "
        "detections not counted: 3"
    ]
    results = {"a": [HIT | {"label": f"x{i}\x1b[31m"} for i in range(9)]}
    status, out, err = call(results, TRUTH)
    assert (status, map_of(out)) == (0, 0)
    assert err == [
        "found.json: labels that no true segment has: 9, 'x0\\x1b[31m', 'x1\\x1b[31m', 'x2\\x1b[31m', …; "
        "detections not counted: 9"
    ]


def test_spaces_around_names_are_ignored(call):
    status, out, err = call({" a": [HIT | {"label": " Run "}]}, TRUTH)
    assert (status, map_of(out), err) == (0, 50, [])


def test_a_class_that_videos_have_without_segments(call):
    database = TRUTH | {"d": {"subset": "test", "annotations": [{"label": "Swim"}]}}
    status, out, err = call({"a": [HIT], "d": [HIT | {"label": "Swim"}]}, database)
    assert (status, map_of(out)) == (0, 50)
    assert err == ["found.json: labels that no true segment has: 1, 'Swim'; detections not counted: 1"]


@pytest.mark.parametrize(("items", "known"), [([], "no label"), ([{"label": "Run"}] * 2, "2 labels without a segment")])
def test_nothing_to_measure(call, items, known):
    database = {"a": {"subset": "testing", "annotations": items}, "b": TRUTH["b"]}
    assert call({"a": [HIT]}, database, "--subset", "Testing") == (
        2,
        [],
        [f"error: gt.json: subset 'Testing' has no true segments, so nothing can be measured (1 videos, {known})"],
    )


def test_no_detections(call):
    status, out, err = call({}, TRUTH)
    assert (status, map_of(out), err) == (0, 0, [])
    assert call({"a": [], "b": []}, TRUTH) == (status, out, err)


# --- true segments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subset", ["test", "train"])
def test_true_segments_of_no_length_are_skipped(call, subset):
    none = [{"label": "Run", "segment": segment} for segment in ([0, 0], ["7.5", "7.5"], [9, 3])]
    status, out, err = call({"a": [HIT]}, TRUTH | {"d": {"subset": subset, "annotations": none}})
    assert (status, map_of(out)) == (0, 50)
    assert out[0].endswith("2 segments")
    what = "segments that do not end after they begin: 3, the first [0, 0]; skipped, their labels are kept"
    assert err == [f"gt.json: video 'd': {what}"]


@pytest.mark.parametrize(
    "entry",
    [
        {"annotations": [{"label": "Run", "segment": ["x", 4]}]},
        {"annotations": [{"label": "Run", "segment": [4]}]},
        {"annotations": [{"segment": [1, 4]}]},
        {"annotations": 7},
    ],
)
def test_problems_of_other_subsets_do_not_matter(call, entry):
    database = TRUTH | {"d": entry | {"subset": "train"}}
    status, out, err = call({"a": [HIT]}, database)
    assert (status, map_of(out)) == (0, 50)
    assert err == ["gt.json: problems in other subsets: 1; they do not matter here"]
    status, out, err = call({"a": [HIT]}, database, "--subset", "train")
    assert (status, out, len(err)) == (2, [], 1)
    assert "gt.json: video 'd" in err[0]


def test_the_form_of_activitynet(call):
    """Three subsets, a taxonomy, testing videos without annotations."""
    database = {
        "v1": {"subset": "training", "duration": 9.5, "resolution": "320x240", "url": "", "annotations": []},
        "v2": {"subset": "validation", "duration": 9, "annotations": TRUTH["a"]["annotations"]},
        "v3": {"subset": "testing", "duration": 9, "annotations": []},
    }
    status, out, err = call({"v2": [HIT]}, database, "--subset", "validation", "--tiou", "0.5:0.05:0.95")
    assert (status, out[-1].split(), err) == (0, ["mAP", "average", "0.5:0.95", "100.00"], [])
    status, _, err = call({"v2": [HIT]}, database)
    assert status == 2
    assert err == [
        "error: gt.json: no video of subset 'test' "
        "(there are ['testing', 'training', 'validation']: did you mean 'testing'?)"
    ]


# --- ground truth that the field's evaluators take --------------------------------------------------------------------


PAIR = {"a": ["Run", "Jump"], "b": ["Run"]}
NUMBERS = {"Run": "0", "Jump": "1"}


def truth_of(form, **changes):
    """Two videos with the labels of `PAIR`, each in the form that `form` gives it."""
    entries = {}
    for video, labels in PAIR.items():
        items = [{"label": form(label), "segment": [0, 10]} for label in labels]
        entries[video] = {"subset": "test", "annotations": items} | changes
    return entries


def found_of(form):
    found = {}
    for video, labels in PAIR.items():
        found[video] = [HIT | {"label": form(label)} for label in labels]
    return found


FORMS_OF_NUMBERS = {
    "text": NUMBERS.get,
    "integer": lambda label: int(NUMBERS[label]),
    "float": lambda label: float(NUMBERS[label]),
    "text of a table": lambda label: f"{NUMBERS[label]}.0",
}


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("found", FORMS_OF_NUMBERS)
@pytest.mark.parametrize("true", FORMS_OF_NUMBERS)
def test_labels_that_are_numbers(call, tmp_path, true, found, listed):
    """A list of classes beside the truth names the numbers of both files; without one a number is its text."""
    if listed:
        (tmp_path / "classes.txt").write_text("Run\nJump\n")
    truth, results = truth_of(FORMS_OF_NUMBERS[true]), found_of(FORMS_OF_NUMBERS[found])
    status, out, err = call(results, truth, "--per-class")
    assert (status, map_of(out)) == (0, 100)
    assert [line.split()[0] for line in out[-2:]] == (["Jump", "Run"] if listed else ["0", "1"])
    message = "gt.json: labels are numbers (0, 1), and no list of classes gives their names"
    assert err == ([] if listed else [message])


def test_a_label_that_is_a_name_stays(call, tmp_path):
    """Names in the results of numbered truth; and a list that makes the text of one number the name of another."""
    (tmp_path / "classes.txt").write_text("Run\nJump\n")
    status, out, err = call(found_of(str), truth_of(NUMBERS.get))
    assert (status, map_of(out), err) == (0, 100, [])
    (tmp_path / "classes.txt").write_text("0 1\n1 0\n")
    other = {"Run": "1", "Jump": "0"}
    status, out, err = call(found_of(other.get), truth_of(NUMBERS.get))
    assert (status, map_of(out), err) == (0, 100, [])


def test_numbers_beside_names(call):
    """No list of classes is read, as not all labels are numbers."""
    form = {"Run": "Run", "Jump": 1}
    status, out, err = call(found_of({"Run": "Run", "Jump": "1"}.get), truth_of(form.get))
    assert (status, map_of(out), err) == (0, 100, [])


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"classes.txt": "0 Run\n"}, "the list of classes has no name for 1"),
        ({"classes.txt": "Run\nRun\n"}, "holds a number or a name twice"),
        ({"classes.txt": "Run\nJump\n", "category.txt": "Run\nJump\n"}, "holds several lists of classes"),
    ],
)
def test_a_list_of_classes_that_cannot_be_used(call, tmp_path, lists, message):
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    status, out, err = call(found_of(NUMBERS.get), truth_of(NUMBERS.get))
    assert (status, map_of(out), len(err)) == (0, 100, 1)
    assert message in err[0]


def test_numbers_of_a_table(call, tmp_path):
    (tmp_path / "gt.csv").write_text("video,label,start,end\na,1.0,0,10\na,2.0,0,10\nb,1.0,0,10\n")
    (tmp_path / "found.json").write_text(json.dumps({"results": found_of({"Run": "1", "Jump": "2"}.get)}))
    status, out, err = call.on_files("found.json", "gt.csv")
    assert (status, map_of(out), len(err)) == (0, 100, 1)


@pytest.mark.parametrize("name", ["train/x", "x" * 300, "x\ny", "..", "C:\\x", "ü" * 150])
def test_videos_that_cannot_be_files(call, name):
    status, out, err = call({name: [HIT], "b": [HIT]}, {name: TRUTH["a"], "b": TRUTH["b"]})
    assert (status, map_of(out), err) == (0, 100, [])


@pytest.mark.parametrize("key", ["duration", "fps"])
@pytest.mark.parametrize("value", [None, 0, -1, "", "0:10", "25/1", [10], {}])
def test_entries_that_no_evaluator_reads(call, key, value):
    status, out, err = call(found_of(str), truth_of(str, **{key: value}))
    assert (status, map_of(out), err) == (0, 100, [])


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ([-0.5, 10], "segments that begin before 0: 2, the first [-0.5, 10]; measured as they are"),
        ([0, 10, 7], "segments of more than two values: 2, the first [0, 10, 7]; the first two are read"),
    ],
)
def test_true_segments_as_the_field_reads_them(call, segment, message):
    entry = {"subset": "test", "annotations": [{"label": "Run", "segment": segment}]}
    detection = HIT | {"segment": segment[:2]}
    status, out, err = call({"a": [detection], "b": [detection]}, {"a": entry, "b": entry}, "--tiou", "1")
    assert (status, map_of(out, "1"), err) == (0, 100, [f"gt.json: video 'a': {message}"])


@pytest.mark.parametrize("segment", [[0, 10, 3], ["0", "10", None], [0, 10, "x", []]])
def test_detections_of_more_than_two_values(call, segment):
    results = {"a": [HIT | {"segment": segment}], "b": [HIT]}
    status, out, err = call(results, TRUTH)
    assert (status, map_of(out)) == (0, 100)
    assert err == ["found.json: segments of more than two values: 1; the first two are read"]


@pytest.mark.parametrize("value", [None, 1, "", ["test"], "missing"])
def test_videos_without_the_name_of_a_subset(call, value):
    entry = {"annotations": TRUTH["a"]["annotations"]} | ({} if value == "missing" else {"subset": value})
    status, out, err = call({"a": [HIT], "b": [HIT]}, TRUTH | {"d": entry, "e": entry})
    assert (status, map_of(out), len(err)) == (0, 100, 1)
    assert err[0].startswith("gt.json: videos without the name of a subset: 2, the first 'd' (")
    assert err[0].endswith("); not measured")
    status, out, err = call({"a": [HIT]}, {"a": entry})
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: gt.json: videos without the name of a subset: 1, the first 'a' (")


def test_repeated_true_segments(call):
    """ActivityNet's toolkit counts both: one of the two is missed."""
    twice = {"subset": "test", "annotations": TRUTH["a"]["annotations"] * 2}
    status, out, err = call({"a": [HIT], "b": [HIT]}, TRUTH | {"a": twice})
    assert status == 0
    assert map_of(out) == pytest.approx(200 / 3, abs=0.01)
    what = "each counts, as in ActivityNet's toolkit; OpenTAD counts them once"
    assert err == [f"gt.json: true segments that repeat another one: 1; {what}"]


def test_names_that_differ_in_spaces_only(call):
    """In the results `a` and `a ` are two videos, and the second has no ground truth; likewise in the truth."""
    results = {"a": [with_score(0.5)], "a ": [with_score(0.9)], "b": [with_score(0.8)]}
    status, out, err = call(results, TRUTH)
    assert status == 0
    assert map_of(out) == pytest.approx(200 / 3, abs=0.01), "right at ranks 2 and 3, interpolated"
    assert len(err) == 1
    assert "videos that are not in subset 'test' of gt.json: 1, 'a '; detections counted" in err[0]
    status, out, err = call(results, TRUTH | {"a ": TRUTH["a"]})
    assert (status, map_of(out), err) == (0, 100, [])


def test_readers_for_training_are_strict(tmp_path):
    """Files that `fustal evaluate` measures may be invalid for training."""
    for change in ({"fps": 0}, {"annotations": [{"label": "Run", "segment": [-1, 4]}]}, {"subset": None}):
        (tmp_path / "gt.json").write_text(json.dumps({"database": TRUTH | {"d": TRUTH["a"] | change}}))
        with pytest.raises(InputError):
            read_annotations(tmp_path / "gt.json")
    for results in ({"a": [HIT | {"label": 0}]}, {"a": [HIT | {"segment": [0, 1, 2]}]}, {"a/b": [HIT]}):
        (tmp_path / "a.json").write_text(json.dumps({"results": results}))
        with pytest.raises(InputError):
            read_results(tmp_path / "a.json")


# --- detections as the field writes them ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "item",
    [
        with_score("0.93"),
        with_score(7),
        with_score(-1e300),
        with_score(0.5, segment=["0", "10.0"]),
        with_score(0.5, segment=[-0.5, 10]),
        with_score(0.5, more={"a": [1]}),
    ],
)
def test_numbers_of_any_kind(call, item):
    status, out, err = call({"a": [item]}, TRUTH)
    assert (status, map_of(out), err) == (0, 50, [])


def test_reversed_segments_are_false_positives(call):
    results = {"a": [with_score(0.9, segment=[10, 0]), with_score(0.8, segment=[5, 5]), with_score(0.7)]}
    status, out, err = call(results, TRUTH)
    assert status == 0
    assert map_of(out) == pytest.approx(100 / 3 / 2, abs=0.01)
    assert err == ["found.json: detections that end before they begin: 1; they are false positives"]


def test_any_text_can_name_a_video(call):
    status, out, err = call({"a": [HIT], "train/x.mp4": [], "b\nc": [HIT]}, TRUTH)
    assert (status, map_of(out), len(err)) == (0, 50, 1)
    assert "1, 'b\\nc'; detections counted" in err[0]


# --- tables -----------------------------------------------------------------------------------------------------------


def test_evaluating_tables(call, tmp_path):
    (tmp_path / "found.csv").write_text("video,label,score,start,end\n001,NA,0.5,0,10\n")
    (tmp_path / "gt.csv").write_text("video,label,start,end\n001,NA,0,10\n1,NA,0,10\n")
    status, out, err = call.on_files("found.csv", "gt.csv")
    assert (status, map_of(out), err) == (0, 50, [])
    assert out[0] == "found.csv, 1 detections, on gt.csv, subset all: 2 videos, 2 segments"


FORMS = "is neither an ActivityNet result file (JSON) nor a CSV whose first line names the columns "
FORMS += "video, label, score, start, end"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "video_test_0000004 1.2 3.4 7 0.93\n", FORMS),
        ("a.csv", "", FORMS),
        ("a.csv", "video,label,start,end\na,Run,1,2\n", FORMS),
        ("a.csv", "video,label,score,start,end\na,Run,0.5,1\n", "line 2: 4 values for 5 columns"),
        ("a.csv", "video,label,score,start,end\na,Run,0.5,1,2,3\n", "line 2: 6 values for 5 columns"),
        ("a.csv", "video,label,score,start,end\na,Run,,1,2\n", "video 'a': '' is not a finite number"),
        ("a.csv", "video,label,score,start,end\na,,0.5,1,2\n", "video 'a': '' is not a name"),
        ("a.csv", "video,label,score,start,end\na,Run,0.5,1,inf\n", "video 'a': 'inf' is not a finite number"),
        ("a.csv", 'video,label,score,start,end\na,"Run"x,0.5,1,2\n', "line 2: cannot be read as CSV: "),
        ("a.csv", "video,label,score,start,end\na,Run,0,5,1,2\n", "line 2: 6 values for 5 columns"),
        ("a.csv", "video,label,score,start,end,Label\n", "its first line names the column label twice"),
        ("a.csv", "# mine\n\nvideo,label,score,start,end\n\na,Run,0.5,1\n", "line 5: 4 values for 5 columns"),
        ("a.csv", '{"database": {}}', "has no 'results' object: it holds annotations"),
        ("a.json", "video,label,score,start,end\n", "cannot be read as JSON"),
    ],
)
def test_broken_tables(call, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    (tmp_path / "gt.json").write_text(json.dumps({"database": TRUTH}))
    status, out, err = call.on_files(name, "gt.json")
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith(f"error: {name}: {message}")


# --- what is printed and written --------------------------------------------------------------------------------------


def test_per_class(call, tmp_path):
    jumps = [{"label": "High jump", "segment": [0, 9]}, {"label": "High jump", "segment": [1, 9]}]
    database = TRUTH | {"d": {"subset": "test", "annotations": jumps}}
    options = ["--per-class", "--tiou", "0.5,1", "--json", "out.json", "--subset", "TEST"]
    status, out, _ = call({"a": [HIT, HIT]}, database, *options)
    assert status == 0
    assert out[4:] == [
        "class          0.5       1 average  segments  detections",
        "High jump     0.00    0.00    0.00         2           0",
        "Run          50.00   50.00   50.00         2           2",
    ]
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "subset": "TEST",
        "videos": 3,
        "segments": 4,
        "detections": 2,
        "mAP": {"0.5": 0.25, "1": 0.25, "0.5:1": 0.25},
        "AP": {"High jump": {"0.5": 0.0, "1": 0.0}, "Run": {"0.5": 0.5, "1": 0.5}},
        "notes": [],
    }


@pytest.mark.parametrize("out", ["found.json", "gt.json", "./link.json", "twin.json"])
def test_an_input_is_not_replaced(call, tmp_path, out):
    call({"a": [HIT]}, TRUTH)
    (tmp_path / "link.json").symlink_to("found.json")
    (tmp_path / "twin.json").hardlink_to(tmp_path / "gt.json")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    status, printed, err = call.on_files("found.json", "gt.json", "--json", out)
    assert (status, printed, len(err)) == (2, [], 1)
    assert err[0].startswith(f"error: {out.removeprefix('./')}: is also read, as ")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
