"""A data set small enough to train on in seconds; no deadline for hypothesis, as the machine may be busy."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import settings

from fustal.features import FeatureStore
from fustal.student import Borders, StudentOutput
from tests.datasets import dataset_of

settings.register_profile("fustal", deadline=None)
settings.load_profile("fustal")


@pytest.fixture
def planted(tmp_path):
    """Data set and features: each video holds one action, where the features of its class are raised.

    Video `train0` is longer than a training sequence, `test0` has no annotated duration.
    """
    random = np.random.default_rng(0)
    videos, segments = [], []
    for i in range(10):
        video, label, length = f"{'train' if i < 8 else 'test'}{i % 8}", i % 2, 90 if i == 0 else 40 + 3 * i
        first = 12 + i
        features = random.normal(0, 0.3, (length, 6)).astype(np.float32)
        features[first : first + 10, label] += 3
        np.save(tmp_path / f"{video}.npy", features)
        videos.append((video, video[:-1], np.nan if i == 8 else length / 2, np.nan))
        segments.append((video, "ab"[label], first / 2, (first + 10) / 2))
    videos = pd.DataFrame(videos, columns=["video", "subset", "duration", "fps"])
    segments = pd.DataFrame(segments, columns=["video", "label", "start", "end"])
    dataset = dataset_of(tmp_path, videos, segments, ["a", "b"], fps=2.0)
    return dataset, FeatureStore(dataset, "student")


class Answers(torch.nn.Module):
    """A student whose heads say random numbers: `output` and `said`."""

    def __init__(self, lengths, bins=3, batch=2, classes=2):
        super().__init__()
        torch.manual_seed(2)
        rows = [torch.randn(batch, sum(lengths), size) for size in (classes, classes, classes, 2 * bins + 2)]
        mask = torch.ones(batch, sum(lengths), 1, dtype=torch.bool)
        self.output, self.said = StudentOutput(rows[0], mask, lengths, None), Borders(*rows[1:])

    def forward(self, x, mask):
        return self.output

    def borders(self, output, video, point):
        return self.said


@pytest.fixture
def answers():
    return Answers
