"""Videos of different lengths as batches."""

import numpy as np
import pytest
import torch

from fustal.engine.device import random_generator
from fustal.engine.videos import pad, padded_length, random_crop, sample_batch, similar_lengths
from fustal.params import Params


def test_padding():
    x, mask = pad([torch.ones(3, 2), torch.ones(1, 2)], 4)
    assert x[..., 0].tolist() == mask[..., 0].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert padded_length(401, Params(recipe="published")) == 416


def test_similar_lengths_share_batches():
    lengths = {str(i): length for i, length in enumerate([9000, 64, 9000, 64, 20_000, 128])}
    assert similar_lengths(lengths, 18_432, exactly=False) == [["1", "3", "5"], ["0", "2"], ["4"]]
    assert similar_lengths(lengths, 18_432, exactly=True) == [["1", "3"], ["5"], ["0", "2"], ["4"]]
    assert similar_lengths({}, 18_432, exactly=True) == []


def test_a_batch_holds_a_sample_of_each_video(planted):
    _, store = planted

    def draw():
        return sample_batch(store, ["train2", "train0"], 40, random_generator(0, 3), torch.device("cpu"))

    features = draw()
    assert features.shape == (2, 40, 6)
    for video, rows in zip(("train2", "train0"), features, strict=True):
        positions = [np.flatnonzero((store[video] == row).all(1)).item() for row in rows.numpy()]
        assert (np.diff(positions) >= 0).all()
        assert len(set(positions)) > 30
    state = torch.get_rng_state()
    assert draw().equal(features), "the same step gives the same batch"
    assert torch.get_rng_state().equal(state), "torch's own state does not change"


@pytest.mark.parametrize("seed", range(20))
def test_crop_keeps_a_segment_and_the_limits(seed):
    params = Params(max_snippets=20, crop_min=0.5)
    segments = torch.tensor([[3.0, 7.0], [30.0, 34.0], [0.0, 100.0]])
    first, last, stays = random_crop(100, segments, params, torch.Generator().manual_seed(seed))
    assert 0 <= first < last <= 100
    assert last - first == 20
    assert stays.any()
    inside = segments.clamp(first, last).diff(dim=1)[:, 0]
    assert (stays == (inside >= segments.diff(dim=1)[:, 0] / 2)).all()


def test_crop_without_segments_or_room():
    first, last, stays = random_crop(1, torch.zeros(0, 2), Params(), torch.Generator())
    assert (first, last, len(stays)) == (0, 1, 0)
    long = torch.tensor([[0.0, 60.0]])
    assert not random_crop(64, long, Params(max_snippets=16), torch.Generator()).stays.any()


@pytest.mark.parametrize(
    ("maximum", "sizes"),
    [
        (200, (90, 100)),  # the whole video is short enough: from .9 of it to all
        (100, (90, 100)),
        (99, (99, 99)),  # a longer video, also one of which .9 would fit, is cut to the maximum
        (91, (91, 91)),
        (90, (90, 90)),
        (60, (60, 60)),
    ],
)
@pytest.mark.parametrize("recipe", ["published", "corrected"])
def test_crop_covers_its_range(maximum, sizes, recipe):
    random = torch.Generator().manual_seed(0)
    params = Params(max_snippets=maximum, recipe=recipe)
    crops = [random_crop(100, torch.zeros(0, 2), params, random) for _ in range(300)]
    found = [crop.end - crop.first for crop in crops]
    assert (min(found), max(found)) == sizes
    first = {crop.first for crop in crops}
    assert (min(first), max(first)) == (0, 100 - sizes[0])
