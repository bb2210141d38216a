"""The grid that init guesses: perfect detections stay perfect when their times are computed with it."""

import numpy as np
import pandas as pd
import pytest

from fustal.data.features import VideoGrid
from fustal.evaluation.detections import averages, mean_average_precision
from fustal.tools.own_data.layout import Features
from fustal.tools.own_data.timing import Given, find_grids

TIOUS = np.arange(1, 8) / 10


def videos(fps, stride, window, shortest, longest, *, count=40, extractor="floor", rounded=0, tail=(0, 0), seed=0):
    """Lengths and annotations of videos; `fps` may be several, which are annotated then."""
    random = np.random.default_rng(seed)
    lengths, rows = {}, {}
    rates = np.resize(fps, count)
    for i, rate in enumerate(rates):
        frames = int(random.uniform(shortest, longest) * rate)
        snippets = {
            "floor": (frames - window) // stride + 1,
            "ceil": -(-frames // stride),
            "round": round(frames / stride),
        }
        duration = frames / rate + random.uniform(*tail)
        lengths[f"v{i}"] = snippets[extractor]
        rows[f"v{i}"] = (round(duration / rounded) * rounded if rounded else duration, rate)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["duration", "fps"])
    return lengths, table if np.ndim(fps) else table.assign(fps=np.nan)


def guess(lengths, table, given=None):
    (step,) = find_grids([Features("{video}.npy", [], {}, lengths, {})], table, given or Given())
    return step


def score(lengths, table, true, step):
    """Average mAP of perfect detections, in percent.

    Args:
        lengths: video -> snippets.
        table: duration and fps.
        true: fps (None: the annotated), stride, window.
        step: the guess.
    """
    random = np.random.default_rng(1)
    truth = []
    found = []
    for video, snippets in lengths.items():
        rate = table.fps[video]
        right = VideoGrid(true[0] or rate, *true[1:])
        guessed = VideoGrid(rate if step.fps == "annotation" else step.fps, step.stride, step.window)
        for label in "ABA":
            start = random.uniform(0, right.to_seconds(snippets - 1) - 3)
            end = start + random.uniform(1.5, 5)
            truth.append((video, label, start, end))
            guessed_start = guessed.to_seconds(right.to_snippets(start))
            guessed_end = guessed.to_seconds(right.to_snippets(end))
            found.append((video, label, random.uniform(), guessed_start, guessed_end))
    truth = pd.DataFrame(truth, columns=["video", "label", "start", "end"])
    found = pd.DataFrame(found, columns=["video", "label", "score", "start", "end"])
    return 100 * averages(mean_average_precision(found, truth, TIOUS))["0.1:0.7"]


SHORT, USUAL, LONG = (8, 15), (20, 200), (20, 2000)


@pytest.mark.parametrize(
    ("grid", "range_", "options"),
    [
        ((25, 8, 64), SHORT, {}),
        ((25, 8, 64), SHORT, {"rounded": 0.1}),
        ((25, 8, 64), SHORT, {"rounded": 1}),
        ((25, 8, 64), SHORT, {"count": 12}),
        ((30, 4, 16), USUAL, {}),
        ((30, 4, 16), LONG, {}),
        ((29.97, 4, 16), LONG, {}),
        ((24, 16, 16), USUAL, {}),
        ((25, 16, 16), USUAL, {}),
        ((25, 16, 16), USUAL, {"extractor": "ceil"}),
        ((25, 16, 16), USUAL, {"extractor": "round"}),
        ((25, 16, 16), USUAL, {"rounded": 1}),
        ((25, 16, 16), SHORT, {"rounded": 1}),
        ((25, 16, 16), USUAL, {"count": 5}),
        ((25, 16, 16), USUAL, {"tail": (4, 4)}),
        ((25, 16, 16), USUAL, {"tail": (0, 3)}),
        ((25, 16, 64), USUAL, {}),
        ((25, 8, 16), (8, 60), {"rounded": 1}),
        ((1, 1, 1), USUAL, {}),
        ((1, 1, 1), USUAL, {"tail": (0, 1)}),
        ((2, 1, 1), USUAL, {}),
        ((50, 25, 25), (20, 100), {}),
        ((50, 10, 30), (20, 100), {}),
        ((10, 33, 33), (100, 6000), {}),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_perfect_detections_stay_perfect(grid, range_, options, seed):
    lengths, table = videos(*grid, *range_, seed=seed, **options)
    assert score(lengths, table, grid, guess(lengths, table)) >= 99


@pytest.mark.parametrize(("stride", "window", "rounded"), [(16, 16, 0), (8, 64, 0), (4, 16, 1)])
def test_annotated_frame_rates(stride, window, rounded):
    lengths, table = videos([24, 25, 29.97, 30], stride, window, 8, 300, rounded=rounded)
    step = guess(lengths, table)
    assert (step.fps, step.stride) == ("annotation", stride)
    assert score(lengths, table, (None, stride, window), step) >= 99


@pytest.mark.parametrize("rates", [[24, 25, 29.97, 30], [30]])
def test_annotated_frame_rates_that_are_not_the_features(rates):
    lengths, table = videos(25, 16, 16, *LONG)
    table["fps"] = np.resize(np.array(rates, float), len(table))
    step = guess(lengths, table)
    assert (step.fps, step.stride, step.window) == (25, 16, 16)
    assert "the annotated fps do not fit" in step.how


def test_some_wrong_durations_do_not_change_the_line():
    lengths, table = videos(25, 8, 64, *SHORT, count=60)
    table.iloc[:4, 0] *= 3
    table.iloc[4:6, 0] /= 5
    assert guess(lengths, table)[:3] == (25, 8, 64)


def test_the_line_is_reported():
    lengths, table = videos(25, 8, 64, *SHORT)
    how = guess(lengths, table).how
    assert "40 videos last 0.32 s for each snippet (slope) and 2.4" in how
    assert "window: 64 frames, as durations are 2.4" in how


def test_equal_durations_determine_no_window():
    lengths, table = videos(25, 8, 64, 10, 10.2)
    step = guess(lengths, table)
    assert step.stride == step.window
    assert "too few durations and lengths differ; else give --window W" in step.how


def test_given_values_are_kept():
    lengths, table = videos(25, 8, 64, *SHORT)
    assert guess(lengths, table, Given(fps=25, stride=8))[:3] == (25, 8, 64)
    assert guess(lengths, table, Given(fps=25))[:3] == (25, 8, 64)
    assert guess(lengths, table, Given(stride=8))[:3] == (25, 8, 64)
    assert guess(lengths, table, Given(window=10))[:3] == (25, 8, 10)
    assert guess(lengths, table, Given(fps=50))[:2] == (50, 16)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_videos(count):
    lengths, table = videos(25, 16, 16, 100, 200, count=count)
    assert guess(lengths, table)[:3] == (25, 16, 16)


def test_equal_durations_of_different_lengths_do_not_fail():
    lengths = {f"v{i}": 30 + i for i in range(8)}
    step = guess(lengths, pd.DataFrame({"duration": 20.0, "fps": np.nan}, index=list(lengths)))
    assert step.stride == step.window


def test_durations_in_frames_are_suspected():
    lengths, table = videos(25, 16, 16, *USUAL)
    table["duration"] *= 25
    assert "16 s a snippet is long: are durations in frames or milliseconds?" in guess(lengths, table).how


def test_a_tail_is_reported():
    lengths, table = videos(25, 16, 16, *USUAL, tail=(4, 4))
    assert "too long for a window" in guess(lengths, table).how


@pytest.mark.parametrize("fps", [1, 20, 24, 25, 29.97, 30])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_snippet_a_second(fps, seed):
    lengths, table = videos(fps, round(fps), round(fps), *SHORT, count=100, rounded=0.01, seed=seed)
    assert score(lengths, table, (fps, round(fps), round(fps)), guess(lengths, table)) >= 99


@pytest.mark.parametrize("grid", [(24, 16, 16), (25, 12, 12), (25, 24, 24), (30, 15, 15)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_other_strides_of_short_videos(grid, seed):
    lengths, table = videos(*grid, *SHORT, count=100, rounded=0.01, seed=seed)
    assert score(lengths, table, grid, guess(lengths, table)) >= 99


@pytest.mark.parametrize(("fps", "stride"), [(15, 15), (10, 20)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_annotated_frame_rates_with_strides_beside_usual_ones(fps, stride, seed):
    lengths, table = videos([fps], stride, stride, *SHORT, count=400, seed=seed)
    step = guess(lengths, table)
    assert (step.fps, step.stride) == ("annotation", stride)
    assert score(lengths, table, (None, stride, stride), step) >= 99


@pytest.mark.parametrize("grid", [(30, 20, 32), (10, 5, 10), (12, 12, 20), (20, 20, 32), (8, 10, 20)])
@pytest.mark.parametrize(("range_", "count"), [((10, 60), 100), ((30, 300), 30), ((10, 300), 400)])
def test_windows_of_up_to_two_strides(grid, range_, count):
    lengths, table = videos(*grid, *range_, count=count)
    assert score(lengths, table, grid, guess(lengths, table)) >= 99


@pytest.mark.parametrize("round_", [np.floor, np.round, np.ceil])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_whole_seconds_determine_no_short_window(round_, seed):
    lengths, table = videos(25, 20, 40, 60, 3000, count=400, seed=seed)
    table["duration"] = round_(table["duration"])
    step = guess(lengths, table)
    unknown = "it cannot be determined: durations are rounded to 1 s; else give --window W" in step.how
    assert unknown or score(lengths, table, (25, 20, 40), step) >= 99


def test_few_videos_determine_no_short_window():
    lengths, table = videos(10, 5, 10, 10, 300, count=5)
    step = guess(lengths, table)
    unknown = "it cannot be determined: these durations allow up to" in step.how
    assert unknown or score(lengths, table, (10, 5, 10), step) >= 99


def test_other_slopes_that_fit_are_reported():
    lengths, table = videos(25, 24, 24, *SHORT, count=30, rounded=0.01)
    assert "s a snippet fit as well" in guess(lengths, table).how
    lengths, table = videos(25, 16, 16, *LONG, count=100, rounded=0.01)
    assert "fit as well" not in guess(lengths, table).how
