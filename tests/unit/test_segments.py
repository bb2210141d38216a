"""Functions on segments: hand-made cases, degenerate ones, and properties."""

import resource

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fustal.segments import OVERLAP, best_segments, hard_nms, iou_score, prior_rank, soft_nms, tiou_matrix, vote
from tests.benchmarks import plain_post

NONE = torch.zeros(0, 2)
OPTIONS = {"sigma": 0.5, "min_score": 0.001, "max_segments": 100}


@st.composite
def segment_sets(draw, maximum=25, ties=False):
    """Segments, scores and labels of one video; times on a coarse grid: ties and touching segments occur."""
    count = draw(st.integers(0, maximum))
    classes = draw(st.sampled_from([1, 3, 30]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    start = rng.integers(0, 20, count)
    segments = torch.tensor(np.stack([start, start + rng.integers(0, 9, count)], axis=1), dtype=torch.float32)
    scores = rng.choice([0.0, 0.05, 0.5, 0.9, 1.0], count) if ties else rng.random(count)
    return segments, torch.tensor(scores, dtype=torch.float32), torch.tensor(rng.integers(0, classes, count))


def assert_same(found, expected):
    for ours, plain in zip(found, expected, strict=True):
        assert_close(ours, plain, rtol=0, atol=0)


def test_tiou_by_hand():
    a = torch.tensor([[0.0, 4.0], [2.0, 2.0]])
    b = torch.tensor([[2.0, 6.0], [4.0, 5.0], [2.0, 2.0]])
    assert_close(tiou_matrix(a, b), torch.tensor([[2 / 6, 0, 0], [0, 0, 0]]))


def test_plus_one_lengthens_segments_and_overlaps():
    found = tiou_matrix(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.5, 2.0]]), plus_one=True)
    assert_close(found, torch.tensor([[0.5 / (2 + 1.5 - 0.5)]]))


def test_no_segments_give_no_segments():
    empty = torch.zeros(0)
    assert tiou_matrix(NONE, torch.ones(3, 2)).shape == (0, 3)
    assert iou_score(NONE).shape == (0,)
    assert hard_nms(NONE, empty, 0.5).shape == (0,)
    segments, scores, labels = soft_nms(NONE, empty, empty.long(), voting_tiou=0.7, **OPTIONS)
    assert (segments.shape, scores.shape, labels.shape) == ((0, 2), (0,), (0,))


@given(segment_sets())
def test_tiou_is_symmetric_and_bounded(case):
    tiou = tiou_matrix(case[0], case[0])
    assert_close(tiou, tiou.T)
    assert ((tiou >= 0) & (tiou <= 1)).all()


def test_iou_score_of_a_single_segment_is_zero():
    assert iou_score(torch.tensor([[1.0, 2.0]])).tolist() == [0]
    assert iou_score(torch.tensor([[1.0, 1.0], [1.0, 1.0]])).tolist() == [0, 0]


def test_hard_nms_suppresses_at_the_threshold():
    segments = torch.tensor([[0.0, 2.0], [0.0, 4.0], [0.0, 4.1]])
    scores = torch.tensor([0.9, 0.8, 0.1])
    assert hard_nms(segments, scores, 0.5).tolist() == [0, 2]
    assert hard_nms(segments, scores, 0.51).tolist() == [0, 1]


@given(segment_sets())
def test_kept_segments_do_not_overlap_and_each_dropped_one_overlaps_a_better_one(case):
    segments, scores, _ = case
    kept = hard_nms(segments, scores, 0.4)
    tiou = tiou_matrix(segments, segments[kept])
    assert (tiou[kept].fill_diagonal_(0) < 0.4).all()
    dropped = [i for i in range(len(scores)) if i not in kept.tolist()]
    assert all((tiou[i, scores[kept] >= scores[i]] >= 0.4).any() for i in dropped)


@given(segment_sets(60, ties=True), st.sampled_from([0.01, 0.25, 0.5, 1.0]), st.booleans())
def test_hard_nms_against_a_loop(case, threshold, plus_one):
    segments, scores, _ = case
    kept = hard_nms(segments, scores, threshold, plus_one=plus_one)
    expected = plain_post.plain_hard_nms(segments.numpy(), scores.numpy(), threshold, float(plus_one))
    assert kept.tolist() == expected.tolist()


def test_hard_nms_of_a_chain():
    start = torch.arange(50.0)  # each segment overlaps the better one before it, which may have been dropped itself
    chain = torch.stack([start, start + 2], dim=1)
    assert hard_nms(chain, -start, 1 / 3).tolist() == list(range(0, 50, 2))
    assert hard_nms(chain, -start, 0.34).tolist() == list(range(50))


def test_of_equal_scores_the_first_is_kept():
    segments = torch.tensor([[0.0, 4.0], [0.0, 5.0]])
    assert hard_nms(segments, torch.ones(2), 0.5).tolist() == [0]


def _soft_nms_slowly(segments, scores, groups, sigma, min_score, max_segments):
    """The definition of soft-NMS, one picked segment after the other."""
    scores = scores.clone()
    tiou = tiou_matrix(segments, segments)
    left = list(range(len(scores)))
    picked = []
    decayed = []
    while len(picked) < max_segments:
        left = [i for i in left if scores[i] >= min_score]
        if not left:
            break
        best = max(left, key=lambda i: scores[i].item())
        picked.append(best)
        decayed.append(scores[best].item())
        left.remove(best)
        for i in left:
            if groups[i] == groups[best]:
                scores[i] *= torch.exp(-(tiou[i, best] ** 2) / sigma)
    return picked, decayed


@given(segment_sets(), st.booleans())
def test_soft_nms_agrees_with_its_definition(case, class_agnostic):
    segments, scores, labels = case
    groups = torch.zeros_like(labels) if class_agnostic else labels
    options = {"sigma": 0.5, "min_score": 0.1, "max_segments": 15}
    picked, decayed = _soft_nms_slowly(segments, scores, groups, **options)
    found = soft_nms(segments, scores, labels, class_agnostic=class_agnostic, **options)
    assert_close(found[1], torch.tensor(decayed, dtype=torch.float32))
    assert_close(found[0], segments[picked])
    assert found[2].tolist() == labels[picked].tolist()


OPTIONS_WITH_TIES = [(0.5, 0.001, 2000), (0.05, 0.0, 2000), (2.0, 0.1, 7)]
"""Sigma, minimum score and maximum number of segments."""


@given(case=segment_sets(120, ties=True), options=st.sampled_from(OPTIONS_WITH_TIES))
def test_soft_nms_equals_a_loop_on_ties(case, options):
    sigma, min_score, max_segments = options
    found = soft_nms(*case, sigma=sigma, min_score=min_score, max_segments=max_segments)
    assert_same(found, plain_post.soft_nms(*case, *options))


@pytest.mark.parametrize("classes", [1, 5, 40])
def test_soft_nms_equals_a_loop_on_many(classes):
    rng = np.random.default_rng(classes)
    start = rng.uniform(0, 500, 600)
    length = rng.lognormal(3, 1, 600)
    segments = torch.from_numpy(np.stack([start, start + length], axis=1).astype(np.float32))
    scores = torch.from_numpy(rng.random(600).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, classes, 600))
    for maximum in (50, 600):
        found = soft_nms(segments, scores, labels, sigma=0.5, min_score=0.001, max_segments=maximum)
        assert_same(found, plain_post.soft_nms(segments, scores, labels, 0.5, 0.001, maximum))


def test_soft_nms_of_one_large_class_among_many():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(np.where(np.arange(90) < 60, 7, rng.integers(0, 40, 90)))
    start = rng.uniform(0, 30, 90)
    segments = torch.from_numpy(np.stack([start, start + 5], axis=1))
    scores = torch.from_numpy(rng.random(90))
    found = soft_nms(segments, scores, labels, sigma=0.5, min_score=0.001, max_segments=90)
    assert_same(found, plain_post.soft_nms(segments, scores, labels, 0.5, 0.001, 90))


def test_soft_nms_with_a_narrow_gaussian_keeps_one():
    twins = torch.tensor([[0.0, 4.0]] * 3 + [[0.0, 5.0]] * 3)
    found = soft_nms(twins, torch.ones(6), torch.zeros(6).long(), sigma=1e-3, min_score=0.001, max_segments=6)
    assert found[1].tolist() == [1.0], "the scores of all others fall to 0"


def test_soft_nms_returns_at_most_max_segments():
    segments = torch.tensor([[0.0, 4.0], [9.0, 12.0]])
    scores = torch.tensor([0.9, 0.8])
    for maximum in (0, 1, 2):
        found = soft_nms(segments, scores, torch.tensor([0, 1]), **OPTIONS | {"max_segments": maximum})
        assert found[1].tolist() == scores[:maximum].tolist()


def test_soft_nms_does_not_change_its_inputs():
    segments = torch.tensor([[0.0, 4.0], [0.0, 4.0]])
    scores = torch.tensor([0.9, 0.8])
    soft_nms(segments, scores, torch.zeros(2, dtype=torch.long), **OPTIONS)
    assert scores.tolist() == pytest.approx([0.9, 0.8])


def test_soft_nms_of_classes_far_apart_in_number():
    segments = torch.tensor([[0.0, 4.0], [1.0, 4.0], [0.0, 4.0]])
    found = soft_nms(segments, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 500, 500]), **OPTIONS)
    assert found[2].tolist() == [0, 500, 500]
    assert found[1][:2].tolist() == pytest.approx([0.9, 0.8])
    assert found[1][2].item() == pytest.approx(0.7 * np.exp(-(0.75**2) / 0.5))


def test_vote_weighs_by_score_and_keeps_segments_without_voters():
    segments = torch.tensor([[0.0, 10.0], [50.0, 60.0]])
    voters = torch.tensor([[0.0, 10.0], [1.0, 10.0], [0.0, 4.0]])
    found = vote(segments, voters, torch.tensor([0.75, 0.25, 1.0]), 0.7)
    assert_close(found, torch.tensor([[0.25, 10.0], [50.0, 60.0]]))


def test_many_proposals_of_one_video_need_little_memory():
    """All pairs of 20,000 segments would take 3 GB."""
    random = torch.Generator().manual_seed(0)
    start = 1000 * torch.rand(20_000, generator=random, dtype=torch.float64)
    segments = torch.stack([start, start + 20 * torch.rand(20_000, generator=random, dtype=torch.float64)], dim=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    part = iou_score(segments[:6000])
    kept = hard_nms(segments, torch.rand(20_000, generator=random), 0.5)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300_000, f"{grown} kB"
    assert len(part) == 6000
    assert 0 < len(kept) < 20_000


# --- the best segments ------------------------------------------------------------------------------------------------


@given(segment_sets(ties=True), st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0]), st.sampled_from([0.0, -0.5, -2.0]))
def test_best_segments_against_a_loop(case, share, shift):
    segments, scores, _ = case
    scores = scores + shift
    ranks = scores.roll(1)
    kept = []
    for i in ranks.argsort(descending=True, stable=True).tolist():
        if (tiou_matrix(segments[i : i + 1], segments[kept]) < OVERLAP).all():
            kept.append(i)
    highest = max(scores[kept].tolist(), default=0)
    minimum = share * highest if highest > 0 else highest
    assert best_segments(segments, scores, ranks, share).tolist() == [
        i for i in kept if scores[i] >= torch.tensor(minimum, dtype=scores.dtype)
    ]


def test_best_segments_of_one_and_of_none():
    assert best_segments(NONE, torch.zeros(0), torch.zeros(0), 0.5).tolist() == []
    one = torch.tensor([[1.0, 2.0]])
    for score in (0.5, 0.0, -3.0):
        assert best_segments(one, torch.tensor([score]), torch.tensor([9.0]), 0.5).tolist() == [0]


def test_a_more_confident_piece_does_not_keep_the_whole_out():
    whole_and_pieces = torch.tensor([[0.0, 6.0], [0.0, 2.0], [4.0, 6.0]])
    scores = torch.tensor([0.38, 0.46, 0.42])
    assert best_segments(whole_and_pieces, scores, torch.tensor([1.4, 0.9, 0.8]), 0.9).tolist() == [0]


def test_touching_segments_are_both_kept():
    chain = torch.tensor([[0.1, 0.3], [0.3, 0.7], [0.7, 1.1]])
    assert best_segments(chain, torch.ones(3), torch.ones(3), 1.0).tolist() == [0, 1, 2]


def test_prior_rank_by_hand():
    scores = torch.tensor([0.5, 0.5, -1.0, 0.0])
    density = torch.tensor([16.0, 0.0, 5.0, 5.0])
    assert_close(prior_rank(scores, density, 0.25), torch.tensor([1.0, 0.5e-3, 0.0, 0.0]))
    assert_close(prior_rank(scores, density, 0.0), torch.tensor([0.5, 0.5, 0.0, 0.0]))
