"""Detections of whole videos."""

import pandas as pd
import pytest

from fustal.params import Params
from fustal.student import detect_videos
from tests.networks import SMALL, small_student


@pytest.mark.parametrize("recipe", ["published", "corrected"])
def test_detections_do_not_depend_on_the_other_videos(planted, recipe):
    _, store = planted
    model = small_student(recipe=recipe)
    params = Params(**SMALL, recipe=recipe)
    together = detect_videos(model, store, ["test0", "train0", "train1"], params)
    assert list(together.video.unique()) == ["test0", "train0", "train1"]
    for video, found in together.groupby("video"):
        alone = detect_videos(model, store, [video], params)
        pd.testing.assert_frame_equal(found.reset_index(drop=True), alone, rtol=1e-4)
    assert detect_videos(model, store, [], params).empty
