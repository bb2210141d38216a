"""The generator: mining, contrast, training, and which proposals it makes."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from fustal.features import FeatureStore
from fustal.generator import (
    Activations,
    Generator,
    Snippets,
    activations,
    batch_of_step,
    cross_video_contrast,
    dilate,
    equal_label_pairs,
    erode,
    generator_loss,
    in_video_contrast,
    info_nce,
    localize,
    mine_snippets,
    predicted_classes,
    snippet_seconds,
    train_generator,
    video_score,
)
from fustal.params import Params

PARAMS = Params(
    generator_snippets=40, generator_dim=16, generator_steps=30, generator_batch=4, generator_lr=1e-2, device="cpu"
)


@pytest.fixture
def one_video(planted):
    """A data set whose video `train1` holds the features that are given."""
    dataset, store = planted

    def build(features):
        np.save(dataset.root / "train1.npy", features.astype(np.float32))
        return dataset, store

    return build


def _two_peaks(classes=2):
    """A generator that passes its input on: class c is what feature c says."""
    model = Generator(6, classes, 6, 0.0).eval()
    with torch.no_grad():
        model.embed.weight.zero_()
        model.embed.weight[:, :, 1] = torch.eye(6)
        model.embed.bias.zero_()
        model.classify.weight.copy_(torch.eye(6)[:classes, :, None])
    return model


# --- mining -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(2, 8))
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_erosion_and_dilation_are_scipys(size, share):
    binary = torch.rand(20, 37, generator=torch.Generator().manual_seed(size)) < share
    structure = np.ones(size, bool)
    for ours, theirs in ((erode, ndimage.binary_erosion), (dilate, ndimage.binary_dilation)):
        expected = [theirs(row.numpy(), structure) for row in binary]
        np.testing.assert_array_equal(ours(binary.float(), size).numpy(), np.array(expected, np.float32))


@pytest.mark.parametrize("length", [1, 2, 5])
def test_erosion_and_dilation_of_short_sequences(length):
    ones = torch.ones(1, length)
    assert dilate(ones, 6).tolist() == ones.tolist()
    assert erode(ones, 6).tolist() == [[0.0] * length]


def test_mining_by_hand():
    actionness = torch.tensor([[1.0, 1, 1, 1, 5, 6, 7, 6, 5, 1, 1, 2, 1, 1]])
    embeddings = torch.arange(14.0)[None, :, None]
    picked = mine_snippets(embeddings, actionness, k_easy=3, k_hard=2, small=2, large=4)
    easy_action, _, hard_action, hard_background = (part[0, :, 0].tolist() for part in picked)
    assert sorted(easy_action) == [5, 6, 7], "the highest"
    # above the median of 1: snippets 4 to 8 and 11; scipy's even structures reach one further to the left
    binary = (actionness > 1)[0].numpy()
    shapes = {n: np.ones(n, bool) for n in (2, 4)}
    inner = ndimage.binary_erosion(binary, shapes[2]) & ~ndimage.binary_erosion(binary, shapes[4])
    outer = ndimage.binary_dilation(binary, shapes[4]) & ~ndimage.binary_dilation(binary, shapes[2])
    assert set(hard_action) <= set(np.flatnonzero(inner))
    assert hard_action[0] == max(np.flatnonzero(inner), key=lambda t: actionness[0, t])
    assert set(hard_background) <= set(np.flatnonzero(outer))


def test_easy_background_is_the_lowest():
    actionness = torch.tensor([[3.0, 0.5, 2.0, 0.1, 4.0]])
    picked = mine_snippets(torch.arange(5.0)[None, :, None], actionness, k_easy=2, k_hard=1, small=1, large=2)
    assert sorted(picked.easy_background[0, :, 0].tolist()) == [1, 3]
    assert sorted(picked.easy_action[0, :, 0].tolist()) == [0, 4]


def test_mining_dropout_is_one_mask_for_both_easy_choices():
    actionness, embeddings = torch.ones(1, 200), torch.arange(200.0)[None, :, None]
    actionness[0, ::2] = 0.0
    torch.manual_seed(0)
    picked = mine_snippets(embeddings, actionness, k_easy=20, k_hard=1, small=3, large=6, dropout=0.5)
    torch.manual_seed(0)
    kept = F.dropout(torch.ones(1, 200), 0.5)[0] > 0
    for chosen, parity in ((picked.easy_action, 1), (picked.easy_background, 0)):
        at = chosen[0, :, 0].long()
        assert kept[at].all(), "what is dropped is not chosen"
        assert (at % 2 == parity).all()


# --- contrast ---------------------------------------------------------------------------------------------------------


def test_video_score_by_hand():
    cas = torch.tensor([[[4.0, 0], [3, 1], [0, 0], [0, 1]]])
    torch.testing.assert_close(video_score(cas, 2), torch.tensor([[3.5, 1.0]]).softmax(1))
    torch.testing.assert_close(video_score(cas, 1), torch.tensor([[4.0, 1.0]]).softmax(1))


def test_info_nce_by_hand():
    queries, keys = torch.tensor([[[2.0, 0.0], [4.0, 0.0]]]), torch.tensor([[[0.0, 1.0], [2.0, 1.0]]])
    negatives = torch.tensor([[[-3.0, 0.0], [0.0, 7.0]]])
    positive, others = math.cos(math.pi / 4), (-1.0, 0.0)
    expected = -math.log(math.exp(positive / 0.5) / sum(math.exp(v / 0.5) for v in (positive, *others)))
    assert info_nce(queries, keys, negatives, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_in_video_contrast_is_the_sum_of_both_and_the_mean_over_videos():
    generator = torch.Generator().manual_seed(0)
    ea, eb, ha, hb = (torch.randn(3, k, 5, generator=generator) for k in (4, 4, 2, 2))
    each = [info_nce(*(v[i : i + 1] for v in (ha, ea, eb)), 0.2) for i in range(3)]
    each += [info_nce(*(v[i : i + 1] for v in (hb, eb, ea)), 0.2) for i in range(3)]
    torch.testing.assert_close(in_video_contrast(Snippets(ea, eb, ha, hb), 0.2), torch.stack(each).sum() / 3)


def test_cross_video_contrast_swaps_the_hard_snippets_of_each_pair():
    generator = torch.Generator().manual_seed(0)
    snippets = Snippets(*(torch.randn(4, k, 5, generator=generator) for k in (4, 4, 2, 2)))
    labels = torch.tensor([[1, 0], [0, 1], [1, 0], [1, 0]])
    assert equal_label_pairs(labels).tolist() == [[0, 2], [0, 3], [2, 3]]
    pairs = []
    for p, q in ((0, 2), (0, 3), (2, 3)):
        straight, swapped = [p, q], [q, p]
        ea, eb, ha, hb = snippets
        pairs.append(in_video_contrast(Snippets(ea[straight], eb[straight], ha[swapped], hb[swapped]), 0.3))
    torch.testing.assert_close(cross_video_contrast(snippets, labels, 0.3), torch.stack(pairs).mean())


def test_sets_of_labels_must_be_identical_for_a_pair():
    assert equal_label_pairs(torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1]])).tolist() == [[0, 3]]


@pytest.mark.parametrize("labels", [[[1.0, 0]], [[1.0, 0], [0, 1]]])
def test_without_a_pair_the_cross_video_term_is_0_and_training_goes_on(labels):
    labels = torch.tensor(labels)
    snippets = Snippets(*(torch.randn(len(labels), 2, 3, requires_grad=True) for _ in range(4)))
    score = torch.rand(len(labels), 2, requires_grad=True)
    losses = generator_loss(score, labels, snippets, Params(generator_contrast="cross-video"))
    assert losses["cross_video"].item() == 0
    losses["loss"].backward()
    assert all(torch.isfinite(part.grad).all() for part in (*snippets, score))
    assert snippets.hard_action.grad.abs().sum() > 0, "the in-video term still pulls"


def test_each_contrast_option_adds_its_terms():
    generator = torch.Generator().manual_seed(0)
    snippets = Snippets(*(torch.randn(3, 2, 4, generator=generator) for _ in range(4)))
    score, labels = torch.rand(3, 2, generator=generator), torch.tensor([[1.0, 0], [1.0, 0], [1.0, 1]])
    weights = {"contrast_weight": 0.5, "cross_video_weight": 0.25}
    losses = {
        name: generator_loss(score, labels, snippets, Params(generator_contrast=name, **weights))
        for name in ("none", "in-video", "cross-video")
    }
    assert list(losses["none"]) == ["loss", "classification"]
    assert list(losses["in-video"]) == ["loss", "classification", "in_video"]
    assert list(losses["cross-video"]) == ["loss", "classification", "in_video", "cross_video"]
    classification = F.binary_cross_entropy(score, torch.tensor([[1.0, 0], [1.0, 0], [0.5, 0.5]]))
    within, across = in_video_contrast(snippets, 0.07), cross_video_contrast(snippets, labels, 0.07)
    assert across > 0
    torch.testing.assert_close(losses["none"]["loss"], classification)
    torch.testing.assert_close(losses["in-video"]["loss"], classification + 0.5 * within)
    torch.testing.assert_close(losses["cross-video"]["loss"], classification + 0.5 * (within + 0.25 * across))
    assert list(generator_loss(score, labels, None, Params())) == ["loss", "classification"]


def test_a_video_without_a_label_has_a_finite_loss():
    losses = generator_loss(torch.full((1, 2), 0.5), torch.zeros(1, 2), None, Params())
    assert losses["loss"].item() == pytest.approx(math.log(2))


# --- network and training ---------------------------------------------------------------------------------------------


def test_the_network_has_the_papers_form():
    model = Generator(6, 3, 8, 0.7).eval()
    seen = model(torch.randn(2, 11, 6))
    assert [tuple(part.shape) for part in seen] == [(2, 11, 8), (2, 11, 3), (2, 11)]
    torch.testing.assert_close(seen.actionness, seen.cas.sum(2))
    assert all((part >= 0).all() for part in seen)
    assert sum(p.numel() for p in model.parameters()) == 6 * 3 * 8 + 8 + 8 * 3


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (3, 8), (5, 5), (1, 2)])
def test_batches_cover_every_epoch(count, batch):
    steps = 3 * count
    drawn = [n for step in range(steps) for n in batch_of_step(count, batch, step, seed=1)]
    epochs = [drawn[i : i + count] for i in range(0, len(drawn), count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count > 2:
        assert len(set(map(tuple, epochs))) > 1, "epochs are shuffled differently"
        assert drawn != [n for step in range(steps) for n in batch_of_step(count, batch, step, seed=2)]


@pytest.mark.parametrize("contrast", ["none", "in-video", "cross-video"])
def test_training_learns_and_is_repeatable(planted, tmp_path, contrast):
    params = PARAMS.model_copy(update={"generator_contrast": contrast})
    model, log = train_generator(params, *planted, tmp_path / "a")
    assert not model.training
    assert len(log) == 30
    assert log.classification.tail(5).mean() < 0.7 * log.classification.head(5).mean()
    again, log_again = train_generator(params, *planted, tmp_path / "b")
    pd.testing.assert_frame_equal(log, log_again, check_exact=True)
    for name, value in model.state_dict().items():
        assert value.equal(again.state_dict()[name]), name
    other, _ = train_generator(params.model_copy(update={"seed": 1, "generator_steps": 1}), *planted, tmp_path / "c")
    assert not other.embed.weight.equal(model.embed.weight)


def test_the_trained_generator_finds_the_planted_actions(planted, tmp_path):
    dataset, store = planted
    params = PARAMS.model_copy(update={"generator_steps": 60})
    model, _ = train_generator(params, dataset, store, tmp_path)
    found = localize(model, dataset, store, ["test0", "test1"], params)
    best = found.loc[found.groupby("video").score.idxmax()].set_index("video")
    for row in dataset.segments_of("test").itertuples():
        top = best.loc[row.video]
        overlap = min(top.end, row.end) - max(top.start, row.start)
        assert top.label == row.label
        assert overlap / (max(top.end, row.end) - min(top.start, row.start)) > 0.5


# --- localisation -----------------------------------------------------------------------------------------------------


def test_known_labels_restrict_proposals_of_the_corrected_recipe_only(one_video):
    features = np.zeros((40, 6))
    features[5:12, 0], features[20:30, 1] = 4.0, 4.0  # both classes are seen, train1 is labelled "b" alone
    dataset, store = one_video(features)
    labels = {
        (recipe, known): set(
            localize(_two_peaks(), dataset, store, ["train1"], Params(recipe=recipe, device="cpu"), known=known).label
        )
        for recipe in ("corrected", "published")
        for known in (True, False)
    }
    assert labels == {
        ("corrected", True): {"b"},
        ("corrected", False): {"a", "b"},
        ("published", True): {"a", "b"},
        ("published", False): {"a", "b"},
    }


def test_a_known_label_is_proposed_even_when_the_network_misses_it(one_video):
    features = np.zeros((40, 6))
    features[5:15, 0] = 9.0  # looks like class a, is labelled b
    features[25:27, 1] = 1.0
    dataset, store = one_video(features)
    params = Params(device="cpu")
    assert set(localize(_two_peaks(), dataset, store, ["train1"], params).label) == {"a"}
    found = localize(_two_peaks(), dataset, store, ["train1"], params, known=True)
    assert set(found.label) == {"b"}


def test_proposals_are_in_seconds(one_video):
    features = np.zeros((40, 6))
    features[10:20, 1] = 4.0
    dataset, store = one_video(features)
    found = localize(_two_peaks(), dataset, store, ["train1"], Params(device="cpu"))
    assert list(found.columns) == ["video", "label", "score", "start", "end"]
    best = found.loc[found.score.idxmax()]
    assert (best.video, best.label) == ("train1", "b")
    assert abs(best.start - 10 * 0.5) <= 0.5, "a snippet is half a second"
    assert abs(best.end - 20 * 0.5) <= 0.5


def test_long_videos_are_sampled_and_times_scaled_back(planted):
    dataset, store = planted  # train0 has 90 snippets of half a second
    features = np.zeros((90, 6), np.float32)
    features[60:80, 0] = 4.0
    np.save(dataset.root / "train0.npy", features)
    assert activations(_two_peaks(), store, "train0", 30).cas.shape == (30, 2)
    assert snippet_seconds(store, "train0", 30) == pytest.approx(1.5)
    assert snippet_seconds(store, "train0", 90) == pytest.approx(0.5)
    found = localize(_two_peaks(), dataset, store, ["train0"], Params(generator_snippets=30, device="cpu"))
    best = found.loc[found.score.idxmax()]
    assert abs(best.start - 30) <= 1.5
    assert abs(best.end - 40) <= 1.5


@pytest.mark.parametrize("recipe", ["corrected", "published"])
@pytest.mark.parametrize("length", [1, 2])
def test_videos_of_one_and_two_snippets(one_video, length, recipe):
    features = np.zeros((length, 6))
    features[-1, 1] = 3.0
    dataset, store = one_video(features)
    found = localize(_two_peaks(), dataset, store, ["train1"], Params(recipe=recipe, device="cpu"), known=True)
    assert set(found.label) <= {"b"}
    assert np.isfinite(found[["score", "start", "end"]].to_numpy(float)).all()
    assert (found.end > found.start).all()
    assert (found.end <= length * 0.5 + 1e-9).all()
    assert len(found) == (length > 1), "one snippet is constant: nothing stands out"


def test_a_video_where_nothing_is_active_has_no_proposals(one_video):
    dataset, store = one_video(np.zeros((20, 6)))
    found = localize(_two_peaks(), dataset, store, ["train1"], Params(device="cpu"), known=True)
    assert found.empty
    assert list(found.columns) == ["video", "label", "score", "start", "end"]


def test_training_with_videos_shorter_than_a_sample(planted, tmp_path):
    dataset, _ = planted
    for video in dataset.split("train"):
        np.save(dataset.root / f"{video}.npy", np.ones((1 + int(video[-1]) % 2, 6), np.float32))
    short = FeatureStore(dataclasses.replace(dataset), "student")
    _, log = train_generator(PARAMS.model_copy(update={"generator_steps": 2}), dataset, short, tmp_path)
    assert np.isfinite(log.to_numpy()).all()


def test_predicted_classes_falls_back_to_the_best():
    assert predicted_classes(np.array([0.2, 0.5, 0.3]), 0.2).tolist() == [0, 1, 2], "at least the threshold"
    assert predicted_classes(np.array([0.1, 0.1, 0.15]), 0.2).tolist() == [2]


def test_activations_have_no_batch_axis(planted):
    _, store = planted
    seen = activations(_two_peaks(), store, "train1", 100)
    assert isinstance(seen, Activations)
    assert seen.actionness.shape == (store.length("train1"),)
