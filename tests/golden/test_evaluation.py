"""Mean average precision of two published result files against the values of the field's evaluator.

The evaluator's sort of tIoU is not stable where a video has more than 16 true segments of a class. There its result
depends on the processor: for CRNet's detections the mAP at tIoU .1 is 66.24 with AVX2 and 66.27 without. Here the last
of equal tIoU is matched, as in the evaluator where its sort is stable, and the mAP is 66.26.
"""

import json

import pandas as pd
import pytest
from numpy.testing import assert_allclose

from fustal.data.annotations import read_annotations
from fustal.data.results import read_results
from fustal.evaluation.detections import averages, mean_average_precision
from tests.benchmarks.plain_post import plain_mean_average_precision

FILES = {"crnet_test": "detections_test_crnet.json", "pmil_train": "proposals_train_pmil.json"}


@pytest.mark.parametrize("name", FILES)
def test_thumos14(shared, name):
    folder = shared / "thumos14"
    expected = json.loads((folder / "expected_evaluation.json").read_text())[name]
    videos, segments = read_annotations(folder / "gt.json")
    truth = segments[segments.video.map(videos.subset) == expected["subset"]]
    detections = read_results(folder / FILES[name])
    assert (len(truth), len(detections)) == (expected["n_gt"], expected["n_pred"])

    ap = mean_average_precision(detections, truth, expected["tiou"])
    assert sorted(ap.index) == sorted(expected["ap"])
    assert_allclose(ap, plain_mean_average_precision(detections, truth, expected["tiou"]).loc[ap.index], rtol=1e-9)
    # A long detection has the same low tIoU with several short segments: low thresholds depend on the order of ties.
    released = pd.DataFrame(expected["ap"], index=ap.columns).T.loc[ap.index]
    low = ap.columns < 0.25
    assert_allclose(ap.loc[:, low], released.loc[:, low], atol=7e-3, rtol=0)
    assert_allclose(ap.loc[:, ~low], released.loc[:, ~low], rtol=1e-9)
    assert_allclose(ap.mean(), expected["mAP"], atol=3e-4)
    assert averages(ap)["0.1:0.7"] == pytest.approx(expected["average_mAP"], abs=5e-5)
