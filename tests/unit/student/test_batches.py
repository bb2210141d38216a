"""Training sequences of the student: pseudo labels on the grid, random crops, batches."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from fustal.data.features import FeatureStore
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.student import TrainingVideos
from fustal.student.batches import filled_shares, label_weights, snippet_labels
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


def test_filled_shares_of_classes_by_hand(planted):
    """Videos of 20 s and more; a label of class a covers .75 of its video, the labels of class b a hundredth."""
    _, store = planted
    videos = ["train2", "train4", "train1"]  # of class a, a, and b
    seconds = {video: store.duration(video) for video in videos}
    rows = [
        ("train2", "a", 0.0, 0.75 * seconds["train2"]),
        ("train1", "b", 1.0, 1.0 + 0.004 * seconds["train1"]),
        ("train1", "b", 5.0, 5.0 + 0.006 * seconds["train1"]),
        ("train1", "a", 0.0, 9.0),  # not a class of this video
        ("train7", "b", 0.0, 9.0),  # not asked for
    ]
    labels = pd.DataFrame(rows, columns=["video", "label", "start", "end"])
    params = Params(score_ratios="1,2,50,80")
    found = filled_shares(labels, videos, store, params)
    # Class a: no label in one of its two videos.
    assert_close(found, torch.tensor([[0.375, 0.01], [0.75, 0.02], [1.0, 0.5], [1.0, 0.8]]))


def test_each_class_has_ratios_that_its_labels_fill(planted):
    dataset, store = planted
    short = dataset.segments.assign(end=lambda rows: rows.end.where(rows.label == "a", rows.start + 0.2))
    data = TrainingVideos(Params(**SMALL), store, short, torch.device("cpu"))
    # Class a: 5 of about 25 s; class b: .2 of about 25 s.
    assert data.ratios.T.tolist() == [[5, 10, 20], [40, 80, 160]]
    assert data.batch(0).truth.ratios.equal(data.ratios)
    nothing = TrainingVideos(Params(**SMALL), store, dataset.segments[:0], torch.device("cpu"))
    assert nothing.ratios.T.tolist() == [[40, 80, 160]] * 2
