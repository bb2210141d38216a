"""Evaluation: cases made by hand, degenerate ones, and a comparison with a slow implementation of the definition."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fustal import ROOT
from fustal.evaluation import matching
from fustal.evaluation.detections import (
    averages,
    mean_average_precision,
    precision_recall,
    summary,
    video_level_average_precision,
)
from fustal.evaluation.diagnosis import kinds_of_detections
from fustal.evaluation.labels import label_measures, pseudo_label_quality, true_positive
from fustal.exceptions import InputError
from fustal.params import Params, parse_grid
from tests.benchmarks.plain_post import plain_mean_average_precision, plain_tiou

TIOUS = [0.1, 0.5]


def truth(*rows):
    return pd.DataFrame(rows, columns=["video", "label", "start", "end"]).astype({"start": float, "end": float})


def found(*rows):
    kinds = {"score": float, "start": float, "end": float}
    return pd.DataFrame(rows, columns=["video", "label", "score", "start", "end"]).astype(kinds)


TRUTH = truth(("a", "run", 0, 4), ("a", "run", 10, 14), ("b", "run", 0, 4), ("b", "jump", 0, 2))


def test_perfect_detections():
    ap = mean_average_precision(TRUTH.assign(score=0.5), TRUTH, TIOUS)
    assert ap.index.tolist() == ["jump", "run"]
    assert ap.columns.tolist() == TIOUS
    assert (ap == 1).all(axis=None)


def test_average_precision_by_hand():
    # Ranked: hit, double of the same segment, hit, wrong video; interpolated precisions 1 and 2/3 of 3 segments.
    detections = found(
        ("a", "run", 0.9, 0, 4), ("a", "run", 0.8, 0, 4.1), ("a", "run", 0.7, 10, 14), ("c", "run", 0.6, 0, 4)
    )
    ap = mean_average_precision(detections, TRUTH, [0.5])
    assert ap.loc["run", 0.5] == pytest.approx((1 + 2 / 3) / 3)
    assert ap.loc["jump", 0.5] == 0


def test_detections_in_a_video_without_true_segments_are_false_positives():
    detections = found(("c", "run", 0.9, 0, 4), ("a", "run", 0.8, 0, 4))
    assert mean_average_precision(detections, TRUTH, [0.5]).loc["run", 0.5] == pytest.approx(0.5 / 3)


def test_a_class_without_true_segments_is_not_counted():
    detections = pd.concat([TRUTH.assign(score=0.5), found(("a", "swim", 0.9, 0, 4))])
    ap = mean_average_precision(detections, TRUTH, TIOUS)
    assert "swim" not in ap.index
    assert (ap == 1).all(axis=None)


def test_a_detection_is_matched_to_the_best_free_segment():
    near = truth(("a", "run", 0, 4), ("a", "run", 4, 8))
    detections = found(("a", "run", 0.9, 1, 8), ("a", "run", 0.8, 2, 8))
    ap = mean_average_precision(detections, near, [0.2, 0.6])
    # At .2 the first is matched to 4-8 and the second to 0-4 (tIoU 2/8). At .6 only the second reaches the threshold.
    assert ap.loc["run"].tolist() == [1.0, 0.25]


def test_of_equal_overlaps_the_last_true_segment_is_matched():
    """The better detection overlaps both true segments equally and is matched to the last one."""
    twins = truth(("a", "run", 0, 4), ("a", "run", 6, 10))
    detections = found(("a", "run", 0.9, 0, 10), ("a", "run", 0.8, 6, 10))
    assert mean_average_precision(detections, twins, [0.4]).loc["run", 0.4] == 0.5
    assert mean_average_precision(detections, twins[::-1], [0.4]).loc["run", 0.4] == 1


@pytest.mark.parametrize(
    ("true", "one", "taken"),
    [
        ([(2, 3), (0, 1), (4, 5)], (0, 5), 2),  # three times 1/5: the last row, wherever it lies in time
        ([(0, 4), (0, 4), (0, 4)], (0, 4), 2),
        # Equal but for rounding: no tolerance makes them equal, as in the field's evaluators.
        ([(0, 0.1), (0.1, 0.2), (0.2, 0.3)], (0, 0.3), 1),  # the last tIoU is 6e-17 lower than the others
        ([(0.3, 0.4), (0.7, 0.8), (0, 0.1)], (0, 1), 1),  # three tIoUs, all different
    ],
)
def test_the_segment_of_the_highest_tiou_or_the_last_of_equal_ones_is_taken(true, one, taken):
    segments = truth(*[("a", "run", *times) for times in true])
    tiou = plain_tiou(*one, segments.start.to_numpy(), segments.end.to_numpy())
    assert np.argsort(tiou, kind="stable")[-1] == taken, "the field's evaluators read a sorted list from its end"
    detections = found(("a", "run", 0.9, *one))
    assert matching.matches(detections, segments, [0.0, 0.1]) == [[taken], [taken]]


def test_the_quality_of_labels_and_the_kinds_of_errors_match_the_same_segment():
    twins = truth(("a", "run", 0, 4), ("a", "run", 6, 10))
    labels = found(("a", "run", 0.9, 0, 10), ("a", "run", 0.8, 6, 10))
    assert pseudo_label_quality(labels, twins, [0.4]).loc[0.4, "recall"] == 0.5
    assert pseudo_label_quality(labels, twins[::-1], [0.4]).loc[0.4, "recall"] == 1
    assert kinds_of_detections(labels, twins, 0.4).tolist() == ["right", "double"]
    assert kinds_of_detections(labels, twins[::-1], 0.4).tolist() == ["right", "right"]


@pytest.mark.parametrize("count", [3, 40])
def test_many_exact_ties_are_taken_from_the_last_to_the_first(count):
    """Also more than 16, from which on NumPy's default sort is not stable."""
    start = np.arange(count) * 2.0
    segments = pd.DataFrame({"video": "a", "label": "run", "start": start, "end": start + 1})
    whole = pd.DataFrame({"video": "a", "label": "run", "score": np.linspace(1, 0.1, count), "start": 0.0, "end": 80.0})
    assert matching.matches(whole, segments, [0.01])[0].tolist() == list(range(count))[::-1]


def test_equal_scores_are_matched_in_their_order():
    detections = found(("a", "run", 0.5, 90, 91), ("a", "run", 0.5, 0, 4))
    one = TRUTH[:1]
    assert mean_average_precision(detections, one, [0.5]).loc["run", 0.5] == 0.5
    assert mean_average_precision(detections[::-1], one, [0.5]).loc["run", 0.5] == 1


def test_detections_of_no_length_or_reversed_are_false():
    wrong = found(("a", "run", 0.9, 2, 2), ("a", "run", 0.8, 4, 0), ("a", "run", 0.7, 14, -90))
    right = TRUTH[:1].assign(score=0.5)
    ap = mean_average_precision(pd.concat([wrong, right]), TRUTH[:1], TIOUS)
    assert ap.loc["run"].tolist() == [0.25, 0.25]


@pytest.mark.parametrize("far", [1e12, 1e17, 1.7e308])
def test_one_detection_far_away_changes_nothing(far):
    perfect = pd.concat([TRUTH.assign(score=0.5), found(("b", "jump", 0.1, -far, far), ("z", "run", 0.1, far, far))])
    assert (mean_average_precision(perfect, TRUTH, [0.9]) == 1).all(axis=None)


def test_large_times():
    """Milliseconds since 1970 in many videos are compared exactly."""
    start = 1.7e12 + np.arange(2000.0)
    late = pd.DataFrame({"video": [f"v{i}" for i in range(2000)], "label": "run", "start": start, "end": start + 2})
    assert (mean_average_precision(late.assign(score=0.5), late, [1.0]) == 1).all(axis=None)
    assert (mean_average_precision(late.assign(score=0.5, start=start + 1), late, [0.51]) == 0).all(axis=None)


def test_no_detections():
    assert (mean_average_precision(found(), TRUTH, TIOUS) == 0).all(axis=None)
    assert pseudo_label_quality(found(), TRUTH, TIOUS)[["labels", "precision", "recall", "f1"]].eq(0).all(axis=None)
    undefined = ["mean_tiou", "boundary_error", "start_error", "end_error"]
    assert pseudo_label_quality(found(), TRUTH, TIOUS)[undefined].isna().all(axis=None)
    assert true_positive(found(), TRUTH).shape == (0,)
    assert precision_recall(found(), TRUTH, 0.5).empty


def test_no_true_segments():
    labels = found(("a", "run", 0.9, 0, 4))
    with pytest.raises(InputError, match="no true segments"):
        mean_average_precision(labels, truth(), TIOUS)
    assert pseudo_label_quality(labels, truth(), TIOUS)[["precision", "recall", "f1"]].eq(0).all(axis=None)
    assert true_positive(labels, truth()).tolist() == [False]


def _slow_average_precision(detections, ground_truth, label, tiou):
    """Matches one detection after the other; sums the interpolated precision over the hits."""
    left = [row for row in ground_truth.itertuples() if row.label == label]
    count = len(left)
    hits = []
    for one in detections[detections.label == label].sort_values("score", ascending=False).itertuples():
        best = None
        best_tiou = 0.0
        for row in left:
            overlap = max(0, min(one.end, row.end) - max(one.start, row.start))
            value = overlap / (one.end - one.start + row.end - row.start - overlap)
            if row.video == one.video and value >= tiou and value > best_tiou:
                best = row
                best_tiou = value
        hits.append(best is not None)
        left = [row for row in left if row is not best]
    precision = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
    interpolated = [max(precision[i:]) for i in range(len(hits)) if hits[i]]
    return sum(interpolated) / count


@given(st.integers(0, 2**32 - 1))
def test_agrees_with_a_slow_evaluator(seed):
    rng = np.random.default_rng(seed)

    def segments(count):
        start = rng.random(count) * 10
        names = {"video": rng.choice(["a", "b"], count), "label": rng.choice(["run", "jump"], count)}
        return pd.DataFrame(names | {"start": start, "end": start + 0.5 + 4 * rng.random(count)})

    ground_truth, detections = segments(8), segments(20).assign(score=rng.random(20))
    ap = mean_average_precision(detections, ground_truth, [0.2, 0.5])
    for label in ap.index:
        for tiou in ap.columns:
            slow = _slow_average_precision(detections, ground_truth, label, tiou)
            assert ap.loc[label, tiou] == pytest.approx(slow), (label, tiou)


@given(st.integers(0, 40), st.integers(0, 150), st.booleans(), st.integers(0, 2**32 - 1))
def test_agrees_with_a_loop_on_ties(true, count, coarse, seed):
    rng = np.random.default_rng(seed)

    def segments(count, lowest=0):
        names = {"video": rng.choice(["a", "b", "c"], count), "label": rng.choice(["run", "jump"], count)}
        if coarse:
            start = rng.integers(-4, 8, count)
            length = rng.integers(lowest, 5, count)
        else:
            start, length = rng.random((2, count)) * 5
        return pd.DataFrame(names | {"start": start.astype(float), "end": start + length.astype(float)})

    ground_truth = pd.concat([TRUTH, segments(true)], ignore_index=True)
    detections = pd.concat([segments(count, lowest=-3), TRUTH, TRUTH])
    detections["score"] = rng.choice([0.1, 0.5, 0.9], count + 8)
    tious = [0.1, 1 / 3, 0.5, 1.0]
    ap = mean_average_precision(detections, ground_truth, tious)
    np.testing.assert_allclose(ap, plain_mean_average_precision(detections, ground_truth, tious), atol=1e-12)


def test_a_detection_whose_best_segment_is_matched_already_gets_the_next_one():
    # The best segment of each detection is matched to the one before it, so it gets the next; the last one gets none.
    start = np.arange(20.0)
    ground_truth = pd.DataFrame({"video": "a", "label": "run", "start": start, "end": start + 1})
    chain = pd.DataFrame({"video": "a", "label": "run", "start": start + 0.45, "end": start + 1.5})
    first = found(("a", "run", 1.0, 0, 1))
    detections = pd.concat([first, chain.assign(score=np.linspace(0.9, 0.1, 20))], ignore_index=True)
    assert pseudo_label_quality(detections, ground_truth, [0.3]).loc[0.3, "recall"] == 1
    assert precision_recall(detections, ground_truth, 0.3).precision.iloc[-2:].tolist() == [1.0, 20 / 21]


@pytest.mark.parametrize("pairs", [1, 7, 50])
def test_a_group_in_slices_gives_the_same_matches(monkeypatch, pairs):
    rng = np.random.default_rng(0)
    start = rng.integers(0, 20, 60).astype(float)
    frame = pd.DataFrame({"video": rng.choice(["a", "b"], 60), "label": "run", "start": start, "end": start + 5})
    detections = frame.assign(score=rng.random(60))
    whole = matching.matches(detections, frame[:20], TIOUS)
    highest = matching.highest_tiou(detections, frame[:20])
    monkeypatch.setattr(matching, "PAIRS", pairs)
    np.testing.assert_array_equal(matching.matches(detections, frame[:20], TIOUS), whole)
    np.testing.assert_array_equal(matching.highest_tiou(detections, frame[:20]), highest)


def test_the_order_and_index_of_the_rows_do_not_matter():
    rng = np.random.default_rng(0)
    detections = pd.concat([TRUTH, TRUTH, TRUTH]).assign(score=rng.random(12), start=rng.random(12) * 3)
    detections["end"] += detections.start
    shuffled = detections.sample(frac=1, random_state=0).reset_index(drop=True)
    expected = mean_average_precision(detections, TRUTH, TIOUS)
    pd.testing.assert_frame_equal(mean_average_precision(shuffled, TRUTH, TIOUS), expected)


def test_averages_over_the_thumos_grid():
    ap = pd.DataFrame([[0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]], columns=np.linspace(0.1, 0.7, 7))
    found = averages(ap)
    assert list(found) == ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.1:0.5", "0.3:0.7", "0.1:0.7"]
    assert [found[name] for name in ("0.1:0.5", "0.3:0.7", "0.1:0.7")] == pytest.approx([0.5, 0.3, 0.4])


def test_averages_over_another_grid():
    ap = pd.DataFrame(np.ones((2, 10)), columns=np.arange(0.5, 1, 0.05))
    assert list(averages(ap))[-1] == "0.5:0.95"
    assert len(averages(ap)) == 11


def test_the_grid_of_activitynet_counts_a_detection_up_to_its_tiou():
    tious = parse_grid(Params.read(ROOT / "params" / "activitynet13.yaml").tious)
    ap = mean_average_precision(found(("v", "run", 0.5, 0, 72)), truth(("v", "run", 0, 100)), tious)
    measured = averages(ap)
    assert [measured[name] for name in ("0.5", "0.7", "0.75", "0.95")] == [1, 1, 0, 0]
    assert measured["0.5:0.95"] == 0.5  # .5, .55, .6, .65 and .7 of ten


def test_one_threshold_has_no_average_over_a_range():
    assert averages(pd.DataFrame([[0.25], [0.75]], columns=[0.5])) == {"0.5": 0.5}


def test_summary_is_in_percent():
    table = summary({"one": pd.DataFrame([[0.25]], columns=[0.5]), "two": pd.DataFrame([[1.0]], columns=[0.5])})
    assert table["0.5"].to_dict() == {"one": 25.0, "two": 100.0}


def test_quality_by_hand():
    labels = found(("a", "run", 0.9, 0, 5), ("a", "run", 0.8, 0, 4), ("b", "jump", 0.7, 1, 2), ("b", "run", 0.6, 8, 9))
    quality = pseudo_label_quality(labels, TRUTH, [0.5, 0.9])
    assert quality.labels.tolist() == [4, 4]
    # At .5 the first is matched to the true 0-4 although the second fits better; at .9 only the second is.
    assert quality.loc[0.5, ["precision", "recall", "f1"]].tolist() == [0.5, 0.5, 0.5]
    assert quality.loc[0.5, "mean_tiou"] == pytest.approx((0.8 + 0.5) / 2)
    assert quality.loc[0.5, "boundary_error"] == pytest.approx((0 + 1 + 1 + 0) / 4)
    assert quality.loc[0.9, ["precision", "recall", "mean_tiou", "boundary_error"]].tolist() == [0.25, 0.25, 1, 0]


def test_labels_that_are_too_wide_start_early_and_end_late():
    truth = found(*(("a", "run", 1, 20 * i + 5, 20 * i + 15) for i in range(5)))
    early = np.array([1, 2, 1, 0, 4])
    wide = truth.assign(start=truth.start - early, end=truth.end + 0.5)
    errors = pseudo_label_quality(wide, truth, [0.5]).loc[0.5, ["start_error", "end_error"]].tolist()
    assert errors == [-1, 0.5], "the median: one label that is far too early hardly counts"
    narrow = pseudo_label_quality(truth, wide, [0.5]).loc[0.5, ["start_error", "end_error"]].tolist()
    assert narrow == [1, -0.5]
    measures = label_measures(wide, truth)
    assert (measures["start error (s)"], measures["end error (s)"]) == (-1, 0.5)


def test_true_positives_need_the_class_and_may_share_a_segment():
    labels = found(("a", "run", 0.1, 0, 4), ("a", "run", 0.9, 0, 3), ("a", "jump", 0.9, 0, 4), ("a", "run", 0.9, 5, 6))
    assert true_positive(labels, TRUTH, 0.5).tolist() == [True, True, False, False]
    assert true_positive(labels, TRUTH, 0.8).tolist() == [True, False, False, False]


def test_precision_recall_by_hand():
    curve = precision_recall(found(("a", "run", 0.2, 8, 9), ("a", "run", 0.9, 0, 4)), TRUTH, 0.5)
    assert curve.score.tolist() == [0.9, 0.2]
    assert curve.precision.tolist() == [1.0, 0.5]
    assert curve.recall.tolist() == [0.25, 0.25]


def test_measures_of_labels():
    measures = label_measures(found(("a", "run", 0.9, 0, 4), ("a", "run", 0.8, 50, 60)), TRUTH)
    assert measures["labels"] == 2
    assert measures["precision at 0.5"] == 50
    assert measures["recall at 0.7"] == pytest.approx(100 / len(TRUTH))
    assert measures["coverage"] == pytest.approx(100 / len(TRUTH[["video", "label"]].drop_duplicates()))
    nothing = label_measures(found(("a", "run", 0.9, 50, 60)), TRUTH)
    assert nothing["f1 at 0.5"] == 0
    assert "mean tIoU" not in nothing


def test_video_level_precision_does_not_depend_on_times():
    right = found(("a", "run", 0.9, 90, 91), ("a", "run", 0.1, 0, 4))
    truth = TRUTH[TRUTH.label == "run"]
    videos = truth.video.nunique()
    assert video_level_average_precision(right, truth)["run"] == pytest.approx(1 / videos)
    wrong = pd.concat([right, found(("elsewhere", "run", 0.95, 0, 4))])
    assert video_level_average_precision(wrong, truth)["run"] == pytest.approx(0.5 / videos)
    assert video_level_average_precision(right, truth.assign(start=7.0, end=8.0))["run"] == pytest.approx(1 / videos)
