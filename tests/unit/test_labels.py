"""Borders of labels: where the features change."""

import numpy as np
import pandas as pd
import pytest

from fustal.labels import CLEAR, change_point, move_borders
from tests.datasets import planted_in


def blurred_step(length, border, window, dim=8, noise=0.0, seed=0):
    """Features of snippets of stride 1 that average a window: of one kind before a border, of another behind it."""
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(2, dim))
    share = np.clip((np.arange(length) + window / 2 - border) / window, 0, 1)[:, None]
    return (1 - share) * kinds[0] + share * kinds[1] + noise * rng.normal(size=(length, dim))


@pytest.mark.parametrize("border", [10.0, 10.3, 10.5, 12.8])
@pytest.mark.parametrize("off", [-2.0, -1.0, 0.0, 1.4, 2.0])
@pytest.mark.parametrize("window", [1.0, 2.0, 3.0])
def test_a_wrong_border_moves_to_the_change_whatever_the_blur(border, off, window):
    features = blurred_step(24, border, window)
    assert change_point(features, border + off, side=5) == pytest.approx(border, abs=0.6)


def test_scale_and_shift_of_the_features_do_not_matter():
    features = blurred_step(24, 10.3, 2.0, noise=0.05)
    found = change_point(features, 11.4, side=5)
    assert change_point(1000 * features + 7, 11.4, side=5) == pytest.approx(found, abs=1e-6)
    backwards = change_point(features[::-1], 23 - 11.4, side=5)
    assert backwards == pytest.approx(23 - found, abs=1e-6)


def test_without_a_change_the_border_stays():
    rng = np.random.default_rng(0)
    stayed = 0
    for _ in range(100):
        stayed += change_point(rng.normal(size=(30, 8)), 14.6, side=6) == 14.6
    # The size of a difference of means is noise alone: it exceeds 1 / (1 - CLEAR) times its mean by chance, rarely.
    assert stayed >= 90
    assert change_point(np.zeros((30, 8)), 14.6, side=6) == 14.6
    assert 0 < CLEAR < 1


@pytest.mark.parametrize("border", [-0.5, 0.0, 1.4, 27.6, 29.0, 29.5, 40.0, -3.0])
def test_at_the_ends_of_a_video_the_border_stays(border):
    assert change_point(blurred_step(30, 15, 2.0), border, side=3) == border


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


def test_no_labels(tmp_path):
    _, store = planted_in(tmp_path)
    none = pd.DataFrame({"video": [], "label": [], "score": [], "start": [], "end": []})
    assert move_borders(none, store).empty
