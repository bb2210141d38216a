"""Problems of a data set: each is listed with file, video and value."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from fustal.data.cards import inspect_dataset, load_dataset
from fustal.exceptions import InputError
from fustal.tools.own_data.validation import annotation_problems, problems_of, show, summary

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
        database = {}
        for name in "abcd":
            subset = "train" if name in "ab" else "test"
            annotations = both[:1] if name == "b" else both
            database[name] = {"subset": subset, "duration": 12, "annotations": annotations}
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
    for problem, (file, what) in zip(problems, expected, strict=True):
        assert str(problem).startswith(f"{data.resolve() / file}: {what}"), problem
        assert problem.fix
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


def test_segments_without_duration_are_ignored(make):
    """Their labels belong to the video; the message gives the first segment and the number."""
    none = {"subset": "test", "annotations": [{"label": "Run", "segment": [0, 0]}, {"label": "Fly", "segment": [3, 1]}]}
    dataset, problems = problems_of(make(c=none))
    what = "segments that do not end after they begin: 2, the first [0, 0]; skipped, their labels are kept"
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


def test_warnings_about_a_video_with_an_error_are_left_out(make):
    _, problems = problems_of(make(b={"subset": "train", "annotations": [{"segment": [1, 4]}]}))
    (problem,) = problems
    assert str(problem).endswith("gt.json: video 'b': annotation 0: 'label' is missing")
    assert problem.fix == "give the name of a class"


# --- warnings ---------------------------------------------------------------------------------------------------------


def warned(make, database, **card):
    """Warnings of a data set with this database, without those about its features."""
    path = make(**database)
    if card:
        text = yaml.safe_load(Path(path).read_text())
        Path(path).write_text(yaml.safe_dump(text | card))
    dataset, problems = problems_of(path)
    return dataset, [str(p).split(": ", 1)[1] for p in problems if p.warning and p.file.suffix in (".json", ".yaml")]


def entry(*annotations, duration=12):
    items = [{"label": label} | ({"segment": list(segment)} if segment else {}) for label, *segment in annotations]
    return {"subset": "train", "duration": duration, "annotations": items}


@pytest.mark.parametrize(
    "pair", [("Run", "run"), ("Golf Swing", "Golf_Swing"), ("a-b", "ab"), ("Caf\u00e9", "Cafe\u0301")]
)
def test_classes_that_are_nearly_the_same(make, pair):
    _, warnings = warned(
        make, {"a": entry((pair[0],), ("Sit",)), "b": entry((pair[1],), ("Run fast",)), "c": entry(("Run",))}
    )
    (line,) = [line for line in warnings if "differ only in" in line]
    assert " and ".join(map(ascii if "Caf" in pair[0] else repr, sorted(pair))) in line


def test_classes_that_differ(make):
    _, warnings = warned(make, {"a": entry(("Run",), ("Sit",)), "b": entry(("Runs",), ("C",)), "e": entry(("C++",))})
    assert not [line for line in warnings if "differ only in" in line]


@pytest.mark.parametrize("label", ["Ambiguous", "ambiguous ", "BACKGROUND", "no action"])
def test_labels_that_are_no_classes(make, label):
    database = {"a": entry((label, 1, 2), ("Run", 3, 4)), "b": entry(("Sit", 1, 2))}
    dataset, warnings = warned(make, database)
    assert label.strip() in dataset.classes
    assert f"{label.strip()!r} is treated as a class" in warnings
    dataset, warnings = warned(make, database, ignored_labels=[label.strip()])
    assert label.strip() not in dataset.classes
    assert label.strip() not in set(dataset.segments.label)
    assert f"ignored_labels: 1 annotation of {label.strip()!r} left out" in warnings


def test_an_ignored_label_that_nothing_has(make):
    _, warnings = warned(make, {}, ignored_labels=["Ambigous"])
    assert "ignored_labels: no annotations of 'Ambigous' left out" in warnings


def test_actions_that_are_annotated_twice(make):
    twice = entry(("Run", 1, 4), ("Run", 1, 4), ("Run", 5, 9), ("Run", 5.05, 9.1), ("Sit", 1, 4), ("Run", 8, 11))
    _, warnings = warned(make, {"a": twice})
    (line,) = [line for line in warnings if "repeat" in line]
    assert line == "2 of 11 segments repeat another one, 1 of them exactly, such as 'Run' at [1, 4] in 'a'"
    _, warnings = warned(make, {})
    assert not [line for line in warnings if "repeat" in line]


def test_a_class_that_nearly_all_training_videos_have(make):
    def labels(i):
        return [("Person",)] * (i != 3) + [("Run",)] * (i % 2)

    _, warnings = warned(make, {f"t{i}": entry(*labels(i)) for i in range(20)})
    assert "class 'Person' is in 19 of 22 labelled training videos" not in warnings, "86 %"
    many = {f"t{i}": entry(*labels(i)) for i in range(40)}
    _, warnings = warned(make, many)
    assert "class 'Person' is in 39 of 42 labelled training videos" in warnings


def test_classes_that_always_occur_together(make):
    database = {f"t{i}": entry(*[("Fly", 1, 4), ("Jump", 5, 9)] if i % 2 else [("Sit", 1, 4)]) for i in range(8)}
    _, warnings = warned(make, database)
    assert "classes 'Fly' and 'Jump' are in the same training videos" in warnings
    database["t8"] = entry(("Jump", 1, 4))
    _, warnings = warned(make, database)
    assert not any("same training videos" in warning for warning in warnings)


@pytest.mark.parametrize("duration", [12, None])
@pytest.mark.parametrize(("rate", "unit"), [(25, "frames"), (10, "frames"), (1000, "milliseconds")])
def test_times_in_another_unit(make, rate, unit, duration):
    run = ("Run", 1 * rate, 9 * rate)
    sit = ("Sit", 2 * rate, 4 * rate)
    database = {}
    for name in "abcd":
        item = entry(run, sit) if name == "a" else entry(run)
        item["subset"] = "train" if name in "ab" else "test"
        if duration is None:
            del item["duration"]
        database[name] = item
    _, (problem,) = problems_of(make(**database))
    assert not problem.warning
    assert problem.what.startswith(
        f"segments lie far outside their videos, up to {9 * rate} in 'a', which lasts 12.0 s"
    )
    assert problem.fix.startswith(f"times look like {unit}: divide them")


def test_times_at_the_very_beginning_are_reported(make):
    database = {name: entry(("Run", 0.1, 0.4), ("Sit", 0.5, 0.9)) for name in "abcdefg"}
    _, warnings = warned(make, database)
    (line,) = [line for line in warnings if "at the very beginning" in line]
    assert "in all 7 videos, the last one ends within 8 % of the duration" in line


@pytest.mark.parametrize("separator", [", ", "|", ";"])
def test_several_classes_in_one_are_reported(make, separator):
    _, warnings = warned(make, {"a": entry(("Run",)), "b": entry((f"Run{separator}Sit",)), "c": entry(("Sit",))})
    assert any(f"1 classes seem to be several in one, such as 'Run{separator}Sit'" in line for line in warnings)
    _, warnings = warned(make, {"a": entry(("Clean, and jerk",)), "b": entry(("Sit",)), "c": entry(("Sit",))})
    assert not any("several in one" in line for line in warnings), "a comma may be part of a name"


def test_402_empty_videos_are_one_line(make, capsys):
    database = {f"t{i:03}": entry() for i in range(402)} | {name: entry(("Run",)) for name in "ab"}
    dataset, _ = inspect_dataset(make(**database))
    show(annotation_problems(dataset), dataset.root)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "without a label" in line]
    assert "402 videos ('t000', 't001', 't002', ...): a training video without a label" in line
    with pytest.raises(InputError, match=r"and 1 more: fustal validate"):
        load_dataset(make(**{f"t{i}": {"subset": 1} for i in range(9)}, e=entry(("Run", -2, 1))))


def test_more_actions_than_detections_are_kept(make, tmp_path):
    card = make(a=entry(*(("Run", i / 100, i / 100 + 0.005) for i in range(900)), ("Sit", 1, 2)))
    caps = [str(p) for p in problems_of(card)[1] if "max_detections" in p.what]
    assert [line.split(": ", 1)[1] for line in caps] == [
        "video 'a': 901 actions, but max_detections keeps 200 detections"
    ]
    (tmp_path / "params.yaml").write_text("{run: own, dataset: card.yaml, max_detections: 1000}")
    assert not [p for p in problems_of(card)[1] if "max_detections" in p.what]


@pytest.mark.parametrize("what", ["annotations", "train_split", "test_split"])
@pytest.mark.parametrize("name", ["passwd", "passwd.csv"])
def test_an_error_shows_only_a_short_excerpt_of_another_file(make, tmp_path, capsys, what, name):
    secrets = [f"user{i}:x:{i}:{i}:Secret {i},,,:/somewhere/user{i}:/bin/shell{i}" for i in range(40)]
    (tmp_path / name).write_text("\n".join([*secrets, "\033[2J"]))
    card = Path(make())
    card.write_text(yaml.safe_dump(yaml.safe_load(card.read_text()) | {what: str(tmp_path / name)}))
    try:
        dataset, problems = problems_of(str(card))
        show(problems, dataset.root)
        assert any(not problem.warning for problem in problems)
        output = capsys.readouterr().out
    except InputError as error:
        output = str(error)
    assert output.count("Secret") <= 1
    assert "\033" not in output


def test_snippets_that_take_minutes(make):
    grids = {stage: grid | {"stride": grid["stride"] * 1000} for stage, grid in GRIDS.items()}
    _, problems = problems_of(make(grids=grids))
    doubts = [str(problem) for problem in problems if "a snippet takes" in str(problem)]
    assert len(doubts) == 2
    assert "a snippet takes 1e+03 s: are durations in frames or milliseconds?" in doubts[0]
