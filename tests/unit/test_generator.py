"""The generator: mining, contrast, training, and which proposals it makes."""

import contextlib
import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from fustal.data.features import FeatureStore
from fustal.engine.cpu import dropout
from fustal.engine.device import batch_of_step, random_generator
from fustal.engine.videos import sample_batch
from fustal.exceptions import InputError
from fustal.generator import (
    Activations,
    Generator,
    Snippets,
    activations,
    batch_losses,
    contrast,
    cross_video_contrast,
    dilate,
    equal_label_pairs,
    erode,
    generator_loss,
    in_video_contrast,
    info_nce,
    mine_snippets,
    train_generator,
    video_score,
)
from fustal.params import Params
from fustal.proposals import predicted_classes, propose_videos
from tests.benchmarks.plain_generator import PlainGenerator, plain_contrast, plain_losses, plain_nce

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


def _snippets(videos, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Snippets(*(torch.randn(videos, k, 5, generator=generator) for k in (4, 4, 2, 2)))


def test_info_nce_is_of_each_video_with_each():
    ea, eb, ha, _ = _snippets(3)
    found = info_nce(ha[:2], ea, eb, 0.2)
    assert found.shape == (2, 3)
    for p in range(2):
        for q in range(3):
            alone = plain_nce(ha[p : p + 1].mean(1), ea[q : q + 1].mean(1), eb[q : q + 1], 0.2)
            torch.testing.assert_close(found[p, q], alone)


def test_info_nce_of_embeddings_that_are_zero():
    zero = torch.zeros(2, 3, 4, requires_grad=True)
    found = info_nce(zero, zero, zero, 0.07)
    torch.testing.assert_close(found, torch.full((2, 2), math.log(4)))
    found.sum().backward()
    assert zero.grad.isfinite().all()


def test_in_video_contrast_is_the_sum_of_both_and_the_mean_over_videos():
    snippets = _snippets(3)
    torch.testing.assert_close(in_video_contrast(contrast(snippets, 0.2)), plain_contrast(*snippets, 0.2))


def test_cross_video_contrast_swaps_the_hard_snippets_of_each_pair():
    snippets = _snippets(4)
    labels = torch.tensor([[1, 0], [0, 1], [1, 0], [1, 0]])
    assert equal_label_pairs(labels).tolist() == [[0, 2], [0, 3], [2, 3]]
    pairs = []
    for p, q in ((0, 2), (0, 3), (2, 3)):
        ea, eb, ha, hb = snippets
        pairs.append(plain_contrast(ea[[p, q]], eb[[p, q]], ha[[q, p]], hb[[q, p]], 0.3))
    torch.testing.assert_close(cross_video_contrast(contrast(snippets, 0.3), labels), torch.stack(pairs).mean())


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
    contrasts = contrast(snippets, 0.07)
    within, across = in_video_contrast(contrasts), cross_video_contrast(contrasts, labels)
    assert across > 0
    torch.testing.assert_close(losses["none"]["loss"], classification)
    torch.testing.assert_close(losses["in-video"]["loss"], classification + 0.5 * within)
    torch.testing.assert_close(losses["cross-video"]["loss"], classification + 0.5 * (within + 0.25 * across))


def test_a_video_without_a_label_has_a_finite_loss():
    snippets = Snippets(*(torch.ones(1, 1, 3) for _ in range(4)))
    params = Params(generator_contrast="none")
    losses = generator_loss(torch.full((1, 2), 0.5), torch.zeros(1, 2), snippets, params)
    assert losses["loss"].item() == pytest.approx(math.log(2))


# --- network and training ---------------------------------------------------------------------------------------------


def test_the_network_has_the_papers_form():
    model = Generator(6, 3, 8, 0.7).eval()
    seen = model(torch.randn(2, 11, 6))
    assert [tuple(part.shape) for part in seen] == [(2, 11, 8), (2, 11, 3), (2, 11)]
    torch.testing.assert_close(seen.actionness, seen.cas.sum(2))
    assert all((part >= 0).all() for part in seen)
    assert sum(p.numel() for p in model.parameters()) == 6 * 3 * 8 + 8 + 8 * 3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("shape", [(7,), (3, 5, 11), (40, 500)])
def test_dropout_keeps_the_mean_and_passes_the_gradient_of_what_it_keeps(shape, share):
    torch.manual_seed(0)
    x = torch.ones(shape, requires_grad=True)
    y = dropout(x, share)
    kept = y > 0
    assert y.shape == x.shape
    assert torch.allclose(y[kept], torch.tensor(1 / (1 - share)), rtol=1e-4), "all alike"
    y.sum().backward()
    assert x.grad.equal(y.detach())
    if x.numel() > 1000:
        assert kept.float().mean().item() == pytest.approx(1 - share, abs=0.015)
        assert kept.float().mean(0).std() < 0.12, "no snippet or feature is dropped for good"
        assert not dropout(x, 0.5).equal(dropout(x, 0.5))


def test_dropout_is_off_in_evaluation():
    model = Generator(6, 3, 8, 0.7)
    x = torch.randn(1, 30, 6)
    assert not model(x).cas.equal(model(x).cas)
    assert model.eval()(x).cas.equal(model(x).cas)


def _smooth(videos, length, dim):
    """Features that change slowly, so that border regions are wide enough for no tie at 0 to be drawn from."""
    noise = torch.randn(videos, dim, length, generator=torch.Generator().manual_seed(1))
    return F.avg_pool1d(noise, 25, stride=1, padding=12).mT.contiguous() * 5


@pytest.mark.parametrize("dim", [16, 96])
@pytest.mark.parametrize("classes", [[0, 1, 0, 2, 0], [0, 1, 2, 3, 4], [0, 0, 0, 0, 0], [0]])
def test_losses_and_gradients_are_those_of_the_plain_loops(dim, classes):
    params = Params(easy_ratio=5, hard_ratio=40, mining_dropout=0.0)
    torch.manual_seed(0)
    ours, plain = Generator(dim, 5, dim, 0.0), PlainGenerator(dim, 5, dim, 0.0)
    ours.classify.weight.data.abs_()
    plain.load_state_dict(ours.state_dict())
    features, labels = _smooth(len(classes), 120, dim), F.one_hot(torch.tensor(classes), 5).float()
    labels[-1, 4] = 1.0
    found = batch_losses(ours(features), labels, params)
    expected = plain_losses(plain(features), labels, params)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    found["loss"].backward(), expected["loss"].backward()
    for (name, weight), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert other.grad.abs().max() > 1e-5, name
        torch.testing.assert_close(weight.grad, other.grad, rtol=1e-3, atol=1e-6 + 1e-4 * other.grad.abs().max().item())


def test_a_batch_holds_a_sample_of_each_video(planted):
    _, store = planted
    draw = lambda: sample_batch(store, ["train2", "train0"], 40, random_generator(0, 3), torch.device("cpu"))  # noqa: E731
    features = draw()
    assert features.shape == (2, 40, 6)
    for video, rows in zip(("train2", "train0"), features, strict=True):
        at = [np.flatnonzero((store[video] == row).all(1)).item() for row in rows.numpy()]
        assert (np.diff(at) >= 0).all()
        assert len(set(at)) > 30
    state = torch.get_rng_state()
    assert draw().equal(features), "the same step draws the same"
    assert torch.get_rng_state().equal(state), "torch's own state is left alone"


# --- bfloat16 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bfloat16(monkeypatch):
    """Parameters that ask for bfloat16, on a CPU that says that it has it; any CPU can emulate it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    return PARAMS.model_copy(update={"precision": "bfloat16"})


def test_the_networks_arithmetic_is_bfloat16_and_the_losses_float32(bfloat16):
    torch.manual_seed(0)
    model, features = Generator(6, 2, 128, 0.0), torch.randn(3, 40, 6)
    with torch.autocast("cpu", torch.bfloat16):
        seen = model(features)
    exact = model(features)
    assert [part.dtype for part in seen] == [torch.bfloat16, torch.float32, torch.float32]
    torch.testing.assert_close(seen.cas, exact.cas, rtol=0.05, atol=0.02)
    assert not seen.cas.equal(exact.cas)
    losses = batch_losses(seen, torch.eye(2)[[0, 1, 0]], bfloat16)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    losses["loss"].backward()
    assert all(weight.grad.dtype == torch.float32 and weight.grad.isfinite().all() for weight in model.parameters())


def test_training_in_bfloat16_learns_and_its_activations_are_near(planted, tmp_path, bfloat16):
    model, log = train_generator(bfloat16, planted[1], tmp_path)
    assert log.classification.tail(5).mean() < 0.7 * log.classification.head(5).mean()
    assert model.embed.weight.dtype == torch.float32
    rounded = activations(model, planted[1], "test0", bfloat16)
    model.arithmetic = contextlib.nullcontext()
    exact = activations(model, planted[1], "test0", PARAMS)
    torch.testing.assert_close(rounded.cas, exact.cas, rtol=0.05, atol=0.1)
    assert not rounded.cas.equal(exact.cas)


def test_bfloat16_is_refused_before_training_where_it_is_not(planted, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(InputError, match=r"^precision: 'bfloat16' was given, but this CPU does not have it"):
        train_generator(PARAMS.model_copy(update={"precision": "bfloat16"}), planted[1], tmp_path / "run")
    assert not (tmp_path / "run").exists()


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
    model, log = train_generator(params, planted[1], tmp_path / "a")
    assert not model.training
    assert len(log) == 30
    assert log.classification.tail(5).mean() < 0.7 * log.classification.head(5).mean()
    again, log_again = train_generator(params, planted[1], tmp_path / "b")
    pd.testing.assert_frame_equal(log, log_again, check_exact=True)
    for name, value in model.state_dict().items():
        assert value.equal(again.state_dict()[name]), name
    other, _ = train_generator(params.model_copy(update={"seed": 1, "generator_steps": 1}), planted[1], tmp_path / "c")
    assert not other.embed.weight.equal(model.embed.weight)


def test_the_trained_generator_finds_the_planted_actions(planted, tmp_path):
    dataset, store = planted
    params = PARAMS.model_copy(update={"generator_steps": 60})
    model, _ = train_generator(params, store, tmp_path)
    found = propose_videos(model, store, ["test0", "test1"], params)
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
    _, store = one_video(features)
    labels = {
        (recipe, known): set(
            propose_videos(_two_peaks(), store, ["train1"], Params(recipe=recipe, device="cpu"), known=known).label
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
    _, store = one_video(features)
    params = Params(device="cpu")
    assert set(propose_videos(_two_peaks(), store, ["train1"], params).label) == {"a"}
    found = propose_videos(_two_peaks(), store, ["train1"], params, known=True)
    assert set(found.label) == {"b"}


def test_proposals_are_in_seconds(one_video):
    features = np.zeros((40, 6))
    features[10:20, 1] = 4.0
    _, store = one_video(features)
    found = propose_videos(_two_peaks(), store, ["train1"], Params(device="cpu"))
    assert list(found.columns) == ["video", "label", "score", "start", "end"]
    best = found.loc[found.score.idxmax()]
    assert (best.video, best.label) == ("train1", "b")
    assert abs(best.start - 10 * 0.5) <= 0.5, "a snippet is half a second"
    assert abs(best.end - 20 * 0.5) <= 0.5


def test_proposals_lie_round_the_middle_of_their_snippets_windows(one_video):
    features = np.zeros((40, 6))
    features[[0, 1, *range(10, 20), 38, 39], 1] = 4.0  # symmetrical, but for what lies behind the last snippet
    _, store = one_video(features)
    corrected, published = (
        propose_videos(_two_peaks(), store, ["train1"], Params(recipe=recipe, device="cpu", proposal_nms=1.0))
        for recipe in ("corrected", "published")
    )
    grid = store.grid_of("train1")
    inside = corrected[(corrected.start > 4) & (corrected.end < 11)]
    middle = (inside.start + inside.end) / 2
    assert (middle - grid.to_seconds(14.5)).abs().max() <= 1.5 * 0.5 / 24, "within a position and a half"
    early = published[(published.start > 4) & (published.end < 11)]
    assert set((early.start + grid.to_seconds(0)).round(6)) == set(inside.start.round(6))
    assert corrected.start.min() == 0, "what starts with the first snippet starts with the video"
    assert corrected.end.max() == store.covered("train1")
    assert (corrected.start < corrected.end).all()


def test_long_videos_are_sampled_and_times_scaled_back(planted):
    dataset, store = planted  # train0 has 90 snippets of half a second
    features = np.zeros((90, 6), np.float32)
    features[60:80, 0] = 4.0
    np.save(dataset.root / "train0.npy", features)
    params = Params(generator_snippets=30, device="cpu")
    assert activations(_two_peaks(), store, "train0", params).cas.shape == (1, 30, 2)
    assert store.seconds_per_sample("train0", 30) == pytest.approx(1.5)
    assert store.seconds_per_sample("train0", 90) == pytest.approx(0.5)
    found = propose_videos(_two_peaks(), store, ["train0"], params)
    best = found.loc[found.score.idxmax()]
    assert abs(best.start - 30) <= 1.5
    assert abs(best.end - 40) <= 1.5


@pytest.mark.parametrize("recipe", ["corrected", "published"])
@pytest.mark.parametrize("length", [1, 2])
def test_videos_of_one_and_two_snippets(one_video, length, recipe):
    features = np.zeros((length, 6))
    features[-1, 1] = 3.0
    _, store = one_video(features)
    found = propose_videos(_two_peaks(), store, ["train1"], Params(recipe=recipe, device="cpu"), known=True)
    assert set(found.label) <= {"b"}
    assert np.isfinite(found[["score", "start", "end"]].to_numpy(float)).all()
    assert (found.end > found.start).all()
    assert (found.end <= length * 0.5 + 1e-9).all()
    assert len(found) == (length > 1), "one snippet is constant: nothing stands out"


def test_a_video_where_nothing_is_active_has_no_proposals(one_video):
    _, store = one_video(np.zeros((20, 6)))
    found = propose_videos(_two_peaks(), store, ["train1"], Params(device="cpu"), known=True)
    assert found.empty
    assert list(found.columns) == ["video", "label", "score", "start", "end"]


def test_training_with_videos_shorter_than_a_sample(planted, tmp_path):
    dataset, _ = planted
    for video in dataset.split("train"):
        np.save(dataset.root / f"{video}.npy", np.ones((1 + int(video[-1]) % 2, 6), np.float32))
    short = FeatureStore(dataclasses.replace(dataset), "student")
    _, log = train_generator(PARAMS.model_copy(update={"generator_steps": 2}), short, tmp_path)
    assert np.isfinite(log.to_numpy()).all()


def test_predicted_classes_falls_back_to_the_best():
    assert predicted_classes(np.array([0.2, 0.5, 0.3]), 0.2).tolist() == [0, 1, 2], "at least the threshold"
    assert predicted_classes(np.array([0.1, 0.1, 0.15]), 0.2).tolist() == [2]


def test_activations_are_a_batch_of_one(planted):
    _, store = planted
    seen = activations(_two_peaks(), store, "train1", Params())
    assert isinstance(seen, Activations)
    assert seen.actionness.shape == (1, store.length("train1"))
