"""Videos of different lengths as batches."""

import numpy as np
import torch

from fustal.engine.device import random_generator
from fustal.engine.videos import pad, padded_length, sample_batch, similar_lengths
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
