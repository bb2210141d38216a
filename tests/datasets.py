"""Data sets for tests and benchmarks, of features in files `<video>.npy`."""

from pathlib import Path

import numpy as np
import pandas as pd

from fustal.data.cards import Dataset, Grid
from fustal.data.features import FeatureStore


def dataset_of(folder: Path, videos: pd.DataFrame, segments: pd.DataFrame, classes: list[str], fps: float) -> Dataset:
    """A data set of features in a folder.

    Args:
        folder: of the files.
        videos: video, subset, duration (s), fps.
        segments: video, label, start (s), end (s).
        classes: sorted names.
        fps: snippets per second.
    """
    return Dataset(
        name="small",
        about="",
        root=folder,
        annotations=folder / "gt.json",
        classes=classes,
        videos=videos.set_index("video"),
        video_labels=segments[["video", "label"]].drop_duplicates(),
        segments=segments,
        grids={"student": Grid(pattern="{video}.npy", fps=fps, stride=1, window=1)},
    )


def planted_in(folder: Path) -> tuple[Dataset, FeatureStore]:
    """A data set and its features: each video holds one action, where the features of its class are raised.

    Video `train0` is longer than a training sequence, `test0` has no annotated duration.

    Args:
        folder: receives the files.
    """
    random = np.random.default_rng(0)
    videos, segments = [], []
    for i in range(10):
        video, label, length = f"{'train' if i < 8 else 'test'}{i % 8}", i % 2, 90 if i == 0 else 40 + 3 * i
        first = 12 + i
        features = random.normal(0, 0.3, (length, 6)).astype(np.float32)
        features[first : first + 10, label] += 3
        np.save(folder / f"{video}.npy", features)
        videos.append((video, video[:-1], np.nan if i == 8 else length / 2, np.nan))
        segments.append((video, "ab"[label], first / 2, (first + 10) / 2))
    videos = pd.DataFrame(videos, columns=["video", "subset", "duration", "fps"])
    segments = pd.DataFrame(segments, columns=["video", "label", "start", "end"])
    dataset = dataset_of(folder, videos, segments, ["a", "b"], fps=2.0)
    return dataset, FeatureStore(dataset, "student")
