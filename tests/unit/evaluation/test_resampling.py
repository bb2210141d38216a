"""The mAP of resampled videos: compared with copies that are made by hand, and its interval in a simulation."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fustal.evaluation.detections import mean_average_precision
from fustal.evaluation.resampling import draw_videos, resampled_map
from fustal.tools.sweeps.intervals import resampled_interval

TIOUS = [0.3, 0.5, 0.7]


def made(rng, videos, classes=("jump", "run")):
    """True segments of some videos and detections that are near them, or anywhere."""
    true = []
    found = []
    for number in range(videos):
        skill = rng.uniform(0.2, 1)  # some videos are easier than others
        for start in range(0, 40, 10):
            label = rng.choice(classes)
            true.append((f"v{number}", label, start, start + 5))
            for _ in range(2):
                shift = rng.normal(0, 1) if rng.uniform() < skill else rng.uniform(5, 10)
                score = rng.normal(skill - abs(shift) / 5, 0.3)
                found.append((f"v{number}", rng.choice([label, *classes]), score, start + shift, start + 5 + shift))
    truth = pd.DataFrame(true, columns=["video", "label", "start", "end"])
    return truth, pd.DataFrame(found, columns=["video", "label", "score", "start", "end"])


def copied(frame, copies):
    """Each video of a frame as often as it was drawn, the copies under names of their own."""
    parts = []
    for video, count in copies.items():
        for number in range(count):
            parts.append(frame[frame.video == video].assign(video=f"{video}, copy {number}"))
    return pd.concat(parts)


@given(st.integers(0, 2**32 - 1))
def test_a_video_that_is_drawn_twice_is_two_videos(seed):
    truth, found = made(np.random.default_rng(seed), videos=5)
    copies = pd.DataFrame(draw_videos(5, times=3, seed=seed), columns=[f"v{i}" for i in range(5)])
    expected = []
    for _, row in copies.iterrows():
        expected.append(mean_average_precision(copied(found, row), copied(truth, row), TIOUS).mean(axis=None))
    assert resampled_map(found, truth, TIOUS, copies) == pytest.approx(expected)


def test_each_video_once_is_the_usual_map():
    truth, found = made(np.random.default_rng(0), videos=20)
    once = pd.DataFrame(1, index=range(250), columns=truth.video.unique())  # more rows than are computed together
    expected = mean_average_precision(found, truth, TIOUS).mean(axis=None)
    assert resampled_map(found, truth, TIOUS, once) == pytest.approx(np.full(250, expected))


def test_a_class_without_true_segments_in_a_resample_does_not_count():
    truth = pd.DataFrame({"video": ["v", "w"], "label": ["run", "jump"], "start": 0.0, "end": 4.0})
    found = pd.DataFrame({"video": ["v", "v"], "label": ["run", "jump"], "score": 0.5, "start": 0.0, "end": 4.0})
    copies = pd.DataFrame({"v": [1, 2, 0, 0], "w": [1, 0, 2, 0]})
    expected = [0.5, 1.0, 0.0, np.nan]  # jump: nothing is found in w, and what is found in v is wrong
    np.testing.assert_allclose(resampled_map(found, truth, [0.5], copies), expected)
    assert resampled_map(found[:0], truth, [0.5], copies)[:3].tolist() == [0, 0, 0]


def test_false_positives_of_videos_that_are_not_drawn_do_not_count():
    truth = pd.DataFrame({"video": ["v"], "label": ["run"], "start": [0.0], "end": [4.0]})
    found = pd.DataFrame({"video": ["w", "v"], "label": "run", "score": [0.9, 0.5], "start": 0.0, "end": 4.0})
    copies = pd.DataFrame({"v": [1, 1, 2], "w": [1, 0, 3]})
    # Three false positives before two hits: precision 1/4, then 2/5, which counts for both.
    assert resampled_map(found, truth, [0.5], copies) == pytest.approx([0.5, 1.0, 0.4])


def test_draws_have_as_many_videos_and_are_repeatable():
    drawn = draw_videos(30, times=400)
    assert (drawn.sum(axis=1) == 30).all()
    assert drawn.mean(axis=0) == pytest.approx(1, abs=0.25)
    assert (drawn == draw_videos(30, times=400)).all()
    assert (drawn != draw_videos(30, times=400, seed=1)).any()


def test_the_interval_contains_the_map_of_other_test_sets_in_about_95_of_100_cases():
    """Test sets of 50 videos are drawn from 1000; the true value is the mean mAP of such sets."""
    truth, found = made(np.random.default_rng(0), videos=1000)
    names = np.array(truth.video.unique())
    random = np.random.default_rng(1)

    def draw():
        return random.choice(names, 50, replace=False)

    sets = np.zeros((300, len(names)), int)
    for row in sets:
        row[np.isin(names, draw())] = 1
    true = np.mean(resampled_map(found, truth, [0.5], pd.DataFrame(sets, columns=names)))

    inside = 0
    for number in range(100):
        chosen = draw()
        drawn = np.concatenate([np.ones((1, 50), int), draw_videos(50, times=100, seed=number)])
        here = found[found.video.isin(chosen)], truth[truth.video.isin(chosen)]
        values = resampled_map(*here, [0.5], pd.DataFrame(drawn, columns=chosen))
        low, high = resampled_interval(values[0], values[1:])
        inside += low <= true <= high
    assert 88 <= inside <= 99
