"""Borders of labels: where the features change, and whether labels move there."""

import math

import numpy as np
import pandas as pd
import pytest

from fustal.borders import (
    CLEAR,
    FEWEST,
    GROUPS,
    GROWTH,
    Border,
    Changes,
    border_growth,
    borders_of,
    change_point,
    choose_borders,
    crossings_of,
    move_borders,
)
from fustal.data.features import FeatureStore
from fustal.params import Params
from tests.datasets import dataset_of, planted_in

VIDEO = ["video", "subset", "duration", "fps"]


def blurred_step(length, border, window, noise=0.0, seed=0):
    """Features of snippets of stride 1 that average a window: of one kind before a border, of another behind it."""
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(2, 8))
    share = np.clip((np.arange(length) + window / 2 - border) / window, 0, 1)[:, None]
    features = (1 - share) * kinds[0] + share * kinds[1] + noise * rng.normal(size=(length, 8))
    return features, kinds[1] - kinds[0]


def start(features, at, side=5):
    return Border(0, "a", features, at, at + 2 * side, 1)


@pytest.mark.parametrize("border", [10.0, 10.3, 10.5, 12.8])
@pytest.mark.parametrize("off", [-2.0, -1.0, 0.0, 1.4, 2.0])
@pytest.mark.parametrize("window", [1.0, 2.0, 3.0])
def test_a_wrong_border_moves_to_the_change_whatever_the_blur(border, off, window):
    features, direction = blurred_step(24, border, window)
    assert change_point(start(features, border + off), direction) == pytest.approx(border, abs=0.6)


def test_scale_and_shift_of_the_features_do_not_matter():
    features, direction = blurred_step(24, 10.3, 2.0, noise=0.05)
    found = change_point(start(features, 11.4), direction)
    assert change_point(start(1000 * features + 7, 11.4), direction / 9) == pytest.approx(found, abs=1e-6)
    end = Border(0, "a", features[::-1], 23 - 11.4, 23 - 11.4 - 10, -1)
    assert change_point(end, direction) == pytest.approx(23 - found, abs=1e-6)


def test_the_direction_of_the_class_tells_its_change_from_others():
    """Of two changes near a border the one counts that is usual for the class, though the other one is larger."""
    features = np.zeros((24, 2))
    features[11:, 0] = 1
    features[9:, 1] = 5
    assert change_point(start(features, 10.0), np.array([1.0, 0.0])) == pytest.approx(10.5, abs=0.2)
    assert change_point(start(features, 10.0), np.array([0.0, 1.0])) == pytest.approx(8.5, abs=0.2)


def test_without_a_change_there_is_no_other_border():
    rng = np.random.default_rng(0)
    stayed = 0
    for _ in range(100):
        stayed += math.isnan(change_point(start(rng.normal(size=(30, 8)), 14.6, side=6), rng.normal(size=8)))
    # A change along a random direction is noise: its square rarely exceeds 1 / (1 - CLEAR) times its mean.
    assert stayed >= 90
    assert math.isnan(change_point(start(np.zeros((30, 8)), 14.6), np.ones(8)))
    assert 0 < CLEAR < 1


def test_a_change_out_of_the_action_is_none_into_it():
    features, direction = blurred_step(24, 10.3, 2.0)
    assert math.isnan(change_point(start(features, 10.3), -direction))


@pytest.mark.parametrize("border", [-0.5, 0.0, 1.4, 27.6, 29.0, 29.5, 40.0, -3.0])
def test_there_is_none_at_the_ends_of_a_video(border):
    features, _ = blurred_step(30, 15, 2.0)
    assert start(features, border, side=3).change() is None


def test_crossings_of_a_curve():
    assert crossings_of(np.array([1.0, 0.0, 1.0, 1.0]), 0.5).tolist() == [1.5]
    assert crossings_of(np.array([1.0, 0.0]), 0.5).tolist() == crossings_of(np.zeros(0), 0.5).tolist() == []


def test_labels_move_to_the_actions_and_keep_the_rest(tmp_path):
    dataset, store = planted_in(tmp_path)
    truth = dataset.segments
    wrong = truth.assign(score=0.7, start=truth.start - 1.0, end=truth.end + 1.5)
    wrong.index = range(5, 5 + len(wrong))
    given = wrong.copy()
    moved = move_borders(wrong, store)
    np.testing.assert_allclose(moved[["start", "end"]], truth[["start", "end"]], atol=0.26)  # half a snippet
    pd.testing.assert_frame_equal(moved.drop(columns=["start", "end"]), wrong.drop(columns=["start", "end"]))
    pd.testing.assert_frame_equal(wrong, given)


def test_changes_point_into_the_actions_and_leave_out_the_border_itself(tmp_path):
    dataset, store = planted_in(tmp_path)
    changes = Changes(dataset.segments, store)
    for border in borders_of(dataset.segments, store):
        assert changes.of_others(border).argmax() == {"a": 0, "b": 1}[border.label]
    alone = dataset.segments[:1]
    changes = Changes(alone, store)
    start, end = borders_of(alone, store)
    np.testing.assert_allclose(changes.of_others(start), end.change())
    assert changes.of_others(start._replace(at=0.0)) is None, "it has no change itself"
    assert Changes(dataset.segments[1:2], store).of_others(start) is None, "no other border of its class"


def test_labels_without_any_action_stay(tmp_path):
    """In noise of many dimensions each border has a large change of its own, which others do not confirm."""
    rng = np.random.default_rng(0)
    for i in range(20):
        np.save(tmp_path / f"v{i}.npy", rng.normal(size=(100, 300)).astype(np.float32))
    videos = pd.DataFrame([(f"v{i}", "train", 50.0, np.nan) for i in range(20)], columns=VIDEO)
    labels = pd.DataFrame([(f"v{i}", "a", 15.0, 30.0) for i in range(20)], columns=["video", "label", "start", "end"])
    store = FeatureStore(dataset_of(tmp_path, videos, labels, ["a"], fps=2.0), "student")
    moved = move_borders(labels, store)
    assert (moved[["start", "end"]] == labels[["start", "end"]]).mean(axis=None) > 0.6


def test_labels_that_would_overlap_stay(tmp_path):
    """Two labels of one action: the change at its end is the nearest one for both."""
    dataset, store = planted_in(tmp_path)
    labels = dataset.segments
    of_video = labels.video == "train2"
    end = labels.end[of_video].item()
    second = labels[of_video].assign(start=end - 0.5, end=end + 2.0)
    labels = pd.concat([labels.assign(end=labels.end.where(~of_video, end - 0.5)), second], ignore_index=True)
    moved = move_borders(labels, store)
    first, second = moved[moved.video == "train2"].sort_values("start").itertuples()
    assert first.end <= second.start


def test_no_labels(tmp_path):
    _, store = planted_in(tmp_path)
    none = pd.DataFrame({"video": [], "label": [], "score": [], "start": [], "end": []})
    assert move_borders(none, store).empty
    assert choose_borders(none, store, Params())[0] == "curve"


def shapes(folder, shape, count=60):
    """A store of videos with one action each, whose features have a shape, and labels that are a little wrong.

    Args:
        folder: receives the files.
        shape: function of the position in an action, in snippets from its start, and of its length: 1 is inside.
    """
    rng = np.random.default_rng(1)
    videos = []
    segments = []
    for i in range(count):
        length = int(rng.uniform(10, 60))
        first = length + 5
        features = rng.normal(0, 0.1, (3 * length + 10, 4)).astype(np.float32)
        features[:, 0] += 2 * shape(np.arange(len(features)) - first, length)
        np.save(folder / f"v{i}.npy", features)
        videos.append((f"v{i}", "train", len(features) / 2, np.nan))
        wrong = rng.uniform(-1.5, 1.5, 2)
        segments.append((f"v{i}", "a", (first + wrong[0]) / 2, (first + length + wrong[1]) / 2))
    frame = pd.DataFrame(videos, columns=VIDEO)
    labels = pd.DataFrame(segments, columns=["video", "label", "start", "end"])
    return labels, FeatureStore(dataset_of(folder, frame, labels, ["a"], fps=2.0), "student")


def step(position, length):
    """Blurred by four snippets, whatever the length."""
    return np.clip(np.minimum(position + 2, length - position + 2) / 4, 0, 1)


def bump(position, length):
    """Highest in the middle of the action."""
    return np.exp(-8 * ((position - length / 2) / length) ** 2)


@pytest.mark.parametrize(("shape", "kind"), [(step, "features"), (bump, "curve")])
def test_borders_move_only_if_their_width_does_not_grow_with_the_action(tmp_path, shape, kind):
    labels, store = shapes(tmp_path, shape)
    found, why = choose_borders(labels, store, Params())
    assert found == kind
    power = border_growth(labels, store)
    assert (-GROWTH < power < GROWTH) == (kind == "features")
    assert f"grows with the power {power:.2f} of the length of labels" in why
    for given in ("curve", "features"):
        assert choose_borders(labels, store, Params(label_borders=given)) == (given, "as given")


def test_few_labels_stay_where_the_curve_has_them(tmp_path):
    labels, store = shapes(tmp_path, step, count=FEWEST * GROUPS)
    few = labels[1:]
    why = f"{len(few)} labels do not show how the width of borders depends on the length"
    assert choose_borders(few, store, Params()) == ("curve", why)
    assert choose_borders(labels, store, Params())[0] == "features"


def test_labels_of_one_length_or_without_any_change_stay(tmp_path):
    labels, store = shapes(tmp_path, step)
    equal = labels.assign(end=labels.start + 5.0)
    assert choose_borders(equal, store, Params())[0] == "curve"
    flat = tmp_path / "flat"
    flat.mkdir()
    labels, store = shapes(flat, lambda position, length: 0 * position)
    for video in labels.video:
        np.save(flat / f"{video}.npy", np.zeros((300, 4), np.float32))
    labels, store = labels.assign(start=20.0, end=30.0), FeatureStore(store.dataset, "student")
    assert math.isnan(border_growth(labels, store))
    pd.testing.assert_frame_equal(move_borders(labels, store), labels)
