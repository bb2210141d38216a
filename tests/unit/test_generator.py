"""The generator: mining, contrast, network and training."""

import contextlib
import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from fustal import generator
from fustal.data.features import FeatureStore
from fustal.engine import loop
from fustal.engine.checkpoint import load_module
from fustal.engine.video_score import pooled_ratios
from fustal.exceptions import InputError
from fustal.generator import (
    Activations,
    Generator,
    Snippets,
    activations,
    batch_losses,
    class_minimum,
    class_probabilities,
    contrast,
    cross_video_contrast,
    dilate,
    equal_label_pairs,
    erode,
    fitting_ratios,
    generator_loss,
    in_video_contrast,
    info_nce,
    mine_snippets,
    train_generator,
    video_score,
)
from fustal.params import Params
from tests.benchmarks.plain_generator import PlainGenerator, plain_contrast, plain_losses, plain_nce
from tests.networks import PUBLISHED, SMALL_GENERATOR, copying_generator

PARAMS = Params(**SMALL_GENERATOR, device="cpu")


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
    easy_action = picked.easy_action[0, :, 0].tolist()
    hard_action = picked.hard_action[0, :, 0].tolist()
    hard_background = picked.hard_background[0, :, 0].tolist()
    assert sorted(easy_action) == [5, 6, 7], "the highest"
    # Above the median of 1: snippets 4 to 8 and 11; scipy's even structures reach one further to the left.
    binary = (actionness > 1)[0].numpy()
    small = np.ones(2, bool)
    large = np.ones(4, bool)
    inner = ndimage.binary_erosion(binary, small) & ~ndimage.binary_erosion(binary, large)
    outer = ndimage.binary_dilation(binary, large) & ~ndimage.binary_dilation(binary, small)
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
        positions = chosen[0, :, 0].long()
        assert kept[positions].all(), "dropped snippets are not chosen"
        assert (positions % 2 == parity).all()


# --- contrast ---------------------------------------------------------------------------------------------------------


def test_video_score_by_hand():
    cas = torch.tensor([[[4.0, 0], [3, 1], [0, 0], [0, 1]]])
    for ratio, means in ((2, [3.5, 1.0]), (4, [4.0, 1.0]), (5, [4.0, 1.0])):
        found = video_score(cas, torch.full((1, 2), ratio), Params(**PUBLISHED))
        torch.testing.assert_close(found, torch.tensor([means]).softmax(1))


def test_info_nce_by_hand():
    queries = torch.tensor([[[2.0, 0.0], [4.0, 0.0]]])
    keys = torch.tensor([[[0.0, 1.0], [2.0, 1.0]]])
    negatives = torch.tensor([[[-3.0, 0.0], [0.0, 7.0]]])
    positive = math.cos(math.pi / 4)
    similarities = [positive, -1.0, 0.0]
    total = sum(math.exp(similarity / 0.5) for similarity in similarities)
    expected = -math.log(math.exp(positive / 0.5) / total)
    assert info_nce(queries, keys, negatives, 0.5).item() == pytest.approx(expected, rel=1e-5)


def _snippets(videos, easy=4, hard=2, dim=5, **options):
    """Random embeddings of mined snippets."""
    random = torch.Generator().manual_seed(0)
    easy_action = torch.randn(videos, easy, dim, generator=random, **options)
    easy_background = torch.randn(videos, easy, dim, generator=random, **options)
    hard_action = torch.randn(videos, hard, dim, generator=random, **options)
    hard_background = torch.randn(videos, hard, dim, generator=random, **options)
    return Snippets(easy_action, easy_background, hard_action, hard_background)


def test_info_nce_of_each_pair_of_videos():
    easy_action, easy_background, hard_action, _ = _snippets(3)
    found = info_nce(hard_action[:2], easy_action, easy_background, 0.2)
    assert found.shape == (2, 3)
    for p in range(2):
        for q in range(3):
            query = hard_action[p : p + 1].mean(1)
            key = easy_action[q : q + 1].mean(1)
            alone = plain_nce(query, key, easy_background[q : q + 1], 0.2)
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
        easy_action, easy_background, hard_action, hard_background = snippets
        easy = easy_action[[p, q]], easy_background[[p, q]]
        swapped = hard_action[[q, p]], hard_background[[q, p]]
        pairs.append(plain_contrast(*easy, *swapped, 0.3))
    torch.testing.assert_close(cross_video_contrast(contrast(snippets, 0.3), labels), torch.stack(pairs).mean())


def test_the_labels_of_a_pair_must_be_identical():
    assert equal_label_pairs(torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1]])).tolist() == [[0, 3]]


def test_videos_without_a_class_are_no_pair():
    assert equal_label_pairs(torch.tensor([[0, 0], [1, 0], [0, 0], [1, 0], [0, 0]])).tolist() == [[1, 3]]
    assert equal_label_pairs(torch.zeros(4, 3)).shape == (0, 2)


@pytest.mark.parametrize("labels", [[[1.0, 0]], [[1.0, 0], [0, 1]], [[0.0, 0], [0, 0]]])
def test_without_a_pair_the_cross_video_term_is_0_and_gradients_are_finite(labels):
    labels = torch.tensor(labels)
    snippets = _snippets(len(labels), easy=2, dim=3, requires_grad=True)
    score = torch.rand(1, len(labels), 2, requires_grad=True)
    losses = generator_loss(score, labels, snippets, Params(generator_contrast="cross-video"))
    assert losses["cross_video"].item() == 0
    losses["loss"].backward()
    assert all(torch.isfinite(part.grad).all() for part in (*snippets, score))
    assert snippets.hard_action.grad.abs().sum() > 0, "the in-video term has a gradient"


def test_each_contrast_option_adds_its_terms():
    snippets = _snippets(3, easy=2, dim=4)
    score = torch.rand(1, 3, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[1.0, 0], [1.0, 0], [1.0, 1]])
    losses = {}
    for name in ("none", "in-video", "cross-video"):
        params = Params(**PUBLISHED, generator_contrast=name, contrast_weight=0.5, cross_video_weight=0.25)
        losses[name] = generator_loss(score, labels, snippets, params)
    assert list(losses["none"]) == ["loss", "classification"]
    assert list(losses["in-video"]) == ["loss", "classification", "in_video"]
    assert list(losses["cross-video"]) == ["loss", "classification", "in_video", "cross_video"]
    classification = F.binary_cross_entropy(score[0], torch.tensor([[1.0, 0], [1.0, 0], [0.5, 0.5]]))
    contrasts = contrast(snippets, 0.07)
    within = in_video_contrast(contrasts)
    across = cross_video_contrast(contrasts, labels)
    assert across > 0
    torch.testing.assert_close(losses["none"]["loss"], classification)
    torch.testing.assert_close(losses["in-video"]["loss"], classification + 0.5 * within)
    torch.testing.assert_close(losses["cross-video"]["loss"], classification + 0.5 * (within + 0.25 * across))


def test_a_video_without_a_label_has_a_finite_loss():
    snippets = _snippets(1, easy=1, hard=1, dim=3)
    params = Params(generator_contrast="none")
    losses = generator_loss(torch.full((1, 1, 2), 0.5), torch.zeros(1, 2), snippets, params)
    assert losses["loss"].item() == pytest.approx(math.log(2))


# --- network and training ---------------------------------------------------------------------------------------------


def test_the_network_has_the_layers_of_the_paper():
    model = Generator(6, 3, 8, 0.7).eval()
    output = model(torch.randn(2, 11, 6))
    assert [tuple(part.shape) for part in output] == [(2, 11, 8), (2, 11, 3), (2, 11)]
    torch.testing.assert_close(output.actionness, output.cas.sum(2))
    assert all((part >= 0).all() for part in output)
    assert sum(p.numel() for p in model.parameters()) == 6 * 3 * 8 + 8 + 8 * 3


def test_with_probabilities_classes_share_a_snippet_with_the_background_and_are_rare_at_the_start():
    torch.manual_seed(0)
    model = Generator(6, 3, 8, 0.7, probabilities=True).eval()
    output = model(torch.randn(2, 11, 6))
    assert [tuple(part.shape) for part in output] == [(2, 11, 8), (2, 11, 3), (2, 11)]
    assert output.actionness.equal(output.cas.sum(2))
    assert ((output.cas > 0) & (output.actionness[..., None] < 1)).all()
    model.embed.bias.data.zero_()
    each = math.exp(-2) / (1 + 3 * math.exp(-2))
    torch.testing.assert_close(model(torch.zeros(1, 4, 6)).cas, torch.full((1, 4, 3), each))


def test_class_probabilities_by_hand():
    found = class_probabilities(torch.tensor([[math.log(2), math.log(5)], [-100.0, 100.0]]))
    torch.testing.assert_close(found, torch.tensor([[2 / 8, 5 / 8], [0.0, 1.0]]))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_network_fits_the_video_score(kind):
    params = PARAMS.model_copy(update={"video_score": kind})
    assert (Generator.from_params(params, 6, 2).classify.bias is not None) == (kind == "sigmoid")


def test_dropout_is_off_in_evaluation():
    model = Generator(6, 3, 8, 0.7)
    x = torch.randn(1, 30, 6)
    assert not model(x).cas.equal(model(x).cas)
    assert model.eval()(x).cas.equal(model(x).cas)


def _smooth(videos, length, dim):
    """Features that change slowly: border regions are so wide that no tie at 0 is chosen."""
    noise = torch.randn(videos, dim, length, generator=torch.Generator().manual_seed(1))
    return F.avg_pool1d(noise, 25, stride=1, padding=12).mT.contiguous() * 5


@pytest.mark.parametrize("dim", [16, 96])
@pytest.mark.parametrize("classes", [[0, 1, 0, 2, 0], [0, 1, 2, 3, 4], [0, 0, 0, 0, 0], [0]])
def test_losses_and_gradients_are_those_of_the_plain_loops(dim, classes):
    params = Params(**PUBLISHED, easy_ratio=5, hard_ratio=40, mining_dropout=0.0)
    torch.manual_seed(0)
    ours = Generator(dim, 5, dim, 0.0)
    plain = PlainGenerator(dim, 5, dim, 0.0)
    ours.classify.weight.data.abs_()
    plain.load_state_dict(dict(ours.named_parameters()))
    features = _smooth(len(classes), 120, dim)
    labels = F.one_hot(torch.tensor(classes), 5).float()
    labels[-1, 4] = 1.0
    found = batch_losses(ours(features), labels, torch.full((1, 5), 5), params)
    expected = plain_losses(plain(features), labels, params)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    found["loss"].backward()
    expected["loss"].backward()
    for (name, weight), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        largest = other.grad.abs().max().item()
        assert largest > 1e-5, name
        torch.testing.assert_close(weight.grad, other.grad, rtol=1e-3, atol=1e-6 + 1e-4 * largest)


# --- bfloat16 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bfloat16(monkeypatch):
    """Parameters with bfloat16, on a CPU that is reported to have it; any CPU can emulate it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    return PARAMS.model_copy(update={"precision": "bfloat16"})


def test_the_networks_arithmetic_is_bfloat16_and_the_losses_float32(bfloat16):
    torch.manual_seed(0)
    model = Generator(6, 2, 128, 0.0)
    features = torch.randn(3, 40, 6)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(features)
    exact = model(features)
    assert [part.dtype for part in rounded] == [torch.bfloat16, torch.float32, torch.float32]
    torch.testing.assert_close(rounded.cas, exact.cas, rtol=0.05, atol=0.02)
    assert not rounded.cas.equal(exact.cas)
    losses = batch_losses(rounded, torch.eye(2)[[0, 1, 0]], torch.full((1, 2), 5), bfloat16)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    losses["loss"].backward()
    for weight in model.parameters():
        assert weight.grad.dtype == torch.float32
        assert weight.grad.isfinite().all()


def test_training_in_bfloat16_learns_and_its_activations_are_near(planted, tmp_path, bfloat16):
    model, log = train_generator(bfloat16, planted[1], tmp_path)
    assert log.classification.tail(5).mean() < 0.7 * log.classification.head(5).mean()
    assert model.embed.weight.dtype == torch.float32
    rounded = activations(model, planted[1], "test0", bfloat16)
    model.arithmetic = contextlib.nullcontext()
    exact = activations(model, planted[1], "test0", PARAMS)
    torch.testing.assert_close(rounded.cas, exact.cas, rtol=0.05, atol=0.1)
    assert not rounded.cas.equal(exact.cas)


def test_bfloat16_is_refused_before_training_on_a_cpu_without_it(planted, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(InputError, match=r"^precision: 'bfloat16' was given, but this CPU does not have it"):
        train_generator(PARAMS.model_copy(update={"precision": "bfloat16"}), planted[1], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_with_sigmoids_learns(planted, tmp_path):
    params = PARAMS.model_copy(update={"video_score": "sigmoid"})
    model, log = train_generator(params, planted[1], tmp_path)
    assert log.classification.tail(5).mean() < 0.7 * log.classification.head(5).mean()
    assert ((model.class_minimum > 0.05) & (model.class_minimum < 0.95)).all()
    ratios = pooled_ratios(model.first_ratio, params)
    for video, label in (("test0", 0), ("test1", 1)):
        score = video_score(activations(model, planted[1], video, params).cas, ratios, params)[0]
        assert (score >= model.class_minimum).tolist() == [label == 0, label == 1]


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("fail_at", [11, 12, 17])
def test_a_training_continues_with_equal_bits_on_either_side_of_its_middle(
    planted, tmp_path, monkeypatch, fail_at, kind
):
    """The ratios of the second half are chosen before step 12, so a checkpoint must hold them."""
    changes = {"generator_steps": 24, "generator_lr": 0.03, "video_score": kind, "score_ratios": "1,2,3,4,5,6"}
    params = PARAMS.model_copy(update=changes)
    used = []

    def spy(output, labels, ratios, params):
        if len(used) == fail_at and not resumed:
            raise RuntimeError("power cut")
        used.append(ratios[0].tolist())
        return batch_losses(output, labels, ratios, params)

    resumed = True
    monkeypatch.setattr(generator, "batch_losses", spy)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 1)
    whole, log = train_generator(params, planted[1], tmp_path / "whole")
    expected = used.copy()
    assert expected[:12] == [[1, 1]] * 12
    assert expected[12] == expected[-1] != [1, 1], "an action fills less than half of a video"
    used.clear()
    resumed = False
    with pytest.raises(RuntimeError, match="power cut"):
        train_generator(params, planted[1], tmp_path / "broken")
    resumed = True
    again, log_again = train_generator(params, planted[1], tmp_path / "broken")
    assert used == expected
    pd.testing.assert_frame_equal(log, log_again, check_exact=True)
    for name, value in whole.state_dict().items():
        assert value.equal(again.state_dict()[name]), name
    loaded = Generator.from_params(params, 6, 2)
    load_module(loaded, tmp_path / "broken" / "model.safetensors")
    assert loaded.first_ratio.equal(whole.first_ratio)
    assert loaded.class_minimum.equal(whole.class_minimum)


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


# --- short videos and activations -------------------------------------------------------------------------------------


def test_training_with_videos_shorter_than_a_sample(planted, tmp_path):
    dataset, _ = planted
    for video in dataset.split("train"):
        np.save(dataset.root / f"{video}.npy", np.ones((1 + int(video[-1]) % 2, 6), np.float32))
    short = FeatureStore(dataclasses.replace(dataset), "student")
    _, log = train_generator(PARAMS.model_copy(update={"generator_steps": 2}), short, tmp_path)
    assert np.isfinite(log.to_numpy()).all()


def test_activations_are_a_batch_of_one(planted):
    _, store = planted
    found = activations(copying_generator(), store, "train1", Params())
    assert isinstance(found, Activations)
    assert found.actionness.shape == (1, store.length("train1"))


# --- ratios and minimum scores of the classes -------------------------------------------------------------------------


@pytest.fixture
def long_videos(planted):
    """A store of videos with 1000 snippets: class a fills half of each of its videos, class b a hundredth."""
    dataset, _ = planted
    for video, label in zip(*dataset.video_labels[["video", "label"]].to_numpy().T, strict=True):
        features = np.zeros((1000, 6), np.float32)
        features[100 : 600 if label == "a" else 110, "ab".index(label)] = 1.0
        np.save(dataset.root / f"{video}.npy", features)
    return FeatureStore(dataclasses.replace(dataset), "student")


def train_labels(store):
    return torch.from_numpy(store.dataset.labels(store.dataset.split("train")))


def test_a_class_moves_to_the_ratio_that_its_actions_fill(long_videos):
    params = Params(generator_snippets=1000, score_ratios="2,5,10,20,40,80,160")
    first = fitting_ratios(copying_generator(), long_videos, train_labels(long_videos), params)
    # Class a fills all of the top 500; class b 10 of the top 12 (1000 // 80), and 10 of the top 25 are too few.
    assert first.tolist() == [0, 5]
    assert pooled_ratios(first, params).T.tolist() == [[2, 5, 10], [40, 80, 160]]


def test_the_minimum_of_a_class_lies_between_videos_with_and_without_it(long_videos):
    params = Params(generator_snippets=1000, score_ratios="50", video_score="sigmoid")
    model = copying_generator()
    labels = train_labels(long_videos)
    # Of the top 20 all are active in videos of class a, and 10 in those of class b; no other video has any.
    torch.testing.assert_close(class_minimum(model, long_videos, labels, params), torch.tensor([0.5, 0.25]))
    never = labels * torch.tensor([1.0, 0.0])
    assert class_minimum(model, long_videos, never, params)[1] == 1, "a class that no training video has"
    softmax = params.model_copy(update={"video_score": "softmax", "class_threshold": 0.3})
    torch.testing.assert_close(class_minimum(model, long_videos, labels, softmax), torch.tensor([0.3, 0.3]))
