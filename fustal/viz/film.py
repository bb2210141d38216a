"""Frames of a video side by side: as a figure, or above its time lines."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from fustal.viz.common import DescribedFigure, drawn, new_figure

COUNT = 8
"""Number of frames in a figure."""

WIDTH = 10.0
"""Inches, width of a figure with frames."""

MAX_HEIGHT = 1.6
"""Inches, maximum height of the frames: those of an upright video would be higher than the time lines."""


def moments(duration: float) -> list[float]:
    """The times of the frames, s: the middle of each of `COUNT` equal parts of a video.

    >>> moments(16.0)
    [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0]
    """
    return [duration * (part + 0.5) / COUNT for part in range(COUNT)]


def film_height(frames: Sequence[np.ndarray]) -> float:
    """Inches, height of the row of frames, see `draw_film`."""
    height, width = frames[0].shape[:2]
    return min(0.87 * WIDTH / COUNT * height / width, MAX_HEIGHT)  # the names of rows take the rest of the width


def draw_film(axis: Axes, frames: Sequence[np.ndarray], duration: float) -> None:
    """Draws each frame in its part of the video.

    Args:
        axis: whose x axis is the time.
        frames: at the times of `moments`, each (height, width, 3) of 0 to 255, all of one size.
        duration: s.
    """
    height, width = frames[0].shape[:2]
    inches = film_height(frames) * width / height
    half = duration * inches / (2 * 0.87 * WIDTH) * 0.96
    for time, frame in zip(moments(duration), frames, strict=True):
        axis.imshow(frame, extent=(time - half, time + half, 0, 1), aspect="auto")
    axis.set(xlim=(0, duration), ylim=(0, 1))
    axis.set_axis_off()


def frames(pictures: Sequence[np.ndarray], titles: Sequence[str]) -> DescribedFigure:
    """Pictures in a row, each with a title.

    Args:
        pictures: uint8 (H, W, 3) each.
        titles: one for each.
    """
    figure, axes = new_figure(f"Frames of a video: {', '.join(titles)}.", columns=max(len(pictures), 1), height=1.9)
    for axis in axes:
        axis.set_axis_off()
    for axis, picture, title in zip(axes, pictures, titles, strict=False):
        axis.imshow(picture)
        axis.set_title(drawn(title), fontsize=9)
    return figure
