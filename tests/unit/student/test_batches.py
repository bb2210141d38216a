"""Training sequences of the student: pseudo labels on the grid, random crops, batches."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fustal.data.features import FeatureStore
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.student import TrainingVideos
from fustal.student.batches import label_weights, snippet_labels
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
