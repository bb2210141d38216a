"""A data set with faults: each is listed, with file, video and value."""

import json

import numpy as np
import pytest
import yaml

from fustal import InputError
from fustal.validation import problems_of, summary

GRIDS = {
    "generator": {"pattern": "slow/{video}.npy", "fps": 10, "stride": 10, "window": 10},
    "student": {
        "pattern": "fast/{modality}/{video}.npy",
        "modalities": ["x", "y"],
        "fps": 10,
        "stride": 5,
        "window": 10,
    },
}


@pytest.fixture
def make(tmp_path):
    """Writes a card, annotations of four videos and all their features; `data` is the folder."""
    data = tmp_path / "data"

    def write(*, grids=None, train_split=None, **entries):
        both = [{"label": "Run", "segment": [1, 4]}, {"label": "Sit", "segment": ["5", "12.5"]}]
        database = {
            name: {
                "subset": "train" if name < "c" else "test",
                "duration": 12,
                "annotations": both[:count],
            }
            for name, count in (("a", 2), ("b", 1), ("c", 2), ("d", 2))
        }
        (data).mkdir(exist_ok=True)
        (data / "gt.json").write_text(json.dumps({"database": database | entries}))
        for video in database:
            for folder, length, dim in (("slow", 12, 3), ("fast/x", 23, 2), ("fast/y", 23, 4)):
                (data / folder).mkdir(parents=True, exist_ok=True)
                np.save(data / folder / f"{video}.npy", np.ones((length, dim), np.float32))
        card = {"name": "tiny", "root": "data", "annotations": "gt.json", "grids": grids or GRIDS}
        card |= {"train_split": train_split} if train_split else {}
        (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
        return str(tmp_path / "card.yaml")

    write.data = data
    return write


def test_a_good_data_set_has_no_problems(make):
    dataset, problems = problems_of(make())
    assert problems == []
    assert summary(dataset) == "2 training and 2 test videos, 2 classes, 7 segments"


def test_every_problem_is_listed_at_once(make):
    card, data = make(), make.data
    (data / "slow" / "a.npy").unlink()
    np.save(data / "slow" / "b.npy", np.ones((12, 7), np.float32))
    np.save(data / "fast" / "x" / "b.npy", np.ones((22, 2), np.float32))
    broken = np.ones((23, 4), np.float32)
    broken[6, 3] = np.nan
    np.save(data / "fast" / "y" / "c.npy", broken)
    (data / "fast" / "x" / "d.npy").write_bytes(b"\x93NUMPY")
    _, problems = problems_of(card)
    expected = [
        ("slow/a.npy", "video 'a': no such feature file"),
        ("slow/b.npy", "video 'b': 7 numbers a snippet where others have 3"),
        ("fast/x/b.npy", "video 'b': modalities differ in length: x 22, y 23"),
        ("fast/x/c.npy", "video 'c': NaN or infinity in snippet 6"),
        ("fast/x/d.npy", "video 'd': is not a readable .npy file"),
    ]
    assert len(problems) == len(expected), problems
    for problem, (file, says) in zip(problems, expected, strict=True):
        assert str(problem).startswith(f"{data.resolve() / file}: {says}"), problem
        assert problem.mend
        assert not problem.warning
        assert "\n" not in str(problem)


def test_problems_of_annotations_and_segments(make):
    card = make(
        b={"subset": "train", "duration": 12, "annotations": []},
        c={"subset": "test", "duration": 12, "annotations": [{"label": "Run", "segment": [3, 99]}]},
        d={
            "subset": "test",
            "annotations": [{"label": "Run", "segment": [-1, 1]}, {"label": "Fly", "segment": [0, 1]}],
        },
        e={"subset": "test", "duration": "long"},
    )
    dataset, problems = problems_of(card)
    where = make.data.resolve() / "gt.json"
    assert [str(problem) for problem in problems if not problem.warning] == [
        f"{where}: video 'd': annotation 0: segment [-1, 1] must have 0 <= start < end",
        f"{where}: video 'e': duration 'long' is not a finite number",
    ]
    assert [str(problem) for problem in problems if problem.warning] == [
        f"{where}: video 'b': a training video without a label",
        f"{where}: class 'Fly' has no training video",
        f"{where}: video 'c': segment [3.0, 99.0] ends after the video (12.0 s)",
    ]
    assert "2 training and 2 test videos" in summary(dataset)


def test_segments_that_last_no_time_are_passed_over(make):
    """Their labels are of the video; the line names the first and says how many."""
    none = {"subset": "test", "annotations": [{"label": "Run", "segment": [0, 0]}, {"label": "Fly", "segment": [3, 1]}]}
    dataset, problems = problems_of(make(c=none))
    what = "segments that do not end after they begin: 2, the first [0, 0]; passed over, their labels stay known"
    assert [str(p) for p in problems if "segments" in p.what] == [f"{dataset.annotations}: video 'c': {what}"]
    assert all(problem.warning for problem in problems)
    assert "c" not in set(dataset.segments.video)
    assert set(dataset.video_labels[dataset.video_labels.video == "c"].label) == {"Run", "Fly"}


def test_a_segment_may_end_a_little_after_the_video(make):
    late = {"subset": "test", "duration": 12, "annotations": [{"label": "Run", "segment": [3, 13.01]}]}
    _, problems = problems_of(make(c=late))
    assert len(problems) == 1
    late["annotations"][0]["segment"][1] = 13
    assert problems_of(make(c=late))[1] == []


def test_a_missing_fps_is_found(make):
    grids = GRIDS | {"generator": GRIDS["generator"] | {"fps": "annotation"}}
    _, problems = problems_of(
        make(
            grids=grids,
            a={
                "subset": "train",
                "fps": 25,
                "annotations": [{"label": "Run", "segment": [1, 4]}, {"label": "Sit", "segment": [1, 4]}],
            },
        )
    )
    assert [str(problem).split(": ", 1)[1] for problem in problems] == [
        f"video {video!r}: has no fps, and the card takes it from there" for video in "bcd"
    ]


def test_one_grid_is_checked_once(make):
    card = make(grids={"generator": GRIDS["generator"]})
    (make.data / "slow" / "a.npy").unlink()
    assert len(problems_of(card)[1]) == 1


def test_unknown_names_in_a_split(make):
    make()
    (make.data / "train.txt").write_text("a\nb\nzebra\n")
    _, problems = problems_of(make(train_split="train.txt"))
    assert [str(problem) for problem in problems] == [
        f"{make.data.resolve()}/train.txt: video 'zebra': is not in subset 'train'"
    ]


def test_without_a_card_or_annotations_there_is_nothing_to_check(make, tmp_path):
    with pytest.raises(InputError, match="no such data-set card"):
        problems_of(str(tmp_path / "nothing.yaml"))
    card = make()
    (make.data / "gt.json").unlink()
    with pytest.raises(InputError, match=r"gt\.json: no such file"):
        problems_of(card)


def test_what_is_odd_may_follow_from_what_is_wrong_and_is_not_told_before_it_is_mended(make):
    _, problems = problems_of(make(b={"subset": "train", "annotations": [{"segment": [1, 4]}]}))
    (problem,) = problems
    assert str(problem).endswith("gt.json: video 'b': annotation 0: 'label' is missing")
    assert problem.mend == "say what happens, by the name of a class"
