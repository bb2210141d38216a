"""Training sequences of the student: pseudo labels on the grid, random crops, batches."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fustal.data.features import FeatureStore
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.student import TrainingVideos
from fustal.student.batches import label_weights, random_crop, snippet_labels
from tests.networks import SMALL


def test_snippet_labels(planted):
    dataset, store = planted
    videos = dataset.split("train")
    targets = snippet_labels(dataset.segments[dataset.segments.video != "train3"], videos, store)
    assert list(targets) == videos
    assert_close(targets["train1"], (torch.tensor([[12.5, 22.5]]), torch.tensor([1]), torch.ones(1)))
    assert [part.shape for part in targets["train3"]] == [(0, 2), (0,), (0,)]
    with pytest.raises(InputError, match="video 'train1': label 'b' is no class"):
        snippet_labels(dataset.segments, videos, FeatureStore(replace(dataset, classes=["a"]), "student"))


def test_a_label_weight_is_the_confidence_relative_to_the_best_of_class_and_video():
    scores = torch.tensor([0.5, 1.0, 0.2, -3.0])
    labels = torch.tensor([0, 0, 1, 1])
    assert label_weights(scores, labels, Params(label_weights="equal")).tolist() == [1, 1, 1, 1]
    weights = label_weights(scores, labels, Params())
    assert_close(weights, torch.tensor([0.5, 1.0, 1.0, 0.0]), atol=1e-4, rtol=0)
    assert not len(label_weights(scores[:0], labels[:0], Params()))


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


def test_crop_covers_its_range():
    random = torch.Generator().manual_seed(0)
    sizes = []
    for _ in range(300):
        crop = random_crop(100, torch.zeros(0, 2), Params(), random)
        sizes.append(crop.end - crop.first)
    assert (min(sizes), max(sizes)) == (90, 100)


@pytest.mark.parametrize("recipe", ["published", "corrected"])
def test_batches(planted, recipe):
    dataset, store = planted
    data = TrainingVideos(Params(**SMALL, recipe=recipe), store, dataset.segments, torch.device("cpu"))
    assert data.steps_per_epoch == 2
    lengths = []
    for step in range(2):
        batch = data.batch(step)
        assert batch.x.shape[::2] == (4, 6)
        longest = int(batch.mask.sum(dim=1).max())
        assert batch.x.shape[1] == (64 if recipe == "published" else -(-longest // 4) * 4)
        assert all(len(part) == 1 for part in batch.truth.segments)
        assert_close(batch.truth.video_labels.argmax(dim=1), torch.cat(batch.truth.labels))
        segments = torch.cat(batch.truth.segments)
        labels = torch.cat(batch.truth.labels)
        for x, (start, end), label in zip(batch.x, segments, labels, strict=True):
            assert x[int(start + 0.5) : int(end + 0.5), label].min() > 1.5
        lengths += batch.mask.sum(dim=1).flatten().tolist()
    assert len(lengths) == 8
