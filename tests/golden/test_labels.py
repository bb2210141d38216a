"""The rule for labels on real proposals: those of P-MIL for the training videos of THUMOS'14."""

from fustal.data.annotations import read_annotations
from fustal.data.results import read_results
from fustal.evaluation.labels import pseudo_label_quality
from fustal.labels import add_iou_score, choose_share, select
from fustal.params import Params


def test_the_labels_are_better_than_those_of_thresholds_and_typical_durations_help(shared):
    proposals = read_results(shared / "thumos14" / "proposals_train_pmil.json")
    _, segments = read_annotations(shared / "thumos14" / "gt.json")
    truth = segments[segments.video.isin(proposals.video)]
    scored = add_iou_score(proposals, "class-aware")
    f1 = {}
    for name, changes in {
        "both": {},
        "no duration": {"duration_prior": 0.0},
        "no IoU score": {"label_prior": 0.0},
        "paper": {"label_rule": "thresholds"},
    }.items():
        params = choose_share({}, Params(**changes))
        f1[name] = 100 * pseudo_label_quality(select(scored, params), truth, [0.5]).f1.item()
    assert f1["both"] > f1["no duration"] + 4, f1
    assert f1["both"] > f1["no IoU score"] - 0.5, "with typical durations, the IoU score changes little here"
    assert f1["no duration"] > f1["paper"] + 10, f1
