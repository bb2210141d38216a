"""Frames of a video: side by side, or above its time lines at their time and not distorted."""

import numpy as np
import pandas as pd
import pytest

from fustal import viz
from fustal.viz.film import COUNT, moments

ROWS = {"detections": pd.DataFrame({"label": ["Run"], "score": [0.5], "start": [1.0], "end": [3.0]})}


@pytest.mark.parametrize(("height", "width"), [(90, 160), (160, 90), (10, 10)])
def test_frames_above_their_times(height, width):
    frames = [np.full((height, width, 3), 30 * k, np.uint8) for k in range(COUNT)]
    figure = viz.timeline(ROWS, 20.0, frames)
    figure.draw_without_rendering()
    top, below = figure.axes
    assert top.get_xlim() == below.get_xlim() == (0, 20)
    assert top.get_position().x0 == pytest.approx(below.get_position().x0, abs=0.002)
    assert top.get_position().width == pytest.approx(below.get_position().width, abs=0.002)
    for image, time, frame in zip(top.images, moments(20.0), frames, strict=True):
        left, right, bottom, high = image.get_extent()
        assert (left + right) / 2 == pytest.approx(time)
        assert right - left <= 20 / COUNT
        assert (image.get_array() == frame).all()
        box = top.transData.transform([(left, bottom), (right, high)])
        shown = (box[1] - box[0])[0] / (box[1] - box[0])[1]
        assert shown == pytest.approx(width / height, rel=0.15)
    assert figure.alt_text.startswith("8 frames of a video, and below them: Segments of one video of 20 s")


def test_without_frames_the_figure_is_as_before():
    figure = viz.timeline(ROWS, 20.0)
    assert len(figure.axes) == 1
    assert figure.get_figwidth() == 6.8


def test_each_picture_is_shown_with_its_title():
    pictures = [np.full((4, 6, 3), level, np.uint8) for level in (0, 200)]
    figure = viz.frames(pictures, ["begin", "end $"])
    assert [axis.get_title() for axis in figure.axes] == ["begin", "end $"]
    for axis, picture in zip(figure.axes, pictures, strict=True):
        (image,) = axis.get_images()
        np.testing.assert_array_equal(image.get_array(), picture)
    assert figure.alt_text == "Frames of a video: begin, end $."


def test_no_picture():
    assert viz.frames([], []).axes[0].get_images() == []
