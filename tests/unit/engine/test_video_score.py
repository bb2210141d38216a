"""Video scores: which one fits the labels, how many snippets make it, and the loss against the labels."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fustal.engine.video_score import (
    choose_video_score,
    first_fitting,
    pooled_ratios,
    video_loss,
    video_scores,
    with_video_score,
)
from fustal.params import Params
from tests.networks import PUBLISHED

SIGMOID = Params(video_score="sigmoid")
SOFTMAX = Params(**PUBLISHED)


def labels_of(one=0, two=0, none=0):
    """Multi-hot labels of videos with one class, with two classes and with none."""
    return np.array([[1, 0, 0]] * one + [[1, 0, 1]] * two + [[0, 0, 0]] * none).reshape(-1, 3)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (labels_of(one=100), "softmax"),
        (labels_of(one=51, two=49), "softmax"),
        (labels_of(one=50, two=50), "sigmoid"),
        (labels_of(one=96, none=4), "softmax"),
        (labels_of(one=95, none=5), "sigmoid"),
        (labels_of(none=3), "sigmoid"),
        (labels_of(), "softmax"),
    ],
)
def test_the_video_score_follows_from_the_labels(labels, kind):
    found, why = choose_video_score(labels)
    assert found == kind
    assert why.startswith("a labelled training video has ")


def test_empty_videos_do_not_lower_the_number_of_classes():
    assert choose_video_score(labels_of(two=24, none=1))[1].startswith("a labelled training video has 2.00 classes")


def test_only_auto_is_replaced_and_test_videos_do_not_count(planted):
    dataset, _ = planted
    assert with_video_score(Params(), dataset).video_score == "softmax"
    assert with_video_score(SIGMOID, dataset) is SIGMOID
    labels = dataset.video_labels
    without_test = replace(dataset, video_labels=labels[~labels.video.str.startswith("test")])
    assert with_video_score(Params(), without_test).video_score == "softmax"
    one_empty = replace(dataset, video_labels=labels[labels.video != "train0"])
    assert with_video_score(Params(), one_empty).video_score == "sigmoid", "one of eight has no label"


# --- ratios -----------------------------------------------------------------------------------------------------------


def test_the_first_ratio_that_is_mostly_filled_fits():
    filled = torch.tensor([[0.6, 0.59, 0.1, 1.0], [0.2, 0.6, 0.2, 0.6], [1.0, 1.0, 0.3, 0.1]])
    assert first_fitting(filled).tolist() == [0, 1, 2, 0]


def test_three_ratios_from_the_first_on_are_pooled():
    found = pooled_ratios(torch.tensor([0, 2, 3, 4, 5]), Params(score_ratios="5,10,20,40,80,160"))
    assert found.T.tolist() == [[5, 10, 20], [20, 40, 80], [40, 80, 160], [40, 80, 160], [40, 80, 160]]


@pytest.mark.parametrize(("ratios", "pooled"), [("7", [[7]]), ("3,4", [[3], [4]])])
def test_fewer_ratios_than_three_are_all_pooled(ratios, pooled):
    assert pooled_ratios(torch.tensor([1]), Params(score_ratios=ratios)).tolist() == pooled


# --- scores -----------------------------------------------------------------------------------------------------------


def plain_scores(values, valid, ratios, params):
    """The definition, one ratio, video and class after the other."""
    scores = torch.zeros(len(ratios), *values.shape[:2])
    for k, b, c in np.ndindex(*scores.shape):
        count = max(1, int(valid[b, c]) // int(ratios[k, c]))
        best = sorted(values[b, c].tolist(), reverse=True)[:count]
        scores[k, b, c] = sum(best) / count
    return scores.softmax(dim=2) if params.video_score == "softmax" else scores


@pytest.mark.parametrize("params", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])
def test_scores_against_loops(params):
    random = torch.Generator().manual_seed(0)
    values = torch.rand(4, 3, 37, generator=random)
    valid = torch.tensor([[37, 37, 37], [20, 11, 1], [5, 37, 2], [30, 30, 30]])
    values[torch.arange(37) >= valid[..., None]] = -torch.inf
    ratios = torch.tensor([[1, 5, 10], [3, 10, 50]])
    assert_close(video_scores(values, valid, ratios, params), plain_scores(values, valid, ratios, params))


def test_a_score_of_certain_snippets_is_at_most_1():
    ones = torch.ones(1, 1, 49)
    assert video_scores(ones, torch.tensor([[49]]), torch.tensor([[1]]), SIGMOID).item() <= 1


# --- loss -------------------------------------------------------------------------------------------------------------


def test_the_sigmoid_loss_against_a_plain_computation():
    scores = torch.tensor([[[0.9, 0.2, 0.6]], [[0.5, 0.1, 0.3]]])
    labels = torch.tensor([[1.0, 0.0, 1.0]])
    terms = [0.9, 1 - 0.2, 0.6, 0.5, 1 - 0.1, 0.3]  # the probability of the right answer
    expected = -sum(map(math.log, terms)) / 6
    assert video_loss(scores, labels, SIGMOID).item() == pytest.approx(expected, rel=1e-5)


def test_the_classes_of_a_video_share_the_target_of_the_softmax():
    scores = torch.tensor([[[0.7, 0.2, 0.1]]])
    labels = torch.tensor([[1.0, 0.0, 1.0]])
    halves = [0.5 * (math.log(p) + math.log(1 - p)) for p in (0.7, 0.1)]
    expected = -(sum(halves) + math.log(1 - 0.2)) / 3
    assert video_loss(scores, labels, SOFTMAX).item() == pytest.approx(expected, rel=1e-5)


def test_a_video_of_no_class_lowers_the_activations_of_all_classes():
    logits = torch.zeros(1, 3, 10, requires_grad=True)
    scores = video_scores(logits.sigmoid(), torch.tensor([[10]]), torch.full((1, 3), 5), SIGMOID)
    video_loss(scores, torch.zeros(1, 3), SIGMOID).backward()
    assert (logits.grad.sum(dim=2) > 0).all(), "gradient descent lowers them"
    assert_close(logits.grad.sum(dim=2), torch.full((1, 3), 0.5 / 3))
    assert video_loss(torch.full((1, 1, 3), 0.5), torch.zeros(1, 3), SOFTMAX).item() == pytest.approx(math.log(2))
