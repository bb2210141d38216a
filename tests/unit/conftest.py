"""A data set small enough to train on in seconds; no deadline for hypothesis, as the machine may be busy."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

from fustal.annotations import Dataset, Grid
from fustal.features import FeatureStore

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
    dataset = Dataset(
        name="planted",
        about="",
        root=tmp_path,
        annotations=tmp_path / "gt.json",
        classes=["a", "b"],
        videos=pd.DataFrame(videos, columns=["video", "subset", "duration", "fps"]).set_index("video"),
        segments=pd.DataFrame(segments, columns=["video", "label", "start", "end"]),
        grids={"student": Grid(pattern="{video}.npy", fps=2.0, stride=1, window=1)},
    )
    return dataset, FeatureStore(dataset, "student")
