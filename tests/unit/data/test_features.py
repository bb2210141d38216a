"""Feature files: reading, errors of one line, and sampling."""

import dataclasses
import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fustal.data.cards import Grid
from fustal.data.features import FeatureStore, VideoGrid, open_features, sample_test, sample_train
from fustal.exceptions import InputError

TWO = Grid(pattern="{subset}/{modality}/{video}.npy", modalities=["rgb", "flow"], fps=25, stride=16, window=16)


@pytest.fixture
def store(planted):
    """Builds a store with changed grid; files are given by path below the root."""
    dataset, _ = planted

    def build(grid=None, **files):
        for name, array in files.items():
            path = dataset.root / f"{name.replace('__', '/')}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
        return FeatureStore(dataclasses.replace(dataset, grids={"student": grid or TWO}), "student")

    return build


def test_a_snippet_is_at_the_centre_of_its_window():
    grid = VideoGrid(fps=30.0, stride=4, window=16)
    assert grid.to_seconds(0) == pytest.approx(8 / 30)
    assert grid.to_seconds(10) == pytest.approx((40 + 8) / 30)
    np.testing.assert_allclose(grid.to_seconds(np.array([0, 1])), [8 / 30, 12 / 30])
    torch.testing.assert_close(grid.to_seconds(torch.tensor([0.5])), torch.tensor([10 / 30]))


@given(st.floats(1, 120), st.integers(1, 64), st.integers(1, 64), st.floats(0, 1e4, allow_subnormal=False))
def test_seconds_and_snippets_undo_each_other(fps, stride, window, position):
    grid = VideoGrid(fps, stride, window)
    assert grid.to_snippets(grid.to_seconds(position)) == pytest.approx(position, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_become_float32(store, dtype):
    array = np.arange(12).reshape(4, 3).astype(dtype) / 8
    features = store(Grid(pattern="{video}.npy", fps=1, stride=1, window=1), train0=array)["train0"]
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, array.astype(np.float32))


def test_files_are_memory_mapped(store):
    (array,) = store(Grid(pattern="{video}.npy", fps=1, stride=1, window=1)).open("train0")
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable


@pytest.mark.parametrize("index", [slice(None), slice(2, 5), np.array([0, 0, 3, 6]), np.array([], int)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_read_takes_rows_of_all_modalities(store, index, dtype):
    rgb = np.random.default_rng(2).normal(size=(7, 2)).astype(dtype)
    flow = np.random.default_rng(3).normal(size=(7, 3)).astype(dtype)
    features = store(train__rgb__train1=rgb, train__flow__train1=np.asfortranarray(flow))
    expected = np.concatenate([rgb, flow], axis=1).astype(np.float32)[index]
    found = features.read("train1", index)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), expected)
    found += 1
    np.testing.assert_array_equal(features.read("train1", index).numpy(), expected, "the tensor is a copy")
    batch = torch.full((2, len(expected), 5), 9.0)
    features.read("train1", index, out=batch[1])
    np.testing.assert_array_equal(batch[1].numpy(), expected)
    assert (batch[0] == 9).all()


def test_a_video_with_other_numbers_does_not_fit_a_batch(store):
    features = store(Grid(pattern="{video}.npy", fps=1, stride=1, window=1), train1=np.ones((4, 3), np.float32))
    with pytest.raises(InputError, match=r"train1\.npy: video 'train1': 3 numbers a snippet where others have 6"):
        features.read("train1", out=torch.empty(4, 6))


def test_headers_are_parsed_and_values_checked_once(store, monkeypatch):
    features = store(Grid(pattern="{video}.npy", fps=1, stride=1, window=1))
    first = features["train0"]
    monkeypatch.setattr("fustal.data.features.open_features", lambda path: pytest.fail("the header was read again"))
    monkeypatch.setattr(FeatureStore, "_check_values", lambda self, video: pytest.fail("the values were checked again"))
    assert np.array_equal(features["train0"], first)
    assert features.read("train0", np.array([3])).shape == (1, 6)
    assert (features.length("train0"), features.dim) == (90, 6)


def test_a_sample_beside_the_bad_value_is_refused_too_and_stays_refused(store):
    array = np.ones((600, 2), np.float16)
    array[599, 0] = np.inf
    features = store(Grid(pattern="{video}.npy", fps=1, stride=1, window=1), train2=array)
    for _ in range(2):
        with pytest.raises(InputError, match=r"NaN or infinity in snippet 599$"):
            features.read("train2", np.array([0, 1]))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files as Linux lists them")
def test_no_file_stays_open(store):
    features = store(Grid(pattern="{video}.npy", fps=1, stride=1, window=1))

    def opened():
        return len(os.listdir("/proc/self/fd"))

    before = opened()
    kept = [features.read(video, np.array([0])) for video in features.dataset.videos.index]
    assert len(kept) == 10
    assert opened() == before


def test_modalities_are_concatenated_in_the_order_of_the_card(store):
    rgb, flow = np.full((5, 2), 1, np.float16), np.full((5, 3), 2, np.float32)
    features = store(train__rgb__train1=rgb, train__flow__train1=flow, test__rgb__test0=flow, test__flow__test0=rgb)
    assert features["train1"].tolist() == [[1, 1, 2, 2, 2]] * 5
    assert features["test0"].tolist() == [[2, 2, 2, 1, 1]] * 5, "the subset is part of the path"
    assert features.length("train1") == 5


def test_modalities_of_different_lengths_are_refused(store):
    rgb, flow = np.ones((5, 2), np.float32), np.ones((4, 2), np.float32)
    with pytest.raises(InputError, match=r"video 'train1': modalities differ in length: rgb 5, flow 4"):
        store(train__rgb__train1=rgb, train__flow__train1=flow)["train1"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_names_file_video_and_snippet(store, value):
    array = np.ones((6, 2), np.float32)
    array[4, 1] = value
    features = store(Grid(pattern="{video}.npy", fps=1, stride=1, window=1), train2=array)
    with pytest.raises(InputError, match=r"train2\.npy: video 'train2': NaN or infinity in snippet 4$"):
        features["train2"]


def test_a_missing_file(store):
    with pytest.raises(InputError, match=r"rgb/train3\.npy: no such feature file"):
        store()["train3"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(3, np.float32), r"not float32 of shape \(3,\)"),
        (np.ones((2, 2, 2), np.float32), r"not float32 of shape \(2, 2, 2\)"),
        (np.ones((3, 2), int), r"not int64 of shape \(3, 2\)"),
        (np.ones((3, 2), float), r"not float64 of shape \(3, 2\)"),
        (np.ones((0, 2), np.float32), r"has no snippets: shape \(0, 2\)"),
        (np.ones((3, 0), np.float32), r"has no snippets: shape \(3, 0\)"),
    ],
)
def test_wrong_arrays(tmp_path, array, message):
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(InputError, match=rf"v\.npy: .*{message}"):
        open_features(tmp_path / "v.npy")


class Harm:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickles_are_never_loaded(tmp_path):
    np.save(tmp_path / "v.npy", np.array([[Harm(tmp_path / "harmed")]], object), allow_pickle=True)
    np.array(Harm(tmp_path / "harmed"), object).dump(tmp_path / "raw.npy")
    for name in ("v.npy", "raw.npy"):
        with pytest.raises(InputError, match=rf"{name}: is not a readable \.npy file"):
            open_features(tmp_path / name)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("keep", [0, 5, 70, 150])
def test_truncated_files(tmp_path, keep):
    np.save(tmp_path / "v.npy", np.ones((9, 2), np.float32))
    (tmp_path / "v.npy").write_bytes((tmp_path / "v.npy").read_bytes()[:keep])
    with pytest.raises(InputError, match=r"v\.npy: is not a readable \.npy file") as error:
        open_features(tmp_path / "v.npy")
    assert "\n" not in str(error.value)


def test_an_archive_is_no_array(tmp_path):
    with open(tmp_path / "v.npy", "wb") as file:
        np.savez(file, a=np.ones((3, 2), np.float32))
    with pytest.raises(InputError, match="not an archive"):
        open_features(tmp_path / "v.npy")


def test_fps_from_the_annotation(store):
    features = store(TWO.model_copy(update={"fps": "annotation"}))
    with pytest.raises(InputError, match=r"gt\.json: video 'train0': has no fps"):
        features.grid_of("train0")
    features.dataset.videos.loc["train0", "fps"] = 12.5
    again = FeatureStore(features.dataset, "student")
    assert again.grid_of("train0") == VideoGrid(12.5, 16, 16)
    assert store().grid_of("train1") == VideoGrid(25.0, 16, 16)


def test_duration_is_annotated_or_the_end_of_the_last_window(store):
    features = store(Grid(pattern="{video}.npy", fps=10, stride=4, window=16), test0=np.ones((5, 1), np.float32))
    assert features.duration("train0") == 45.0, "annotated: half a second for each of 90 snippets"
    assert features.duration("test0") == pytest.approx((4 * 4 + 16) / 10)


def test_dim_is_that_of_the_first_video(store):
    assert store(Grid(pattern="{video}.npy", fps=1, stride=1, window=1)).dim == 6
    rgb = np.ones((2, 3), np.float32)
    flow = np.ones((2, 4), np.float32)
    assert store(train__rgb__train0=rgb, train__flow__train0=flow).dim == 7


@given(st.integers(1, 300), st.integers(1, 120), st.integers(0, 99))
def test_a_training_sample_has_one_snippet_from_each_bin(length, count, seed):
    chosen = sample_train(length, count, torch.Generator().manual_seed(seed))
    assert chosen.shape == (count,)
    assert chosen.dtype == torch.long
    assert (chosen.diff() >= 0).all()
    assert chosen.min() >= 0
    assert chosen.max() < length
    # Position p lies in bin i when [p, p + 1) overlaps [i, i + 1) * length / count; float32 may move it a little.
    bins = torch.arange(count) * (length / count)
    assert (chosen + 1 > bins - 1e-3).all()
    assert (chosen < bins + length / count + 1e-3).all()
    if count % length == 0:
        assert (chosen.bincount(minlength=length) == count // length).all(), "a shorter video repeats evenly"


def test_a_training_sample_is_random_and_reaches_every_snippet():
    random = torch.Generator().manual_seed(0)
    samples = torch.stack([sample_train(12, 4, random) for _ in range(200)])
    assert sorted(samples.unique().tolist()) == list(range(12))
    assert sorted(samples[:, 1].unique().tolist()) == [3, 4, 5]
    assert sample_train(12, 4, torch.Generator().manual_seed(0)).equal(samples[0])


@given(st.integers(1, 2000), st.integers(2, 750))
def test_a_test_sample_is_whole_or_evenly_spaced(length, count):
    chosen = sample_test(length, count)
    if length <= count:
        assert chosen.tolist() == list(range(length))
        return
    assert chosen.tolist() == [math.floor(Fraction(i * length, count)) for i in range(count)], "as in the released code"
    steps = chosen.diff()
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1
