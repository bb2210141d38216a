"""Equal problems are one line with a count and the first examples."""

from pathlib import Path

from fustal.data.problems import grouped
from fustal.exceptions import Problem

FILE = Path("gt.json")


def lines(problems):
    return [str(problem) for problem in grouped(problems)]


def test_many_equal_ones_are_one_with_a_count_and_three_examples():
    problems = [Problem(FILE, "a training video without a label", f"v{i}", "add one", True) for i in range(402)]
    (one,) = grouped(problems)
    assert str(one) == "gt.json: 402 videos ('v0', 'v1', 'v2', ...): a training video without a label"
    assert (one.warning, one.fix, one.video) == (True, "add one", None)


def test_problems_are_grouped_by_warning_and_file_but_not_by_values():
    late = [Problem(FILE, f"segment [{i}.5, 99] ends after 'x{i}'", "v", warning=True) for i in range(4)]
    wrong = [Problem(FILE, "segment [1, 99] ends after 'x'", "v")]
    other = [Problem(Path("other.json"), "segment [1, 99] ends after 'x'", "v", warning=True)]
    assert lines([*late, *wrong, *other]) == [
        "gt.json: 4 times in 1 video ('v'): segment [0.5, 99] ends after 'x0', and similar ones",
        "gt.json: video 'v': segment [1, 99] ends after 'x'",
        "other.json: video 'v': segment [1, 99] ends after 'x'",
    ]


def test_problems_of_feature_files_are_grouped_by_their_pattern():
    problems = [Problem(Path(f"rgb/{v}_x.npy"), "no such feature file", v) for v in "abcd"]
    problems.append(Problem(Path("flow/a_x.npy"), "no such feature file", "a"))
    assert lines(problems) == [
        "rgb/{video}_x.npy: 4 videos ('a', 'b', 'c', ...): no such feature file",
        "flow/a_x.npy: video 'a': no such feature file",
    ]


def test_problems_of_no_video_name_some_of_their_values():
    problems = [Problem(FILE, f"class '{name}' has no training video") for name in "ABCDE"]
    assert lines(problems) == ["gt.json: class 'A' has no training video; 4 more like it, such as 'B', 'C'"]


def test_up_to_three_problems_are_not_grouped():
    assert len(lines([Problem(FILE, "empty", v) for v in "abc"])) == 3
    assert len(lines([Problem(FILE, "empty", v) for v in "abcd"])) == 1


def test_no_problems():
    assert grouped([]) == []
