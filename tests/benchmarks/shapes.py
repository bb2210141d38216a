"""Sizes of THUMOS'14 for the benchmarks: durations of its videos, and number and durations of their actions."""

import numpy as np
import pandas as pd

from fustal.data.annotations import SEGMENT_COLUMNS
from fustal.data.cards import Grid

CLASSES = 20
VIDEOS = {"train": 200, "test": 210}
"""The validation subset, on which the field trains, and the test videos of the weakly-supervised field."""

SHARES = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1]
SECONDS = {
    "train": [9, 37, 67, 100, 128, 151, 181, 210, 276, 450, 700, 899, 1409],
    "test": [15, 48, 77, 107, 128, 162, 186, 216, 246, 413, 692, 954, 1673],
}
"""Quantiles of the durations at these shares of the videos."""

GENERATOR = Grid(pattern="generator/{video}.npy", fps=25.0, stride=16, window=16)
STUDENT = Grid(pattern="student/{video}.npy", fps=30.0, stride=4, window=16)

ACTIONS_PER_MINUTE = 4.3
ACTION_SECONDS = 3.0
ACTION_SPREAD = 0.84
"""Median and log standard deviation of an action's duration."""


def durations(subset: str, count: int | None = None) -> np.ndarray:
    """Seconds of videos, in rising order: evenly spaced quantiles of THUMOS'14's.

    Args:
        subset: "train" or "test".
        count: how many; all where None.

    >>> durations("test").mean().round(), durations("test", 3).round().tolist()
    (np.float64(217.0), [67.0, 162.0, 302.0])
    """
    count = count or VIDEOS[subset]
    return np.interp((np.arange(count) + 0.5) / count, SHARES, SECONDS[subset])


def snippets(seconds: float, grid: Grid) -> int:
    """Snippets of a video whose windows do not exceed it.

    >>> snippets(307.7, STUDENT), snippets(480.0, GENERATOR)
    (2304, 750)
    """
    return max(1, int((seconds * grid.fps - grid.window) // grid.stride) + 1)


def annotate(counts: dict[str, int | None], seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Videos with THUMOS'14's durations, one class each, and about its number and durations of actions.

    Args:
        counts: videos of "train" and "test"; None: all.
        seed: of the actions.

    Returns:
        Frames of videos and of segments, like `fustal.data.annotations.read_annotations`.

    >>> videos, segments = annotate({"train": 25, "test": 5})
    >>> len(videos), segments.label.nunique(), bool((segments.end > segments.start).all())
    (30, 20, True)
    """
    rng = np.random.default_rng(seed)
    videos = []
    segments = []
    for subset, count in counts.items():
        for i, seconds in enumerate(durations(subset, count)):
            video = f"{subset}_{i:03d}"
            label = f"class_{i % CLASSES:02d}"
            videos.append((video, subset, seconds, STUDENT.fps))
            segments += [(video, label, start, end) for start, end in actions(seconds, rng)]
    frame = pd.DataFrame(videos, columns=["video", "subset", "duration", "fps"]).set_index("video")
    return frame, pd.DataFrame(segments, columns=SEGMENT_COLUMNS)


def actions(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Starts and ends (N, 2), s, of the actions of a video; none overlap."""
    count = max(1, round(seconds * ACTIONS_PER_MINUTE / 60))
    start = np.sort(rng.uniform(0, seconds - 1, count))
    length = ACTION_SECONDS * rng.lognormal(0, ACTION_SPREAD, count)
    return np.stack([start, np.minimum(start + length, np.append(start[1:], seconds))], axis=1)
