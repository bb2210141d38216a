"""Frames of a video side by side."""

from collections.abc import Sequence

import numpy as np

from fustal.viz.common import DescribedFigure, drawn, new_figure


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
