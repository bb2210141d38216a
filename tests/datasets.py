"""Data sets for tests and benchmarks, with features in files `<video>.npy`."""

from pathlib import Path

import numpy as np
import pandas as pd

from fustal.data.cards import Dataset, Grid
from fustal.data.features import FeatureStore


def dataset_of(folder: Path, videos: pd.DataFrame, segments: pd.DataFrame, classes: list[str], fps: float) -> Dataset:
    """A data set of features in a folder.

    Args:
        folder: with the feature files.
        videos: video, subset, duration (s), fps.
        segments: video, label, start (s), end (s).
        classes: their names, sorted.
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
    video_rows = []
    segment_rows = []
    for i in range(10):
        subset = "train" if i < 8 else "test"
        video = f"{subset}{i % 8}"
        length = 90 if i == 0 else 40 + 3 * i
        label = i % 2
        first = 12 + i
        features = random.normal(0, 0.3, (length, 6)).astype(np.float32)
        features[first : first + 10, label] += 3
        np.save(folder / f"{video}.npy", features)
        duration = np.nan if i == 8 else length / 2
        video_rows.append((video, subset, duration, np.nan))
        segment_rows.append((video, "ab"[label], first / 2, (first + 10) / 2))
    videos = pd.DataFrame(video_rows, columns=["video", "subset", "duration", "fps"])
    segments = pd.DataFrame(segment_rows, columns=["video", "label", "start", "end"])
    dataset = dataset_of(folder, videos, segments, ["a", "b"], fps=2.0)
    return dataset, FeatureStore(dataset, "student")
