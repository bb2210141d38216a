"""Soft-NMS, hard NMS, voting and the IoU score against arrays measured on the released code."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from fustal.segments import hard_nms, iou_score, soft_nms, vote


@pytest.fixture
def case(golden):
    """The vectors as tensors of one dimension and more."""
    return {name: torch.from_numpy(np.atleast_1d(value)) for name, value in golden("soft_nms").items()}


def _settings(case):
    return {name: case[name].item() for name in ("sigma", "min_score", "max_segments")}


def _assert_same(found, case, mode):
    segments, scores, labels = found
    assert_allclose(scores, case[f"{mode}_scores"], rtol=1e-4, atol=1e-5)
    assert_allclose(segments, case[f"{mode}_segments"], rtol=1e-4, atol=1e-5)
    assert labels.tolist() == case[f"{mode}_labels"].tolist()


def test_soft_nms_per_class(case):
    found = soft_nms(case["segments"], case["scores"], case["labels"], **_settings(case))
    _assert_same(found, case, "multiclass")


def test_soft_nms_class_agnostic_with_voting(case):
    found = soft_nms(
        case["segments"],
        case["scores"],
        case["labels"],
        class_agnostic=True,
        voting_tiou=case["voting_threshold"].item(),
        **_settings(case),
    )
    _assert_same(found, case, "agnostic")


def test_hard_nms_per_class(case):
    segments, scores, labels = case["segments"], case["scores"], case["labels"]
    kept = []
    for label in labels.unique():
        rows = torch.where((labels == label) & (scores >= case["min_score"]))[0]
        kept.append(rows[hard_nms(segments[rows], scores[rows], case["iou_threshold"].item())])
    kept = torch.cat(kept)
    kept = kept[scores[kept].argsort(descending=True)][: case["max_segments"].item()]
    _assert_same((segments[kept], scores[kept], labels[kept]), case, "hard")


def test_voting(case):
    voted = vote(case["voting_in"], case["segments"], case["scores"], case["voting_threshold"].item())
    assert_allclose(voted, case["voting_out"], rtol=1e-4, atol=1e-5)


def test_iou_score(golden):
    case = golden("iou_filter")
    for video in np.unique(case["video"]):
        rows = case["video"] == video
        found = iou_score(torch.from_numpy(case["segments"][rows]))
        assert_allclose(found, case["iou_score"][rows], rtol=1e-4, atol=1e-5)
