"""Proposals and the IoU-score filter against the released code."""

import numpy as np
import pandas as pd

from fustal.params import Params, parse_grid
from fustal.proposals import add_iou_score, contrasted_runs, normalise, propose, select, upsample


def _params(g):
    text = {name: f"{v[0]}:{round(float(v[1] - v[0]), 6)}:{v[-1]}" for name, v in _grids(g).items()}
    return Params(
        recipe="published",
        upscale=int(g["upscale"]),
        oic_flank=float(g["oic_lambda"]),
        oic_video_weight=float(g["oic_gamma"]),
        proposal_nms=float(g["nms_threshold"]),
        **text,
    )


def _grids(g):
    return {"cas_thresholds": g["cas_thresholds"], "actionness_thresholds": g["actionness_thresholds"]}


def _sorted(rows):
    """Rows in an order that rounding does not change."""
    rows = np.asarray(rows, float)
    return rows[np.lexsort(np.round(rows[:, [1, 3, 2, 0]], 3).T)]


def _same_set(ours, theirs):
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    assert ours.shape == theirs.shape
    distance = np.abs(ours[:, None] - theirs[None]).max(2)
    assert distance.min(0).max() <= 1e-4
    assert distance.min(1).max() <= 1e-4


def test_thresholds_are_the_released_ones(golden):
    g = golden("proposals")
    params = _params(g)
    for name, values in _grids(g).items():
        np.testing.assert_allclose(parse_grid(getattr(params, name)), values, atol=1e-9)


def test_proposals(golden):
    g = golden("proposals")
    params = _params(g)
    for i in range(int(g["num_cases"])):
        case = {name: g[f"case{i}_{name}"] for name in ("cas", "actionness", "video_score", "classes", "num_snippets")}
        seconds = float(g["snippet_frames"] * case["num_snippets"] / (len(case["cas"]) * g["fps"]))
        found = propose(case["cas"], case["actionness"], case["video_score"], case["classes"], seconds, params)
        _same_set(found[["label", "score", "start", "end"]], g[f"case{i}_proposals_after_nms"])
        before, action = [], upsample(normalise(case["actionness"]), params.upscale)
        for c in case["classes"]:
            first, last, contrast = contrasted_runs(
                upsample(normalise(case["cas"][:, c]), params.upscale), action, params
            )
            score = contrast + params.oic_video_weight * case["video_score"][c]
            position = seconds / params.upscale
            before.append(np.stack([np.full(len(first), c), score, first * position, (last + 1) * position], 1))
        _same_set(np.concatenate(before), g[f"case{i}_proposals_before_nms"])


def test_iou_filter(golden):
    g = golden("iou_filter")
    proposals = pd.DataFrame({"video": g["video"], "label": "any", "score": g["scores"]})
    proposals[["start", "end"]] = g["segments"]
    scored = add_iou_score(proposals)
    np.testing.assert_allclose(scored.iou_score, g["iou_score"], rtol=1e-4, atol=1e-4)
    kept = select(scored.assign(row=range(len(scored))), float(g["iou_score_threshold"]), float(g["score_threshold"]))
    np.testing.assert_array_equal(np.isin(np.arange(len(scored)), kept.row), g["keep"])
