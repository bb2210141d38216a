"""Kinds of errors and mAP by length, compared with a slow implementation of their definitions."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fustal.evaluation.detections import mean_average_precision
from fustal.evaluation.diagnosis import KINDS, average_precision_by_length, error_shares, kinds_of_detections

TRUTH = pd.DataFrame(
    [("a", "run", 0, 4), ("a", "run", 10, 20), ("b", "jump", 0, 2), ("b", "jump", 5, 9)],
    columns=["video", "label", "start", "end"],
)


def found(*rows):
    kinds = {"score": float, "start": float, "end": float}
    return pd.DataFrame(rows, columns=["video", "label", "score", "start", "end"]).astype(kinds)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (("a", "run", 0.5, 0, 4), "right"),
        (("a", "run", 0.5, 0, 20), "right"),
        (("a", "run", 0.5, 3, 8), "localisation"),
        (("b", "run", 0.5, 0, 2), "wrong label"),
        (("a", "run", 0.5, 5, 9), "background"),
        (("c", "run", 0.5, 0, 4), "background"),
    ],
)
def test_each_kind(row, kind):
    assert kinds_of_detections(found(row), TRUTH).tolist() == [kind]


def test_a_second_detection_of_an_action_is_double():
    twice = found(("a", "run", 0.4, 0, 4), ("a", "run", 0.5, 0, 3.9), ("a", "run", 0.1, 10, 20))
    assert kinds_of_detections(twice, TRUTH).to_dict() == {1: "right", 0: "double"}, "the two best of two actions"


def test_shares():
    shares = error_shares(found(("a", "run", 0.5, 0, 4), ("a", "run", 0.4, 5, 9)), TRUTH)
    assert shares.to_dict() == {
        "right": 0.5,
        "double": 0,
        "localisation": 0,
        "wrong label": 0,
        "background": 0.5,
        "missed": 0.75,
    }
    assert error_shares(found(), TRUTH).to_dict() == dict.fromkeys(KINDS, 0) | {"missed": 1}


def kinds_naively(detections, truth, tiou):
    """The definition of the kinds, one detection after the other."""

    def overlap(a, b):
        both = max(0, min(a.end, b.end) - max(a.start, b.start))
        return both / ((a.end - a.start) + (b.end - b.start) - both)

    ranked = detections.sort_values("score", ascending=False, kind="stable")
    kinds = {}
    matched = set()
    counted = dict.fromkeys(truth.label, 0)
    for row in ranked.itertuples():
        # As many detections of a class are counted as it has true segments.
        if counted.get(row.label, 0) >= (truth.label == row.label).sum():
            continue
        counted[row.label] += 1
        near = {true.Index: overlap(row, true) for true in truth[truth.video == row.video].itertuples()}
        own = {i: value for i, value in near.items() if truth.label[i] == row.label}
        free = {i: value for i, value in own.items() if i not in matched and value >= tiou}
        if free:
            matched.add(max(reversed(free), key=free.get))  # the last of equal ones
            kinds[row.Index] = "right"
        elif max(own.values(), default=0) >= tiou:
            kinds[row.Index] = "double"
        elif max(own.values(), default=0) >= 0.1:
            kinds[row.Index] = "localisation"
        else:
            kinds[row.Index] = "wrong label" if max(near.values(), default=0) >= 0.1 else "background"
    return kinds


SEGMENTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 20), st.integers(1, 10)), max_size=12
)


def frame(rows):
    table = pd.DataFrame(rows, columns=["video", "label", "start", "length"]).astype({"start": float, "length": float})
    return table.assign(end=table.start + table.length).drop(columns="length")


@given(SEGMENTS, SEGMENTS, st.sampled_from([0.3, 0.5]))
def test_kinds_are_those_of_the_definition(detected, true, tiou):
    truth = frame(true)
    scores = np.random.default_rng(0).permutation(len(detected)) / 16
    detections = frame(detected).assign(score=scores)
    assert kinds_of_detections(detections, truth, tiou).to_dict() == kinds_naively(detections, truth, tiou)


def test_by_length():
    perfect = TRUTH.assign(score=0.5).astype({"start": float, "end": float})
    assert (average_precision_by_length(perfect, TRUTH, bins=2) == 1).all()
    short = perfect[perfect.end - perfect.start < 4]
    assert average_precision_by_length(short, TRUTH, bins=2).tolist() == [1, 0]
    late = perfect.assign(end=perfect.end + 1)
    one = average_precision_by_length(late, TRUTH, 0.5, bins=1)
    assert one.tolist() == [mean_average_precision(late, TRUTH, [0.5])[0.5].mean()]


def test_actions_of_one_length_are_one_range():
    same = TRUTH.assign(start=0.0, end=3.0)
    assert average_precision_by_length(same.assign(score=0.5), same, bins=5).index.tolist() == ["3.0–3.0 s"]


def test_a_range_without_an_action_is_left_out():
    apart = TRUTH[:2].assign(video=["a", "b"], start=0.0, end=[1.0, 9.0])
    ap = average_precision_by_length(apart.assign(score=0.5), apart, bins=5)
    assert ap.to_dict() == {"1.0–2.6 s": 1, "7.4–9.0 s": 1}


def test_a_false_positive_counts_in_the_bin_of_its_own_length():
    wrong = found(("a", "run", 0.9, 100, 130), ("a", "run", 0.8, 0, 4), ("a", "run", 0.7, 10, 20))
    run = TRUTH[TRUTH.label == "run"]
    assert average_precision_by_length(wrong, run, bins=2).tolist() == [1, 1], "longer than any action"
    wrong.loc[0, "end"] = 108
    assert average_precision_by_length(wrong, run, bins=2).tolist() == [1, 0.5]
