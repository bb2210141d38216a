"""Data sets for tests and benchmarks, of features in files `<video>.npy`."""

from pathlib import Path

import pandas as pd

from fustal.dataset import Dataset, Grid


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
