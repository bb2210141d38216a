"""Text files written by people: tables, lists of classes and lists of videos are read, or refused."""

import json
import re

import pytest

from fustal.data.annotations import parse_annotations
from fustal.data.text import read_video_list
from fustal.exceptions import InputError

ROWS = ["video,label,start,end", "v1,Run,1.5,2", "v2,Sit,0,3.5"]
EXPECTED = [("v1", "Run", 1.5, 2.0), ("v2", "Sit", 0.0, 3.5)]


def labels_of(path):
    _, labels, problems = parse_annotations(path)
    assert [problem for problem in problems if not problem.warning] == []
    return list(labels.itertuples(index=False, name=None))


def written(folder, rows, name="labels.csv", encoding="utf-8"):
    (folder / name).write_bytes("\n".join(rows).encode(encoding))
    return folder / name


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        [row.replace(",", ", ") for row in ROWS],
        [row.replace(",", " ,\t ") for row in ROWS],
        [f" {row} " for row in ROWS],
        [ROWS[0], *(f"{row}," for row in ROWS[1:])],
        [f"{row},," for row in ROWS],
        [*ROWS, ",,,", "", "   "],
        ["sep=,", *ROWS],
        ["sep=;", *(row.replace(",", ";") for row in ROWS)],
        ['"sep=;"', *(row.replace(",", ";") for row in ROWS)],
        ["sep=\t", *(row.replace(",", "\t") for row in ROWS)],
        [row.replace(",", "|") for row in ROWS],
        ["# from the lab", "", ROWS[0], "# training", *ROWS[1:]],
        [ROWS[0], *(re.sub(r"(Run|Sit)", r'"\1"', row) for row in ROWS[1:])],
        [ROWS[0].upper(), *ROWS[1:]],
        [f"{row}\r" for row in ROWS],
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_tables_in_several_formats(rows, encoding, tmp_path):
    assert labels_of(written(tmp_path, rows, encoding=encoding)) == EXPECTED


def test_old_line_ends(tmp_path):
    (tmp_path / "labels.csv").write_bytes("\r".join(ROWS).encode())
    assert labels_of(tmp_path / "labels.csv") == EXPECTED


def test_tabs_in_a_tsv(tmp_path):
    assert labels_of(written(tmp_path, [row.replace(",", "\t") for row in ROWS], "labels.TSV")) == EXPECTED


def test_quotes_hold_separators_and_line_ends(tmp_path):
    path = written(tmp_path, [*ROWS, '"v3", "Jump, high', 'and far", 1, 2'])
    assert labels_of(path)[2] == ("v3", "Jump, high\nand far", 1.0, 2.0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROWS[0], *(f"{i},{row}" for i, row in enumerate(ROWS[1:]))], "line 2 has 5 values for 4 columns"),
        ([*ROWS, "v3,Jump, high,1,2"], "line 4 has 5 values for 4 columns: put quotes around a value that holds ','"),
        (["video,label,label", "v1,Run,Sit"], "its first line names the column label twice"),
        (["name,class", "v1,Run"], "its first line must name the columns video and label, not name, class"),
        ([*ROWS, 'v3,"Run" fast,1,2'], "line 4: cannot be read as CSV"),
        ([*ROWS, "v3,Run\033[2J,1,2"], r"video 'v3': annotation 0: 'Run\x1b[2J' holds control characters"),
        ([*ROWS, "v\0333,Run,1,2"], r"video 'v\x1b3': the name of a video must be usable"),
        ([row.replace(",", ";").replace(".", ",") for row in ROWS], "'1,5' is not a finite number: write a point"),
    ],
)
def test_ambiguous_tables_are_refused(rows, message, tmp_path):
    try:
        _, _, problems = parse_annotations(written(tmp_path, rows))
        found = next(str(problem) for problem in problems if not problem.warning)
    except InputError as error:
        found = str(error)
    assert message in found
    assert found.startswith(str(tmp_path / "labels.csv"))
    assert "\n" not in found


@pytest.mark.parametrize(
    ("content", "message"),
    [("Größe".encode("latin-1"), "is not UTF-8 but perhaps Latin-1"), ("Größe".encode("utf-16-le"), "zero bytes")],
)
def test_other_encodings_are_named(content, message, tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"video,label\nv1," + content)
    with pytest.raises(InputError, match=message):
        parse_annotations(tmp_path / "labels.csv")


def test_a_first_line_is_never_shown_whole(tmp_path):
    (tmp_path / "labels.csv").write_text("root:x:0:0:" + "secret" * 50 + "\033[2J\n")
    with pytest.raises(InputError, match="must name the columns") as error:
        parse_annotations(tmp_path / "labels.csv")
    assert len(str(error.value)) < len(str(tmp_path)) + 200
    assert "\033" not in str(error.value)


def test_ignored_columns_cause_a_warning(tmp_path):
    _, _, problems = parse_annotations(written(tmp_path, ["video,label,t_start,note", "v1,Run,1,x"]))
    (problem,) = problems
    assert problem.warning
    assert problem.what == "the columns 't_start', 'note' are not read"


def test_spaces_around_names_in_json_are_ignored(tmp_path):
    entry = {"subset": " train", "annotations": [{"label": "Run "}, {"label": "\u00a0Run"}]}
    (tmp_path / "gt.json").write_text(json.dumps({"database": {"v1 ": entry}}), encoding="utf-8-sig")
    videos, labels, problems = parse_annotations(tmp_path / "gt.json")
    assert problems == []
    assert videos.subset.to_dict() == {"v1": "train"}
    assert set(labels.label) == {"Run"}
    (tmp_path / "gt.json").write_text(json.dumps({"database": {"v1 ": entry, "v1": entry}}))
    _, _, (problem,) = parse_annotations(tmp_path / "gt.json")
    assert str(problem).endswith("video 'v1': appears twice, with and without spaces around its name")


# --- labels that are numbers ------------------------------------------------------------------------------------------


def numbered(folder, numbers, key="label"):
    database = {f"v{i}": {"subset": "train", "annotations": [{key: n}]} for i, n in enumerate(numbers)}
    (folder / "gt.json").write_text(json.dumps({"database": database}))
    return folder / "gt.json"


@pytest.mark.parametrize(
    ("file", "lines", "numbers", "names"),
    [
        ("classes.txt", ["Run", "Sit"], [1, 0], ["Sit", "Run"]),
        ("Category.TXT", ["# mine", "Run", "", "Sit"], [1, 2], ["Run", "Sit"]),
        ("classlist.txt", ["1 Run", "7  Sit down"], [7, 1], ["Sit down", "Run"]),
        ("detclasslist.txt", ["1,Run", "2: Sit"], ["1", "2"], ["Run", "Sit"]),
        ("classes.txt", ["Run 2", "Sit 0"], [0, 2], ["Sit", "Run"]),
        ("classes.txt", ["Run,2", "Sit down,0"], [0, 2], ["Sit down", "Run"]),
        ("classes.txt", ["id name", "0 Run", "1 Sit"], [1, 0], ["Sit", "Run"]),
        ("classes.txt", ["Drive 1", "Drive 2"], [0, 1], ["Drive 1", "Drive 2"]),
        ("thumos14_classes.txt", ["\ufeffRun", "Sit"], ["0", "1.0"], ["Run", "Sit"]),
    ],
)
def test_a_list_of_classes_names_numbers(file, lines, numbers, names, tmp_path):
    (tmp_path / file).write_text("\n".join(lines), encoding="utf-8")
    _, labels, problems = parse_annotations(numbered(tmp_path, numbers))
    assert problems == []
    assert labels.label.tolist() == names


def test_label_id_alone_and_numbers_in_a_table(tmp_path):
    (tmp_path / "classes.txt").write_text("Run\nSit\n")
    assert parse_annotations(numbered(tmp_path, [1, 0], "label_id"))[1].label.tolist() == ["Sit", "Run"]
    assert [row[1] for row in labels_of(written(tmp_path, ["video,label", "v1,1.0", "v2,0"]))] == ["Sit", "Run"]


def test_numbers_without_a_list_are_one_problem_with_a_fix(tmp_path):
    _, _, (problem,) = parse_annotations(numbered(tmp_path, range(9)))
    assert (problem.what, problem.warning) == (
        "labels are numbers (0, 1, 2, ...), and no list of classes gives their names",
        False,
    )
    assert "classes.txt" in problem.fix
    _, labels, (problem,) = parse_annotations(written(tmp_path, ["video,label", "v1,1", "v2,0"]))
    assert problem.warning, "in a table they may be names"
    assert labels.label.tolist() == ["1", "0"]


@pytest.mark.parametrize(
    ("lines", "numbers", "message"),
    [
        (["Run", "Sit", "Jump"], [1, 2], r"labels, 1 to 2, may begin with 0 or with 1"),
        (["Run", "0 Sit", "Jump"], [0, 1], "some lines hold a number and a name, and others do not"),
    ],
)
def test_a_list_of_classes_that_could_mean_two_things_is_refused(lines, numbers, message, tmp_path):
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        parse_annotations(numbered(tmp_path, numbers))


def test_values_that_are_written_differently_are_the_same(tmp_path):
    rows = ["video,label,split,duration", "v1,Run,train,45.480", "v1,Sit,Train,45.48", "v2,Run,test,9"]
    videos, _, problems = parse_annotations(written(tmp_path, rows))
    assert problems == []
    assert videos.duration.tolist() == [45.48, 9.0]
    assert videos.subset.tolist() == ["train", "test"], "a column called split is the subset"


def test_a_list_of_classes_that_does_not_fit(tmp_path):
    (tmp_path / "classes.txt").write_text("0 Run\n1 Sit\n")
    _, _, (problem,) = parse_annotations(numbered(tmp_path, [0, 2]))
    assert problem.what == "labels are numbers, and the list of classes has no name for 2"
    (tmp_path / "classes.txt").write_text("Run\nRun\n")
    with pytest.raises(InputError, match=r"classes\.txt: holds a number or a name twice"):
        parse_annotations(numbered(tmp_path, [0, 1]))
    (tmp_path / "category.txt").write_text("Run\nSit\n")
    with pytest.raises(InputError, match=r"several lists of classes \(category\.txt, classes\.txt\)"):
        parse_annotations(numbered(tmp_path, [0, 1]))


def test_names_are_not_looked_up(tmp_path):
    (tmp_path / "classes.txt").write_text("Run\nSit\n")
    assert parse_annotations(numbered(tmp_path, ["Jump", "1"]))[1].label.tolist() == ["Jump", "1"]


# --- lists of videos --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text",
    [
        "v1\nv 2.x\n",
        "\r\n  v1 \r\n\r\nv 2.x\t\r\n",
        "# my list\nv1.npy\nv 2.x.mp4\n",
        "videos/v1.avi\nC:\\videos\\v 2.x.MP4\n",
        "v1 3 train\nv 2.x\n",
        "v1,Run\nv 2.x\n",
        "v1\nv1\nv 2.x",
    ],
)
def test_lists_of_videos_in_several_formats(text, encoding, tmp_path):
    (tmp_path / "train.txt").write_bytes(text.encode(encoding))
    assert read_video_list(tmp_path / "train.txt", {"v1", "v 2.x"}) == ["v1", "v 2.x"]


@pytest.mark.parametrize("text", ["v1,v2,v3", "v1 v2\nv3", "v1; v2 ;v3.npy"])
def test_a_line_may_name_several_videos(text, tmp_path):
    (tmp_path / "train.txt").write_text(text)
    assert read_video_list(tmp_path / "train.txt", {"v1", "v2", "v3"}) == ["v1", "v2", "v3"]
    (tmp_path / "train.txt").write_text("v1 v2 v4")
    with pytest.raises(InputError, match=r"train\.txt: line 1 names several videos, and 'v4', which is not a video"):
        read_video_list(tmp_path / "train.txt", {"v1", "v2", "v3"})


def test_unknown_names_stay_and_two_lines_of_one_video_are_refused(tmp_path):
    (tmp_path / "train.txt").write_text("new 3\na/other.mp4\nv.1\n#tag\n")
    assert read_video_list(tmp_path / "train.txt", {"#tag"}) == ["new 3", "other", "v.1", "#tag"]
    (tmp_path / "train.txt").write_text("a/v1.mp4\nb/v1.mp4\n")
    with pytest.raises(InputError, match=r"train\.txt: lines 1 and 2 stand for the same video, 'v1': keep one"):
        read_video_list(tmp_path / "train.txt", {"v1"})
