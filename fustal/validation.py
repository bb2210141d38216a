"""Every problem of a data set at once: what `fustal validate` prints."""

import numpy as np

from fustal import InputError
from fustal.annotations import Dataset, inspect_dataset
from fustal.features import FeatureStore


def problems_of(card: str) -> tuple[list[str], str]:
    """Checks card, annotations, splits and every feature file of both grids.

    Args:
        card: a name in `params/datasets`, or the path of a YAML file.

    Returns:
        The problems, one line each, and a summary of the data set.

    Raises:
        InputError: there is no card or no annotation file to begin with.
    """
    dataset, problems = inspect_dataset(card)
    stages = ["generator"] if dataset.grids["generator"] == dataset.grids["student"] else ["generator", "student"]
    for stage in stages:
        problems += feature_problems(dataset, FeatureStore(dataset, stage))
    problems += segment_problems(dataset)
    train, test = len(dataset.split("train")), len(dataset.split("test"))
    summary = (
        f"{train} training and {test} test videos, {len(dataset.classes)} classes, {len(dataset.segments)} segments"
    )
    return problems, summary


def feature_problems(dataset: Dataset, store: FeatureStore) -> list[str]:
    """Missing, unreadable or non-finite features, and videos whose feature dimension differs from most others'."""
    problems, dims = [], {}
    for video in dataset.videos.index:
        try:
            dims[video] = store[video].shape[1]
            store.grid_of(video)
        except InputError as error:
            problems.append(str(error))
    if dims:
        values, counts = np.unique(list(dims.values()), return_counts=True)
        usual = values[counts.argmax()]
        problems += [
            f"{store.paths(video)[0]}: video {video!r}: {dim} numbers a snippet where others have {usual}"
            for video, dim in dims.items()
            if dim != usual
        ]
    return problems


def segment_problems(dataset: Dataset, tolerance: float = 1.0) -> list[str]:
    """Segments that end after their video, and training videos without a label.

    Args:
        dataset: the data set.
        tolerance: seconds after the end that are still accepted.
    """
    duration = dataset.segments.video.map(dataset.videos.duration)
    late = dataset.segments[dataset.segments.end > duration + tolerance]
    problems = [
        f"{dataset.annotations}: video {row.video!r}: segment [{row.start}, {row.end}] ends after the video "
        f"({dataset.videos.duration[row.video]} s)"
        for row in late.itertuples()
    ]
    unlabelled = [v for v in dataset.split("train") if v not in set(dataset.segments.video)]
    return problems + [
        f"{dataset.annotations}: video {video!r}: a training video without a label" for video in unlabelled
    ]
