"""Results for other programs: each form is read back by another library; names and labels may be malicious."""

import html
import json
import sys

import numpy as np
import pandas as pd
import pysubs2
import pytest

from fustal.data.results import RESULT_COLUMNS, read_results, write_results
from fustal.exceptions import InputError
from fustal.tools import export
from fustal.tools.cli import main
from fustal.tools.export import FORMS, NOT_IN_SRT, TIME_POINT, choose, cues

HARMFUL = [
    "<script>alert(1)</script>",
    "a --> b & c &lt;",
    "{\\an8}up",
    "Push\\New",
    "1\n\n2\n00:00:00,000 --> 00:00:09,000\nthere",
    "carriage\rreturn\u2028line",
    'quote"s, and; commas',
    "=1+1",
    "NA",
    "007",
]


def found(*rows):
    return pd.DataFrame(rows, columns=RESULT_COLUMNS).astype({"score": float, "start": float, "end": float})


@pytest.fixture
def source(tmp_path):
    """Writes rows of detections and returns the name of the file."""

    def write(*rows):
        write_results(found(*rows), tmp_path / "found.json")
        return str(tmp_path / "found.json")

    return write


@pytest.fixture
def some(source):
    return source(("v", "Run", 0.9, 5, 8), ("w", "Jump", 0.1, 0, 1), ("v", "Jump", 0.2, 1, 2), ("v", "Run", 0.5, 1, 3))


def subtitles(path):
    """Subtitles as another library reads them: start and end in milliseconds, text as a player shows it."""
    rows = []
    for cue in pysubs2.load(str(path), encoding="utf-8", keep_html_tags=True):
        text = html.unescape(cue.text) if path.suffix == ".vtt" else cue.text
        rows.append((cue.start, cue.end, text))
    return rows


# --- what is chosen ---------------------------------------------------------------------------------------------------


def test_tables_get_all_detections_and_subtitles_those_above_a_score(some, tmp_path):
    line = export.export(some, tmp_path / "a.csv")
    assert line == "4 of 4 detections in 2 videos"
    line = export.export(some, tmp_path / "vtt", "vtt")
    assert line == "3 of 4 detections in 1 videos of score 0.2 or more"
    assert [path.name for path in (tmp_path / "vtt").iterdir()] == ["v.vtt"], "no file without a subtitle"


def test_minimum_score_and_the_best_of_each_video(some):
    results = read_results(some)
    assert choose(results, 0.5).score.tolist() == [0.9, 0.5]
    assert sorted(choose(results, top=1).score) == [0.1, 0.9]
    assert choose(results.assign(score=1.0), top=2).groupby("video").size().to_dict() == {"v": 2, "w": 1}, (
        "ties count, too"
    )
    assert choose(results[:0], 0.5, 3).empty


# --- the forms --------------------------------------------------------------------------------------------------------


def test_activitynet(some, tmp_path):
    export.export(some, tmp_path / "a.json")
    written = json.loads((tmp_path / "a.json").read_text())
    assert list(written) == ["version", "results", "external_data"]
    assert written["version"] == "VERSION 1.3"
    assert written["external_data"] == {}
    assert written["results"]["w"] == [{"label": "Jump", "score": 0.1, "segment": [0.0, 1.0]}]
    pd.testing.assert_frame_equal(
        read_results(tmp_path / "a.json").sort_values(RESULT_COLUMNS, ignore_index=True),
        read_results(some).sort_values(RESULT_COLUMNS, ignore_index=True),
    )


def test_csv_with_malicious_labels_is_read_back_unchanged(source, tmp_path):
    random = np.random.default_rng(0)
    rows = []
    for label in HARMFUL:
        score = random.random()
        start, end = np.sort(9000 * random.random(2))
        rows.append(("v,\"' ünï", label, score, start, end))
    export.export(source(*rows), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[0] == "video,label,score,start,end"
    back = pd.read_csv(tmp_path / "a.csv", dtype={"label": str}, keep_default_na=False)
    pd.testing.assert_frame_equal(back, read_results(tmp_path / "found.json"))


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles_in_the_order_of_time(some, tmp_path, form):
    export.export(some, tmp_path / form, form)
    assert subtitles(tmp_path / form / f"v.{form}") == [
        (1000, 2000, "Jump 20 %"),
        (1000, 3000, "Run 50 %"),
        (5000, 8000, "Run 90 %"),
    ]


def test_the_whole_text_of_both_forms():
    one = found(("v", "Run & <b>", 0.934, 3661.0004, 36000.9996))
    assert cues(one, "srt") == "1\n01:01:01,000 --> 10:00:01,000\nRun & ‹b› 93 %\n"
    assert cues(one, "vtt") == "WEBVTT\n\n1\n01:01:01.000 --> 10:00:01.000\nRun &amp; &lt;b&gt; 93 %\n"


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_a_subtitle_lasts_at_least_a_tenth_of_a_second(source, tmp_path, form):
    export.export(source(("v", "Blink", 1.0, 7, 7), ("v", "Blink", 1.0, 8, 8.0001)), tmp_path / form, form)
    assert [cue[:2] for cue in subtitles(tmp_path / form / f"v.{form}")] == [(7000, 7100), (8000, 8100)]


@pytest.mark.parametrize("label", HARMFUL)
def test_no_label_becomes_markup_or_another_cue(source, tmp_path, label):
    name = source(("v", label, 0.5, 1, 2), ("v", "after", 0.5, 3, 4))
    for form in ("srt", "vtt"):
        export.export(name, tmp_path / form, form)
    plain = " ".join(label.split()) + " 50 %"
    text = (tmp_path / "vtt" / "v.vtt").read_text(encoding="utf-8")
    cue = text.split("\n\n")[1].split("\n")
    assert cue[:2] == ["1", "00:00:01.000 --> 00:00:02.000"]
    assert len(cue) == 3
    assert html.unescape(cue[2]) == plain
    assert "<" not in text
    assert text.count("-->") == 2
    assert subtitles(tmp_path / "srt" / "v.srt") == [
        (1000, 2000, TIME_POINT.sub("∶", plain.translate(NOT_IN_SRT))),
        (3000, 4000, "after 50 %"),
    ]
    assert not set("<{\\") & set((tmp_path / "srt" / "v.srt").read_text(encoding="utf-8"))


@pytest.mark.parametrize("form", FORMS)
def test_no_results_at_all(source, tmp_path, form):
    out = tmp_path / "out"
    assert export.export(source(), out, form).startswith("0 of 0 detections in 0 videos")
    if form in ("srt", "vtt"):
        assert list(out.iterdir()) == []
    elif form == "csv":
        assert pd.read_csv(out).columns.tolist() == RESULT_COLUMNS
    else:
        assert read_results(out).empty


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("video", ["../x", "/etc/x", "..", "", "a/b", "a\\b", "a\0b", "a\nb", "x" * 300, "\ud800"])
@pytest.mark.parametrize("form", FORMS)
def test_names_that_leave_the_folder_are_refused(tmp_path, video, form):
    results = {"fine": [], video: [{"label": "Run", "score": 1, "segment": [0, 1]}]}
    (tmp_path / "found.json").write_text(json.dumps({"results": results}))
    with pytest.raises(InputError, match=r"found\.json: video .*must be usable as the name of a file") as error:
        export.export(str(tmp_path / "found.json"), tmp_path / "below" / "out", form)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["found.json"]


def test_a_label_that_no_file_can_hold(tmp_path):
    results = {"v": [{"label": "\ud800", "score": 1, "segment": [0, 1]}]}
    (tmp_path / "found.json").write_text(json.dumps({"results": results}))
    with pytest.raises(InputError, match=r"found\.json: video 'v': '\\ud800' is not a name"):
        export.export(str(tmp_path / "found.json"), tmp_path / "a.csv")


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_times_too_late_for_subtitles(source, tmp_path, form):
    with pytest.raises(InputError, match=r"video 'v': 'Run' ends at 1e\+308 s: subtitles end at 360000 s"):
        export.export(source(("v", "Run", 1, 0, 1), ("v", "Run", 1, 0, 1e308)), tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("out", "to", "message"),
    [
        (
            "a.txt",
            None,
            r"a\.txt: ends in neither \.json nor \.csv: give the form by --to \(there are activitynet, csv",
        ),
        ("folder", None, r"folder: ends in neither"),
        ("a.csv", "mp4", r"--to mp4: no such form"),
        ("taken", "csv", r"taken: is a folder, and a file never replaces one: give another name"),
        ("taken", "srt", r"taken: exists already: subtitles need a new or an empty folder"),
        ("taken/mine.srt", "srt", r"mine\.srt: exists already"),
    ],
)
def test_outputs_that_cannot_be_written(some, tmp_path, out, to, message):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.srt").write_text("by hand")
    with pytest.raises(InputError, match=message):
        export.export(some, tmp_path / out, to)
    assert (tmp_path / "taken" / "mine.srt").read_text() == "by hand"


def test_the_source_is_not_replaced(some, tmp_path):
    before = (tmp_path / "found.json").read_bytes()
    with pytest.raises(InputError, match=r"found\.json: is also read, as .*, and would be replaced"):
        export.export(some, tmp_path / "found.json", top=1)
    assert (tmp_path / "found.json").read_bytes() == before


def test_a_score_that_is_not_a_number(some, tmp_path):
    with pytest.raises(InputError, match="--min-score nan: is not a number"):
        export.export(some, tmp_path / "a.csv", min_score=float("nan"))


def test_an_error_in_the_middle_leaves_no_file(some, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "cues", lambda part, form: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export.export(some, tmp_path / "out", "srt")
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_exports_the_detections_of_a_run(some, tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fustal", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capsys.readouterr()

    monkeypatch.setattr("fustal.data.names.OUTPUTS", tmp_path)
    (tmp_path / "tiny" / "distilled").mkdir(parents=True)
    (tmp_path / "tiny" / "distilled" / "detections_test.json").write_bytes((tmp_path / "found.json").read_bytes())
    assert call("tiny", tmp_path / "a.csv", "--top", 1, "--min-score", 0.3) == (
        0,
        f"1 of 4 detections in 1 videos of score 0.3 or more, at most 1 a video: {tmp_path / 'a.csv'}\n",
        "",
    )
    assert pd.read_csv(tmp_path / "a.csv").values.tolist() == [["v", "Run", 0.9, 5.0, 8.0]]
    (tmp_path / "half" / "selection").mkdir(parents=True)
    assert call("half", tmp_path / "b.csv") == (
        2,
        "",
        f"error: {tmp_path / 'half' / 'distilled' / 'detections_test.json'}: no such file\n",
    )
    assert call("none", tmp_path / "b.csv") == (
        2,
        "",
        f"error: none: no such result file; {tmp_path / 'none'}: no such run (there are tiny)\n",
    )


TABLE = [
    ("001", "NA", 0.5, 0.0, 10.0),
    ("001", "nan", 0.4, 1.0, 2.0),
    ("1", "1", 0.25, 0.0, 1e-7),
    ("NA", "a,b", 1, 2, 3),
]


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.txt", "detections"])
def test_a_table_of_export_is_read_back(tmp_path, name):
    frame = pd.DataFrame(TABLE, columns=RESULT_COLUMNS).astype({"score": float, "start": float, "end": float})
    write_results(frame, tmp_path / "a.json")
    export.export(str(tmp_path / "a.json"), tmp_path / name, "csv")
    pd.testing.assert_frame_equal(read_results(tmp_path / name), read_results(tmp_path / "a.json"))
