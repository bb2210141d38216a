"""Pictures of a video side by side, with their titles."""

import numpy as np

from fustal import viz


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
