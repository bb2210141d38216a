"""Proposals from activations, and the filter: each piece against a plain loop."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fustal.generator import activations, train_generator
from fustal.labels import (
    FALLBACK,
    SHARES,
    add_iou_score,
    best_labels,
    choose_share,
    select,
    share_agreement,
    weigh_durations,
)
from fustal.params import Params
from fustal.proposals import (
    apply_hard_nms,
    contrasted_runs,
    find_runs,
    mean_activations,
    normalise,
    outer_inner_contrast,
    predicted_classes,
    propose,
    propose_videos,
    upsample,
)
from fustal.segments import tiou_matrix
from tests.benchmarks.plain_post import (
    plain_contrast,
    plain_contrasted_runs,
    plain_iou_score,
    plain_propose,
    plain_runs,
    plain_upsample,
)
from tests.networks import SMALL_GENERATOR, copying_generator

SEQUENCES = arrays(float, st.integers(1, 40), elements=st.floats(0, 1, width=16))


@given(arrays(bool, st.integers(1, 30)))
def test_runs_against_a_loop(mask):
    first, last = find_runs(mask)
    assert list(zip(first, last, strict=True)) == plain_runs(mask)


def test_no_runs():
    assert [len(part) for part in find_runs(np.zeros(5, bool))] == [0, 0]
    assert [len(part) for part in find_runs(np.ones(1, bool))] == [0, 0], "a run has at least two positions"


@given(arrays(float, st.integers(2, 30), elements=st.floats(-5, 5, width=16)), st.integers(1, 24))
def test_upsampling_is_linear_interpolation_with_extrapolation(sequence, factor):
    np.testing.assert_allclose(upsample(normalise(sequence), factor), plain_upsample(sequence, factor), atol=1e-9)


def test_upsampling_one_snippet_repeats_it():
    assert upsample(np.array([0.5], np.float32), 3).tolist() == [0.5, 0.5, 0.5]


@given(arrays(np.float32, st.integers(1, 30), elements=st.floats(-5, 5, width=16)))
def test_normalised_sequences_reach_from_0_to_1(sequence):
    result = normalise(sequence)
    assert ((result >= 0) & (result <= 1)).all()
    low = max(0.0, float(sequence.min()))
    high = max(0.0, float(sequence.max()))
    span = high - low if high > low else 1.0
    expected = (sequence.astype(float) - low) / span
    np.testing.assert_allclose(result, np.clip(expected, 0, 1))


def test_normalising_constant_and_negative_sequences():
    assert normalise(np.array([-3.0, -1.0])).tolist() == [0, 0], "values below 0 become 0"
    assert normalise(np.array([-1.0, 2.0])).tolist() == [0, 1]
    assert normalise(np.array([0.5, 0.5])).tolist() == [0, 0]


@given(
    arrays(float, st.integers(2, 40), elements=st.floats(0, 1, width=16)),
    st.sampled_from([0.0, 0.1, 0.25, 1.0, 3.0]),
    st.data(),
)
def test_contrast_against_a_loop(values, flank, data):
    position = st.integers(0, len(values) - 1)
    spans = data.draw(st.lists(st.tuples(position, position), max_size=6))
    first, last = np.sort(np.array(spans, int).reshape(-1, 2)).T  # each span in order, (N,) each
    expected = [plain_contrast(values, a, b, flank) for a, b in zip(first, last, strict=True)]
    np.testing.assert_allclose(outer_inner_contrast(values, first, last, flank), expected, atol=1e-9)


def test_contrast_by_hand():
    values = np.array([0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.3, 0.0])
    found = outer_inner_contrast(values, np.array([2]), np.array([5]), 0.25)
    np.testing.assert_allclose(found, [1.0 - 0.4])
    whole = outer_inner_contrast(values, np.array([0]), np.array([7]), 0.25)
    np.testing.assert_allclose(whole, [values.mean()], err_msg="without a flank the mean outside is 0")


@given(SEQUENCES, st.integers(0, 2**32 - 1))
def test_runs_of_all_thresholds_against_a_loop(activation, seed):
    action = np.random.default_rng(seed).choice([0.0, 0.1, 0.35, 0.6, 0.9, 1.0], len(activation))
    params = Params(cas_thresholds="0:0.1:0.2", actionness_thresholds="0.1:0.25:0.6")
    expected = plain_contrasted_runs(activation, action, params)
    first, last, contrast = contrasted_runs(activation, action, params)
    assert first.tolist() == [a for a, _, _ in expected]
    assert last.tolist() == [b for _, b, _ in expected]
    np.testing.assert_allclose(contrast, [value for *_, value in expected], atol=1e-9)


# --- propose ----------------------------------------------------------------------------------------------------------


def _propose(cas, classes=(0,), **changes):
    cas = np.asarray(cas, np.float32)
    score = np.linspace(0.6, 0.4, cas.shape[1])
    return propose(cas, cas.sum(1), score, np.array(classes), 2.0, Params(**changes))


@pytest.mark.parametrize("recipe", ["corrected", "published"])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_activations_of_zero_have_no_proposals(length, recipe):
    found = _propose(np.zeros((length, 2)), (0, 1), recipe=recipe)
    assert found.empty
    assert list(found.columns) == ["label", "score", "start", "end"]
    assert found.label.dtype == int
    assert [found[name].dtype for name in ("score", "start", "end")] == [float] * 3


def test_no_classes_have_no_proposals():
    found = _propose(np.ones((4, 1)) * np.arange(4)[:, None], ())
    assert found.empty
    assert found.label.dtype == int


def test_one_rectangle():
    cas = np.zeros((10, 1))
    cas[4:6] = 1.0
    found = _propose(cas, cas_thresholds="0.5:1:0.5", actionness_thresholds="0.5:1:0.5", upscale=4)
    # Upsampled, the rectangle is a trapezium that falls to 0.5 two positions before and after: positions 14 to 22,
    # four for each snippet.
    trapezium = np.interp(np.arange(40) / 4, np.arange(10), cas[:, 0])
    above = np.where(trapezium >= 0.5, trapezium, 0)
    assert (found.label.tolist(), found.start.tolist(), found.end.tolist()) == ([0], [14 / 4 * 2], [23 / 4 * 2])
    by_cas = plain_contrast(above, 14, 22, 0.25) + 0.2 * 0.6
    by_actionness = plain_contrast(trapezium, 14, 22, 0.25) + 0.2 * 0.6
    assert by_cas > by_actionness, "a CAS threshold sets the flanks to 0"
    assert found.score.tolist() == pytest.approx([by_cas]), "of equal proposals the better one stays"


@pytest.mark.parametrize("length", [1, 2, 40, 200])
def test_proposals_against_loops(length):
    random = np.random.default_rng(length)
    cas = np.maximum(random.normal(0.3, 1, (length, 3)), 0).repeat(3, axis=0).astype(np.float32)
    case = cas, cas.sum(1), np.array([0.9, 0.5, 0.1]), np.array([0, 2]), 0.64, Params()
    # Sorted by times: the order of equal scores depends on how their means are rounded.
    order = ["label", "start", "end"]
    ours = propose(*case).round(9).sort_values(order, ignore_index=True)
    plain = plain_propose(*case).round(9).sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(ours, plain, check_dtype=False)


def test_each_class_has_its_own_proposals():
    cas = np.zeros((20, 3))
    cas[2:6, 0] = 1.0
    cas[10:16, 2] = 2.0
    found = _propose(cas, (0, 2))
    assert set(found.label) == {0, 2}
    best = found.loc[found.groupby("label").score.idxmax()].set_index("label")
    assert best.start[0] < 2 * 6 < best.start[2]
    alone = _propose(cas, (2,))
    pd.testing.assert_frame_equal(alone, found[found.label == 2].reset_index(drop=True))


def test_proposals_of_a_class_do_not_overlap_by_the_nms_threshold():
    random = np.random.default_rng(0)
    found = _propose(random.random((30, 2)), (0, 1), proposal_nms=0.4)
    for _, part in found.groupby("label"):
        segments = torch.tensor(part[["start", "end"]].to_numpy())
        assert len(segments) > 3
        assert tiou_matrix(segments, segments).fill_diagonal_(0).max() < 0.4
        assert (part.score.diff().dropna() <= 0).all(), "best first"


def test_the_published_nms_adds_a_second_to_every_length():
    segments, scores = np.array([[0.0, 1.0], [0.6, 1.6]]), np.array([0.9, 0.8])
    assert apply_hard_nms(segments, scores, Params(recipe="corrected")).tolist() == [0, 1], "tIoU 0.25"
    assert apply_hard_nms(segments, scores, Params(recipe="published")).tolist() == [0], "tIoU 1.4 / 2.6"


def test_the_first_of_equal_scores_stays():
    assert apply_hard_nms(np.array([[0.0, 10.0], [0.0, 11.0], [0.0, 12.0]]), np.ones(3), Params()).tolist() == [0]
    scores = np.random.default_rng(0).choice([0.9, 0.5], 200)  # numpy's default sort is stable for short arrays
    apart = np.stack([2.0 * np.arange(200), 2.0 * np.arange(200) + 1], axis=1)
    by_score_then_position = sorted(range(200), key=lambda i: (-scores[i], i))
    assert apply_hard_nms(apart, scores, Params()).tolist() == by_score_then_position
    assert apply_hard_nms(np.empty((0, 2)), np.empty(0), Params()).tolist() == []


# --- the filter -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 25), st.integers(0, 2**32 - 1))
def test_iou_score_against_a_loop(count, seed):
    random = np.random.default_rng(seed)
    start = random.uniform(0, 10, count)
    frame = pd.DataFrame(
        {
            "video": random.choice(["v", "w", "x"], count),
            "label": random.choice(["a", "b"], count),
            "score": random.random(count),
            "start": start,
            "end": start + random.uniform(0.1, 5, count),
        },
        index=random.permutation(count) + 100,
    )
    found = add_iou_score(frame)
    np.testing.assert_allclose(found.iou_score, plain_iou_score(frame), atol=1e-9)
    pd.testing.assert_frame_equal(found.drop(columns="iou_score"), frame)


def test_iou_score_of_no_proposals():
    empty = pd.DataFrame({name: [] for name in ("video", "label", "score", "start", "end")})
    found = add_iou_score(empty)
    assert list(found.columns) == [*empty.columns, "iou_score"]
    for rule in ("thresholds", "best"):
        assert select(found, Params(label_rule=rule, label_share=0.5)).empty


def test_selection_keeps_scores_from_gamma_and_confidences_above_eta():
    frame = pd.DataFrame({"iou_score": [0.2, 0.19, 0.2, 5.0], "score": [0.41, 0.9, 0.4, 0.5]}, index=[4, 5, 6, 7])
    kept = select(frame, Params(label_rule="thresholds", iou_score_min=0.2, confidence_min=0.4))
    assert kept.to_dict("list") == {"iou_score": [0.2, 5.0], "score": [0.41, 0.5]}
    assert kept.index.tolist() == [0, 1]


@given(st.integers(1, 25), st.integers(0, 2**32 - 1))
def test_class_aware_iou_score_against_a_loop(count, seed):
    random = np.random.default_rng(seed)
    start = random.integers(0, 4, count).astype(float)
    columns = {"video": random.choice(["v", "w"], count), "label": random.choice(["a", "b"], count)}
    frame = pd.DataFrame(columns | {"score": random.normal(size=count), "start": start, "end": start + 2})
    found = add_iou_score(frame, "class-aware")
    best = frame.groupby(["video", "label", "start", "end"]).score.max()  # of duplicates the most confident one
    assert found.set_index(best.index.names).score.to_dict() == best.to_dict()
    for row in found.itertuples():
        others = found[(found.video == row.video) & (found.label == row.label)].drop(row.Index)
        pair = torch.tensor([[row.start, row.end]]), torch.tensor(others[["start", "end"]].to_numpy(float))
        expected = (tiou_matrix(*pair)[0].numpy() * others.score.clip(lower=0)).sum()
        assert row.iou_score == pytest.approx(expected)


# --- the best of each class -------------------------------------------------------------------------------------------


@st.composite
def candidate_frames(draw, negative=True):
    """Proposals with IoU scores: videos with one proposal and with many, equal scores, zeros and negative scores."""
    count = draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    start = random.integers(0, 30, count).astype(float)
    values = [-2.0, -0.5, 0.0, 0.25, 0.5, 1.0] if negative else [0.0, 0.25, 0.5, 1.0]
    scores = random.choice(values, count) if draw(st.booleans()) else random.random(count)
    columns = {"video": random.choice(["v", "w"], count), "label": random.choice(["a", "b", "c"], count)}
    times = {"start": start, "end": start + random.integers(1, 9, count)}
    return add_iou_score(pd.DataFrame(columns | {"score": scores} | times), "class-aware")


SHARE_AND_PRIOR = st.sampled_from([0.0, 0.3, 0.6, 1.0]), st.sampled_from([0.0, 0.25, 1.0])


@given(candidate_frames(), *SHARE_AND_PRIOR)
def test_every_class_of_a_video_keeps_a_label_and_none_overlap(frame, share, prior):
    kept = best_labels(frame, share, prior)
    groups = ["video", "label"]
    assert set(kept.groupby(groups).groups) == set(frame.groupby(groups).groups)
    for _, part in kept.groupby(groups):
        segments = torch.tensor(part[["start", "end"]].to_numpy())
        assert tiou_matrix(segments, segments).fill_diagonal_(0).max() == 0
        highest = part.score.max()
        assert (part.score >= min(share * highest, highest)).all()
    assert len(kept.merge(frame)) == len(kept), "the rows are as they were"
    assert kept.index.tolist() == list(range(len(kept)))


@given(candidate_frames(), *SHARE_AND_PRIOR)
def test_what_is_left_out_is_unsure_or_overlaps_another_proposal(frame, share, prior):
    kept = best_labels(frame, share, prior)
    keys = ["video", "label", "start", "end"]
    out = frame.merge(kept[keys], how="left", on=keys, indicator=True)
    for row in out[out["_merge"] == "left_only"].itertuples():
        labels = kept[(kept.video == row.video) & (kept.label == row.label)]
        highest = labels.score.max()
        others = frame[(frame.video == row.video) & (frame.label == row.label)]
        overlap = np.minimum(others.end, row.end) - np.maximum(others.start, row.start)
        alone = (overlap > 0).sum() == 1  # itself
        assert not alone or row.score < max(share * highest, 0) or row.score < highest <= 0


@given(
    candidate_frames(negative=False), SHARE_AND_PRIOR[0], st.sampled_from([0.0, 1.0]), st.sampled_from([0.25, 2.0**20])
)
def test_labels_do_not_depend_on_the_scale_of_the_scores(frame, share, prior, scale):
    """The factor is a power of 2: with others, or with a root of the IoU score, equal ranks would differ."""
    scaled = add_iou_score(frame.assign(score=scale * frame.score), "class-aware")
    times = ["video", "label", "start", "end"]
    pd.testing.assert_frame_equal(best_labels(scaled, share, prior)[times], best_labels(frame, share, prior)[times])


def test_of_equally_confident_proposals_the_more_surrounded_one_is_kept():
    frame = pd.DataFrame({"video": "v", "label": "a", "score": [0.8, 0.8, 0.8], "start": [0.0, 1.0, 2.0]})
    frame["end"] = frame.start + 4
    scored = add_iou_score(frame, "class-aware")
    assert best_labels(scored, 0.5, 0.25).start.tolist() == [1.0]
    assert best_labels(scored, 0.5, 0.0).start.tolist() == [0.0], "without the prior the first one"


def test_labels_of_one_proposal_and_of_none():
    one = pd.DataFrame({"video": ["v"], "label": ["a"], "score": [-3.0], "start": [0.0], "end": [1.0]})
    scored = add_iou_score(one, "class-aware")
    assert len(best_labels(scored, 0.6, 0.25)) == 1
    assert best_labels(scored[:0], 0.6, 0.25).empty


def test_the_rule_of_the_parameters_selects():
    start = np.array([0.0, 0.5, 10.0, 20.0])
    frame = pd.DataFrame({"video": "v", "label": "a", "score": [1.0, 0.9, 0.5, 0.2], "start": start, "end": start + 4})
    scored = add_iou_score(frame, "class-aware")
    assert select(scored, Params(label_share=0.4)).start.tolist() == [0.0, 10.0]
    assert select(scored, Params(label_share=0.2)).start.tolist() == [0.0, 10.0, 20.0]
    thresholds = Params(label_rule="thresholds", iou_score_min=0.1, confidence_min=0.4)
    assert select(scored, thresholds).start.tolist() == [0.0, 0.5]


# --- durations that are typical of a class ----------------------------------------------------------------------------


def lasting(durations, label="a", score=0.8):
    """Proposals that do not overlap, each in a video of its own."""
    videos = [f"{label}{number}" for number in range(len(durations))]
    frame = pd.DataFrame({"video": videos, "label": label, "score": score, "start": 5.0})
    return add_iou_score(frame.assign(end=frame.start + np.asarray(durations, float)), "class-aware")


def test_a_proposal_of_another_duration_loses_confidence_and_its_place():
    typical = lasting([3.8, 3.9, 4.0, 4.1, 4.2] * 4)
    whole = pd.DataFrame({"video": "w", "label": "a", "score": [0.7, 0.72], "start": [10.0, 2.0], "end": [14.0, 42.0]})
    proposals = add_iou_score(pd.concat([typical, whole], ignore_index=True), "class-aware")
    without = select(proposals, Params(label_share=0.5, duration_prior=0.0))
    assert without[without.video == "w"].end.tolist() == [42.0]
    labels = select(proposals, Params(label_share=0.5))
    assert labels[labels.video == "w"].end.tolist() == [14.0]
    # The spread is .1, the least: the logarithms of 4 and 40 s are log(10) / .1 spreads apart.
    weighted = weigh_durations(proposals, Params())
    assert weighted.score.iloc[-1] == pytest.approx(0.72 / (1 + (np.log(10) / 0.1) ** 2) ** 0.25, rel=1e-6)
    assert weighted.score.iloc[-2] == pytest.approx(0.7, rel=1e-6), "the median duration keeps its confidence"


def test_durations_that_vary_widely_have_less_weight():
    narrow, wide = lasting([3.0, 4.0, 5.0] * 5), lasting([1.0, 4.0, 16.0] * 5, "b")
    weighted = weigh_durations(pd.concat([narrow, wide], ignore_index=True), Params())
    lowest = weighted.groupby("label").score.min()
    assert lowest["a"] < 0.8
    assert lowest["b"] < 0.8
    same = weigh_durations(pd.concat([narrow, lasting([4.0] * 14 + [16.0], "b")], ignore_index=True), Params())
    assert same.score.min() < lowest["b"] - 0.2, "sixteen seconds are rare there"


def test_few_labels_of_a_class_take_the_spread_of_all():
    many = lasting([2.0, 4.0, 8.0] * 20)
    weighted = weigh_durations(pd.concat([many, lasting([4.0, 4.0, 6.0], "b")], ignore_index=True), Params())
    assert weighted.score.iloc[-1] > 0.75, "two equal durations do not make a third one impossible"


@given(candidate_frames(), st.sampled_from([1e-3, 60.0, 2.0**10]))
def test_weights_of_durations_have_no_unit(frame, scale):
    scaled = frame.assign(start=scale * frame.start, end=scale * frame.end)
    np.testing.assert_allclose(weigh_durations(scaled, Params()).score, weigh_durations(frame, Params()).score)


@given(candidate_frames())
def test_no_duration_raises_a_confidence(frame):
    weighted = weigh_durations(frame, Params())
    assert (weighted.score <= frame.score).all()
    assert weighted.score[frame.score <= 0].equals(frame.score[frame.score <= 0])
    assert weighted.drop(columns="score").equals(frame.drop(columns="score"))
    assert weigh_durations(frame, Params(duration_prior=0.0)) is frame
    assert weigh_durations(frame[:0], Params()).empty


# --- the share of the best confidence ---------------------------------------------------------------------------------


def test_the_share_of_the_highest_agreement_is_chosen():
    assert choose_share({0.3: 0.5, 0.6: 0.7, 0.7: 0.8, 0.9: 0.1}, Params()).label_share == 0.7
    assert choose_share({}, Params()).label_share == FALLBACK
    assert choose_share(dict.fromkeys(SHARES, 0.0), Params()).label_share == FALLBACK, "nothing agrees"
    given = Params(label_share=0.45)
    assert choose_share({0.3: 0.5, 0.6: 0.8}, given) is given, "a share that is given is kept"


def test_of_shares_that_agree_as_much_the_middle_one_is_chosen():
    near = {0.3: 0.7, 0.4: 0.795, 0.6: 0.8, 0.7: 0.799, 0.9: 0.1}
    assert choose_share(near, Params()).label_share == 0.6
    assert choose_share(near | {0.3: 0.793}, Params(), chance=0.01).label_share == 0.4, "0.007 less is chance"
    assert choose_share({0.3: 0.8, 0.4: 0.795}, Params(), chance=0.01).label_share == 0.3, "the lower one of two"
    assert choose_share({0.3: 0.789, 0.4: 0.8}, Params(), chance=0.01).label_share == 0.4, "0.011 is more than chance"
    assert choose_share(dict.fromkeys(SHARES, 0.5), Params()).label_share == 0.6


def opinion(false, seed):
    """Proposals of one generator: ten actions that both find (confidence .7 to 1), and false ones of its own."""
    random = np.random.default_rng(seed)
    confidence = np.append(1.0, random.uniform(0.7, 1, 9))
    actions = pd.DataFrame({"video": "v", "label": "a", "score": confidence, "start": 100.0 * np.arange(10)})
    others = pd.DataFrame({"video": "v", "label": "a", "score": false, "start": random.uniform(1000, 9000, len(false))})
    both = pd.concat([actions, others], ignore_index=True)
    return add_iou_score(both.assign(end=both.start + 5), "class-aware")


def test_false_labels_differ_and_lower_the_agreement():
    false = np.linspace(0.32, 0.58, 14)
    agreed = share_agreement(opinion(false, 1), opinion(false, 2), Params())
    assert list(agreed) == list(SHARES)
    assert agreed[0.6] == agreed[0.7] == 1, "only the actions are left"
    assert agreed[0.3] < agreed[0.4] < agreed[0.5] < 0.9
    assert agreed[0.9] < 0.9, "each is sure of other actions"
    assert choose_share(agreed, Params()).label_share == 0.6


def test_no_proposals_agree_on_nothing():
    nothing = opinion(np.zeros(0), 1)[:0]
    assert share_agreement(nothing, nothing, Params()) == dict.fromkeys(SHARES, 0.0)


# --- proposals of whole videos ----------------------------------------------------------------------------------------


@pytest.fixture
def one_video(planted):
    """Writes the features of the video `train1`; returns data set and store."""
    dataset, store = planted

    def build(features):
        np.save(dataset.root / "train1.npy", features.astype(np.float32))
        return dataset, store

    return build


def test_the_trained_generator_finds_the_planted_actions(planted, tmp_path):
    dataset, store = planted
    params = Params(**(SMALL_GENERATOR | {"generator_steps": 60}), device="cpu")
    model, _ = train_generator(params, store, tmp_path)
    found = propose_videos([model], store, ["test0", "test1"], params)
    best = found.loc[found.groupby("video").score.idxmax()].set_index("video")
    for row in dataset.segments_of("test").itertuples():
        top = best.loc[row.video]
        overlap = min(top.end, row.end) - max(top.start, row.start)
        assert top.label == row.label
        assert overlap / (max(top.end, row.end) - min(top.start, row.start)) > 0.5


def test_known_labels_restrict_proposals_of_the_corrected_recipe_only(one_video):
    features = np.zeros((40, 6))
    features[5:12, 0] = 4.0
    features[20:30, 1] = 4.0  # both classes are active, and the only label of train1 is "b"
    _, store = one_video(features)

    def proposed_labels(recipe, known):
        params = Params(recipe=recipe, device="cpu")
        return set(propose_videos([copying_generator()], store, ["train1"], params, known=known).label)

    assert proposed_labels("corrected", known=True) == {"b"}
    assert proposed_labels("corrected", known=False) == {"a", "b"}
    assert proposed_labels("published", known=True) == {"a", "b"}
    assert proposed_labels("published", known=False) == {"a", "b"}


def test_a_known_label_is_proposed_even_when_the_network_misses_it(one_video):
    features = np.zeros((40, 6))
    features[5:15, 0] = 9.0  # the network predicts class a, the label is b
    features[25:27, 1] = 1.0
    _, store = one_video(features)
    params = Params(device="cpu")
    assert set(propose_videos([copying_generator()], store, ["train1"], params).label) == {"a"}
    found = propose_videos([copying_generator()], store, ["train1"], params, known=True)
    assert set(found.label) == {"b"}


def test_proposals_are_in_seconds(one_video):
    features = np.zeros((40, 6))
    features[10:20, 1] = 4.0
    _, store = one_video(features)
    found = propose_videos([copying_generator()], store, ["train1"], Params(device="cpu"))
    assert list(found.columns) == ["video", "label", "score", "start", "end"]
    best = found.loc[found.score.idxmax()]
    assert (best.video, best.label) == ("train1", "b")
    assert abs(best.start - 10 * 0.5) <= 0.5, "a snippet lasts half a second"
    assert abs(best.end - 20 * 0.5) <= 0.5


def test_proposals_lie_round_the_middle_of_their_snippets_windows(one_video):
    features = np.zeros((40, 6))
    features[[0, 1, *range(10, 20), 38, 39], 1] = 4.0  # symmetrical, except behind the last snippet
    _, store = one_video(features)

    def proposals(recipe):
        params = Params(recipe=recipe, device="cpu", proposal_nms=1.0)
        return propose_videos([copying_generator()], store, ["train1"], params)

    corrected = proposals("corrected")
    published = proposals("published")
    grid = store.grid_of("train1")
    inside = corrected[(corrected.start > 4) & (corrected.end < 11)]
    middle = (inside.start + inside.end) / 2
    assert (middle - grid.to_seconds(14.5)).abs().max() <= 1.5 * 0.5 / 24, "within a position and a half"
    early = published[(published.start > 4) & (published.end < 11)]
    assert set((early.start + grid.to_seconds(0)).round(6)) == set(inside.start.round(6))
    assert corrected.start.min() == 0, "a proposal that starts with the first snippet starts with the video"
    assert corrected.end.max() == store.covered("train1")
    assert (corrected.start < corrected.end).all()


def test_long_videos_are_sampled_and_times_scaled_back(planted):
    dataset, store = planted  # train0 has 90 snippets of half a second
    features = np.zeros((90, 6), np.float32)
    features[60:80, 0] = 4.0
    np.save(dataset.root / "train0.npy", features)
    params = Params(generator_snippets=30, device="cpu")
    assert activations(copying_generator(), store, "train0", params).cas.shape == (1, 30, 2)
    assert store.seconds_per_sample("train0", 30) == pytest.approx(1.5)
    assert store.seconds_per_sample("train0", 90) == pytest.approx(0.5)
    found = propose_videos([copying_generator()], store, ["train0"], params)
    best = found.loc[found.score.idxmax()]
    assert abs(best.start - 30) <= 1.5
    assert abs(best.end - 40) <= 1.5


@pytest.fixture(params=[31, 59, 100])
def long_video(request, one_video):
    """A video that is longer than a sample of 30 snippets; a snippet lasts half a second.

    Returns:
        Its number of snippets, and a function (snippets of the only action, recipe) -> middle of its proposal (s).
    """
    length = request.param
    dataset, store = one_video(np.zeros((length, 6)))
    # One threshold just below the highest activation: one proposal, around it.
    one = {"cas_thresholds": "0.9:0.1:0.9", "actionness_thresholds": "0.9:0.1:0.9"}

    def middle(action, recipe):
        features = np.zeros((length, 6), np.float32)
        features[action, 1] = 4.0
        np.save(dataset.root / "train1.npy", features)
        params = Params(recipe=recipe, generator_snippets=30, device="cpu", **one)
        found = propose_videos([copying_generator(minimum=0.5)], store, ["train1"], params)
        assert len(found) == 1
        return (found.start[0] + found.end[0]) / 2

    return length, middle


def test_times_in_long_videos_are_those_of_the_sampled_snippets(long_video):
    """Each sampled snippet in turn is the action, except at the ends, where a proposal reaches to the end."""
    length, middle = long_video
    position = 0.5 * length / 30 / 24
    for j in range(1, 29):
        snippet = j * length // 30
        # The activation falls faster on the side of the nearer neighbour.
        assert middle(snippet, "corrected") == pytest.approx(0.5 * (snippet + 0.5), abs=position + 0.025)
        # Released: timed as if it were at j * length / 30, by the start of its window.
        assert middle(snippet, "published") == pytest.approx(0.5 * j * length / 30, abs=position)


def test_times_in_long_videos_do_not_drift(long_video):
    """The action takes each place in turn; it is just long enough for one snippet of it to be sampled."""
    length, middle = long_video
    step = length / 30
    duration = math.ceil(step)
    errors = {}
    for recipe in ("published", "corrected"):
        for first in range(2 * duration, length - 3 * duration):
            true = 0.5 * (first + duration / 2)
            errors.setdefault(recipe, []).append(middle(slice(first, first + duration), recipe) - true)
    # Where between two sampled snippets the action lies cannot be known. Published: and half a window.
    assert np.abs(errors["corrected"]).max() < 0.5 * (step / 2 + 0.1)
    assert np.abs(errors["published"]).max() < 0.5 * (step / 2 + 0.5)
    for part in np.array_split(errors["corrected"], 3):
        assert abs(part.mean()) < 0.5 * 0.2, "neither early nor late, in any third of the video"


@pytest.mark.parametrize("recipe", ["corrected", "published"])
@pytest.mark.parametrize("length", [1, 2])
def test_videos_of_one_and_two_snippets(one_video, length, recipe):
    features = np.zeros((length, 6))
    features[-1, 1] = 3.0
    _, store = one_video(features)
    found = propose_videos([copying_generator()], store, ["train1"], Params(recipe=recipe, device="cpu"), known=True)
    assert set(found.label) <= {"b"}
    assert np.isfinite(found[["score", "start", "end"]].to_numpy(float)).all()
    assert (found.end > found.start).all()
    assert (found.end <= length * 0.5 + 1e-9).all()
    assert len(found) == (length > 1), "a sequence of one snippet is constant after normalisation"


def test_a_video_where_nothing_is_active_has_no_proposals(one_video):
    _, store = one_video(np.zeros((20, 6)))
    found = propose_videos([copying_generator()], store, ["train1"], Params(device="cpu"), known=True)
    assert found.empty
    assert list(found.columns) == ["video", "label", "score", "start", "end"]


def test_predicted_classes_fall_back_to_the_best():
    minimum = np.full(3, 0.2)
    assert predicted_classes(np.array([0.2, 0.5, 0.3]), minimum).tolist() == [0, 1, 2], "scores at the threshold count"
    assert predicted_classes(np.array([0.1, 0.1, 0.15]), minimum).tolist() == [2]
    assert predicted_classes(np.array([0.1, 0.9, 0.4]), np.array([0.2, 0.95, 0.5])).tolist() == [1], "the closest one"


def test_activations_of_two_generators_are_averaged(one_video):
    features = np.zeros((40, 6))
    features[5:15, 0] = 4.0
    features[20:30, 1] = 4.0
    _, store = one_video(features)
    one, other = copying_generator(), copying_generator(minimum=0.4)
    with torch.no_grad():
        other.classify.weight.copy_(other.classify.weight.flip(0))  # takes one class for the other
    params = Params(device="cpu", video_score="softmax")
    cas, actionness, score = mean_activations([one, other], store, "train1", params)
    assert cas[8].tolist() == cas[25].tolist() == [2.0, 2.0]
    assert actionness[8] == 4.0
    assert score.tolist() == [0.5, 0.5]
    both = propose_videos([one, other], store, ["train1"], params)
    assert set(both.label) == {"a", "b"}
    np.testing.assert_array_equal(both.start[both.label == "a"].to_numpy(), both.start[both.label == "b"].to_numpy())
