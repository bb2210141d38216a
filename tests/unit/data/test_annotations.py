"""Cards and annotations: they are read, or refused with an error of one line."""

import json
import math
import re

import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose as assert_close

from fustal.data.annotations import parse_annotations, read_annotations
from fustal.data.cards import hold_out, inspect_dataset, load_dataset
from fustal.data.features import FeatureStore
from fustal.exceptions import InputError

CARD = {
    "name": "tiny",
    "root": "data",
    "annotations": "gt.json",
    "train_subset": "training",
    "test_subset": "Test",
    "grids": {"generator": {"pattern": "{video}.npy", "fps": 25, "stride": 16, "window": 16}},
}
DATABASE = {
    "a": {"subset": "Training", "duration": 10, "annotations": [{"label": "Run", "segment": ["1.5", "2"]}]},
    "b": {"subset": "test", "fps": 30, "annotations": [{"label": "Run", "segment": [0, 3.5]}]},
}


@pytest.fixture
def make(tmp_path):
    """Writes a card and annotations, and returns the path of the card."""

    def write(database=None, splits=None, **changes):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / "gt.json").write_text(json.dumps({"database": database or DATABASE}))
        for name, text in (splits or {}).items():
            (tmp_path / "data" / name).write_text(text)
        (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD | changes))
        return tmp_path / "card.yaml"

    return write


def test_a_card_and_its_annotations(make):
    dataset = load_dataset(make())
    assert dataset.classes == ["Run"]
    assert (dataset.split("train"), dataset.split("test")) == (["a"], ["b"])
    assert dataset.segments_of("train").values.tolist() == [["a", "Run", 1.5, 2.0]]
    assert dataset.videos.duration["a"] == 10
    assert math.isnan(dataset.videos.fps["a"])
    assert dataset.grids["student"] == dataset.grids["generator"], "one grid serves both stages"
    np.testing.assert_array_equal(dataset.labels(["b", "a"]), [[1], [1]])


def test_split_files_restrict(make):
    database = DATABASE | {"c": DATABASE["a"]}
    assert load_dataset(make(database, {"train.txt": "c\n\n"}, train_split="train.txt")).split("train") == ["c"]
    _, problems = inspect_dataset(make(database, {"train.txt": "c\nb"}, train_split="train.txt"))
    assert list(map(str, problems)) == [f"{make().parent}/data/train.txt: video 'b': is not in subset 'training'"]


def test_wrong_cards(make, tmp_path):
    with pytest.raises(InputError, match="no such data-set card"):
        load_dataset("nothing")
    with pytest.raises(InputError, match="anotations"):
        load_dataset(make(anotations="gt.json"))
    with pytest.raises(InputError, match="no video of subset 'validation'"):
        load_dataset(make(train_subset="validation"))


@pytest.mark.parametrize(
    ("pattern", "modalities", "message"),
    [
        ("{video}.npy", ["rgb", "flow"], "several modalities need {modality} in the pattern"),
        ("{modality}/{video}.npy", ["rgb", "rgb"], "one of the modalities ['rgb', 'rgb'] is there twice"),
        ("{modality}/{video}.npy", [], "{modality} in the pattern needs modalities"),
    ],
)
def test_modalities_that_would_be_the_same_file(make, pattern, modalities, message):
    grid = CARD["grids"]["generator"] | {"pattern": pattern, "modalities": modalities}
    with pytest.raises(InputError, match=re.escape(message)) as error:
        load_dataset(make(grids={"generator": grid}))
    assert "card.yaml" in str(error.value)


def test_held_out_videos_take_the_place_of_the_test_videos(planted):
    dataset, _ = planted
    held = hold_out(dataset, 0.25)
    train = dataset.split("train")
    assert len(held.split("test")) == round(0.25 * len(train))
    assert sorted(held.split("train") + held.split("test")) == sorted(train)
    assert set(held.segments.video) <= set(train), "nothing of the test videos is left"
    assert hold_out(dataset, 0.25).split("test") == held.split("test")
    assert hold_out(dataset, 0.0) is dataset
    store = FeatureStore(held, "student")
    for video in train:
        assert all(path.exists() for path in store.paths(video))


def test_holding_out_nothing_or_all_is_refused(planted):
    with pytest.raises(InputError, match="held_out"):
        hold_out(planted[0], 0.001)


CSV = """Video,Label,Start,End,subset,duration
a,Run,1.5,2,train,10
a,Sit,,,train,10
b,Run,0,3.5,test,
c,,,,test,9
"""


@pytest.mark.parametrize("text", [CSV, CSV.replace(",", ";"), "\ufeff" + CSV, CSV.replace("\n", "\r\n")])
def test_a_table_of_labels(text, tmp_path):
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
    videos, labels, problems = parse_annotations(tmp_path / "labels.csv")
    assert problems == []
    assert videos.subset.to_dict() == {"a": "train", "b": "test", "c": "test"}
    assert_close(videos.duration.to_numpy(), [10, np.nan, 9])
    assert labels.video.str.cat(labels.label).tolist() == ["aRun", "aSit", "bRun"]
    assert_close(labels[["start", "end"]].to_numpy(), [[1.5, 2], [np.nan, np.nan], [0, 3.5]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as CSV"),
        ("name,label\na,Run\n", "its first line must name the columns video and label, not name, label"),
        ("video,label,duration\na,Run,9\na,Sit,8\n", "video 'a': duration ['9', '8'] is not a finite number"),
        ("video,label,start,end\na,Run,1,\n", "video 'a': annotation 0: '' is not a finite number"),
        ("video,label,start,end\na,,1,2\n", "video 'a': annotation 0: 'label' is missing"),
        ("video,label\n../a,Run\n", "video '../a': the name of a video must be usable"),
        (b"video,label\n\xff\xfe,Run\n", "is not UTF-8 but perhaps Latin-1"),
        (b"video,label\na,\x00\x80", "holds zero bytes"),
    ],
)
def test_a_broken_table_of_labels(text, message, tmp_path):
    (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read_annotations(tmp_path / "labels.csv")
    assert "\n" not in str(error.value)


def test_labels_of_videos_without_segments(make):
    """They are enough for training. A test split may name a video that is not in the annotations."""
    database = DATABASE | {"a": {"subset": "training", "annotations": [{"label": "Run"}, {"label": "Run"}]}}
    card = make(database, {"test.txt": "b\nnew\n"}, test_split="test.txt")
    dataset = load_dataset(card)
    assert dataset.segments_of("train").empty
    assert dataset.labels(["a", "b", "new"]).tolist() == [[1], [1], [0]]
    assert dataset.split("test") == ["b", "new"]


def test_a_video_in_training_and_test(make):
    with pytest.raises(InputError, match=r"card\.yaml: video 'b': is in training and in test"):
        load_dataset(make(train_subset="test"))


def test_no_label_to_train_on(make):
    with pytest.raises(InputError, match="no training video has a label"):
        load_dataset(make(DATABASE | {"a": {"subset": "training"}}))


def test_problems_that_are_warnings_do_not_stop_a_reader(tmp_path):
    database = DATABASE | {"d": {"subset": "test", "annotations": [{"label": "Run", "segment": [0, 0]}]}}
    (tmp_path / "gt.json").write_text(json.dumps({"database": database}))
    videos, segments = read_annotations(tmp_path / "gt.json")
    assert list(videos.index) == list("abd")
    assert list(segments.video) == list("ab")
