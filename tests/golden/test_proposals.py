"""Proposals and the IoU-score filter against the released code."""

import numpy as np
import pandas as pd

from fustal.labels import add_iou_score, select
from fustal.params import Params, parse_grid
from fustal.proposals import contrasted_runs, normalise, propose, upsample
from tests.networks import PUBLISHED

GRIDS = ("cas_thresholds", "actionness_thresholds")


def _params(g):
    """The settings of the vectors as parameters."""
    grids = {}
    for name in GRIDS:
        values = g[name]
        step = round(float(values[1] - values[0]), 6)
        grids[name] = f"{values[0]}:{step}:{values[-1]}"
    return Params(
        recipe="published",
        upscale=int(g["upscale"]),
        oic_flank=float(g["oic_lambda"]),
        oic_video_weight=float(g["oic_gamma"]),
        proposal_nms=float(g["nms_threshold"]),
        **grids,
    )


def _assert_same_rows(ours, released):
    """Each row of one array is near a row of the other."""
    ours = np.asarray(ours, float)
    released = np.asarray(released, float)
    assert ours.shape == released.shape
    distance = np.abs(ours[:, None] - released[None]).max(2)
    assert distance.min(0).max() <= 1e-4
    assert distance.min(1).max() <= 1e-4


def test_thresholds_are_the_released_ones(golden):
    g = golden("proposals")
    params = _params(g)
    for name in GRIDS:
        np.testing.assert_allclose(parse_grid(getattr(params, name)), g[name], atol=1e-9)


def test_proposals(golden):
    g = golden("proposals")
    params = _params(g)
    for i in range(int(g["num_cases"])):
        cas = g[f"case{i}_cas"]
        actionness = g[f"case{i}_actionness"]
        video_score = g[f"case{i}_video_score"]
        classes = g[f"case{i}_classes"]
        seconds = float(g["snippet_frames"] * g[f"case{i}_num_snippets"] / (len(cas) * g["fps"]))
        found = propose(cas, actionness, video_score, classes, seconds, params)
        _assert_same_rows(found[["label", "score", "start", "end"]], g[f"case{i}_proposals_after_nms"])

        action = upsample(normalise(actionness), params.upscale)
        position = seconds / params.upscale
        before = []
        for c in classes:
            activation = upsample(normalise(cas[:, c]), params.upscale)
            first, last, contrast = contrasted_runs(activation, action, params)
            score = contrast + params.oic_video_weight * video_score[c]
            label = np.full(len(first), c)
            before.append(np.stack([label, score, first * position, (last + 1) * position], 1))
        _assert_same_rows(np.concatenate(before), g[f"case{i}_proposals_before_nms"])


def test_iou_filter(golden):
    g = golden("iou_filter")
    proposals = pd.DataFrame({"video": g["video"], "label": "any", "score": g["scores"]})
    proposals[["start", "end"]] = g["segments"]
    scored = add_iou_score(proposals)
    np.testing.assert_allclose(scored.iou_score, g["iou_score"], rtol=1e-4, atol=1e-4)
    thresholds = {"iou_score_min": float(g["iou_score_threshold"]), "confidence_min": float(g["score_threshold"])}
    kept = select(scored.assign(row=range(len(scored))), Params(**PUBLISHED, **thresholds))
    np.testing.assert_array_equal(np.isin(np.arange(len(scored)), kept.row), g["keep"])
