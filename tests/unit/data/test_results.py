"""Result files, JSON and CSV: written, read back, and read as other programs write them."""

import numpy as np
import pandas as pd
import pytest

from fustal.data import results as results_module
from fustal.data.annotations import SEGMENT_COLUMNS
from fustal.data.files import read_json
from fustal.data.results import as_labels, read_results, write_results

HIT = {"label": "Run", "score": 0.5, "segment": [0, 10]}

COLUMNS = "video,label,score,start,end\n"


def test_results_survive_a_round_trip(tmp_path):
    results = pd.DataFrame(
        {"video": ["a", "b"], "label": ["Run", "Sit"], "score": [0.5, 1.0], "start": [0.0, 2.0], "end": [1.25, 3.0]}
    )
    write_results(results, tmp_path / "r.json")
    pd.testing.assert_frame_equal(read_results(tmp_path / "r.json"), results)
    write_results(results[:0], tmp_path / "r.json")
    assert read_results(tmp_path / "r.json").empty


def test_true_segments_as_labels():
    segments = pd.DataFrame([("b", "Run", 0.0, 3.5)], columns=SEGMENT_COLUMNS)
    assert as_labels(segments).values.tolist() == [["b", "Run", 1.0, 0.0, 3.5]]


def test_reading_in_bulk_and_one_by_one_gives_the_same(tmp_path):
    random = np.random.default_rng(0)
    count = 500
    table = {"video": random.choice(["a", "b", "c"], count), "label": random.choice(["Run", "Jump"], count)}
    frame = pd.DataFrame(table).assign(score=random.random(count).round(3), start=random.integers(0, 9, count))
    write_results(frame.assign(end=frame.start + 1.5), tmp_path / "a.json")
    results = read_json(tmp_path / "a.json")["results"]
    one_by_one = results_module._one_by_one(results, tmp_path, None, False)
    pd.testing.assert_frame_equal(read_results(tmp_path / "a.json"), one_by_one)
    pd.testing.assert_frame_equal(results_module._in_bulk(results), one_by_one)


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_other_programs(tmp_path, mark, end, separator):
    lines = ["End,Start, Label,note,VIDEO,score", "10,0,Run,,001,.5", "", "3,1,Sit,x,v,1e-3"]
    text = mark + end.join(lines).replace(",", separator)
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    assert read_results(tmp_path / "a.csv").values.tolist() == [["001", "Run", 0.5, 0, 10], ["v", "Sit", 1e-3, 1, 3]]


@pytest.mark.parametrize(
    "text",
    [
        'video, label, score, start, end\na, "Run", 0.5, 0, 10\n',
        "sep=;\n" + f"{COLUMNS}a,Run,0.5,0,10\n".replace(",", ";"),
        f"# mine, of today\n\n# {COLUMNS}{COLUMNS}a,Run,0.5,0,10\n# the end\n",
        f",,,,\n{COLUMNS},,,,\na,Run,0.5,0,10\n   \n , ,,,\n",
        f"{COLUMNS}a,Run,0.5,0,10\n".replace(",", "|"),
        f"{COLUMNS}a,Run,0.5,0,10,, \n",
        f"{COLUMNS} a ,Run,0.5,0,10\n".replace("\n", "\r"),
    ],
)
def test_a_table_of_results_is_read_like_one_of_labels(tmp_path, text):
    (tmp_path / "a.csv").write_text(text, newline="")
    assert read_results(tmp_path / "a.csv").values.tolist() == [["a", "Run", 0.5, 0, 10]]


def test_the_name_of_a_video_may_begin_like_a_comment(tmp_path):
    (tmp_path / "a.csv").write_text(f"{COLUMNS}#1,Run,0.5,0,10\n")
    assert read_results(tmp_path / "a.csv").video.tolist() == ["#1"]
