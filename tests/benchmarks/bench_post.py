"""Post-processing of the networks' outputs: proposals, filter, soft-NMS and evaluation, at THUMOS'14's sizes."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from fustal.data.results import read_results
from fustal.evaluation.detections import mean_average_precision
from fustal.labels import add_iou_score, select
from fustal.params import Params
from fustal.proposals import propose
from fustal.segments import soft_nms
from fustal.tools.evaluate import evaluate
from tests.benchmarks import plain_post

TIOUS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
SEGMENTS, CLASSES, VIDEOS = 3300, 20, 210


def evaluation_case(count, videos=VIDEOS, segments=SEGMENTS):
    """Detections (count) and true segments of some videos: half of the detections lie near a true one."""
    random = np.random.default_rng(0)
    video = random.integers(0, videos, segments)
    label = np.where(random.random(segments) < 0.9, video % CLASSES, random.integers(0, CLASSES, segments))
    start = random.uniform(0, 200, segments)
    length = random.lognormal(1.2, 0.7, segments)
    near = random.random(count) < 0.5
    of = random.integers(0, segments, count)
    begin = np.where(near, start[of] + random.normal(0, 0.3, count) * length[of], random.uniform(0, 200, count))
    lasts = np.where(near, length[of] * random.lognormal(0, 0.3, count), random.lognormal(1.2, 0.7, count))
    where = np.where(near, video[of], random.integers(0, videos, count))
    what = np.where(near, label[of], random.integers(0, CLASSES, count))
    truth = _frame(video, label, start, length)
    return _frame(where, what, begin, lasts).assign(score=random.random(count)), truth


def _frame(video, label, start, length):
    names = {"video": [f"video_test_{v:07d}" for v in video], "label": [f"class_{c:02d}" for c in label]}
    return pd.DataFrame(names | {"start": start, "end": start + length})


@pytest.mark.parametrize(("count", "plain"), [(20_000, True), (36_000, True), (1_000_000, False)])
def test_map(compare, count, plain):
    case = *evaluation_case(count), TIOUS
    compare(
        f"mAP, {count:,} detections",
        "≤ 0.25 s (elsewhere 11–45 s)" if plain else "≤ 10 s",
        lambda: mean_average_precision(*case),
        (lambda: plain_post.plain_mean_average_precision(*case)) if plain else None,
        note=f"{VIDEOS} videos, {SEGMENTS} segments, {CLASSES} classes, {len(TIOUS)} tIoU",
        rounds=5 if plain else 2,
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A result file of a million detections, indented (107 MB), and its annotations."""
    folder = tmp_path_factory.mktemp("large")
    detections, truth = evaluation_case(1_000_000)
    results = {video: _items(part, ["label", "score"]) for video, part in detections.groupby("video")}
    database = {
        video: {"subset": "test", "annotations": _items(part, ["label"])} for video, part in truth.groupby("video")
    }
    for name, value in (("found", {"results": results}), ("gt", {"database": database})):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=1))
    return folder / "found.json", folder / "gt.json"


def _items(frame, names):
    times = frame[["start", "end"]].clip(lower=0).round(4).to_numpy().tolist()
    rows = frame[names].round(6).to_dict("records")
    return [row | {"segment": segment} for row, segment in zip(rows, times, strict=True)]


def test_reading_results(compare, large):
    compare(
        "reading 1,000,000 detections",
        "in seconds",
        lambda: read_results(large[0]),
        lambda: plain_post.plain_read_results(large[0]),
        note=f"{large[0].stat().st_size / 1e6:.0f} MB of indented JSON; plain checks nothing",
        rounds=2,
    )


def test_evaluating_a_file(compare, large):
    compare(
        "`fustal evaluate`, 1,000,000 detections",
        "≤ 15 s",
        lambda: evaluate(*large, np.array(TIOUS)),
        note=f"{large[0].stat().st_size / 1e6:.0f} MB read, and mAP",
        rounds=2,
    )


def activations(seed, length=750):
    """CAS (T, C), actionness (T,) and video score (C,) of a video with two classes: smooth signals and noise."""
    random = np.random.default_rng(seed)
    noise = gaussian_filter1d(random.normal(size=(length, CLASSES)), 2.5, axis=0)
    action = np.zeros((length, CLASSES))
    for _ in range(15):
        first, lasts = random.integers(0, length), random.integers(5, 40)
        action[first : first + lasts, random.integers(0, 2)] += random.uniform(1, 3)
    cas = np.maximum(gaussian_filter1d(action, 1.5, axis=0) + 0.5 * noise / noise.std() - 0.2, 0).astype(np.float32)
    return cas, cas.sum(axis=1), random.random(CLASSES).astype(np.float32)


def test_proposals(compare):
    case = activations(0)
    params = Params()
    found = compare(
        "proposals of a video",
        "≤ 8 ms (elsewhere 85–97 ms)",
        lambda: propose(*case, np.array([0, 1]), 0.64, params),
        lambda: plain_post.plain_propose(*case, np.array([0, 1]), 0.64, params),
        note="43 thresholds, 750 × 24 positions, 2 classes",
        rounds=100,
    )
    assert 200 < len(found) < 1000


def proposals_of(videos, params):
    """Proposals of videos, and the pseudo labels that the filter selects from them."""
    frames = []
    for i, case in enumerate(videos):
        frames.append(propose(*case, np.array([0, 1]), 0.64, params).assign(video=i))
    scored = add_iou_score(pd.concat(frames, ignore_index=True))
    return scored, select(scored, params)


def test_split(compare):
    videos, params = [activations(seed) for seed in range(410)], Params(label_share=0.6)
    compare(
        "proposals and filter of a THUMOS'14-sized split",
        "in seconds",
        lambda: proposals_of(videos, params),
        note="200 + 210 videos of 750 snippets, 2 classes",
        rounds=1,
    )


def test_filter(compare):
    params = Params(label_share=0.6)
    proposals, _ = proposals_of([activations(seed) for seed in range(40)], params)
    scored = proposals.drop(columns="iou_score")
    compare(
        "IoU score of proposals",
        "in seconds",
        lambda: add_iou_score(scored),
        lambda: plain_post.plain_iou_score(scored),
        note=f"40 videos, {len(scored):,} proposals",
        rounds=5,
    )


@pytest.mark.parametrize("classes", [CLASSES, 1])
def test_soft_nms(compare, classes):
    random = np.random.default_rng(0)
    start = random.uniform(0, 2304, 2000)
    length = random.lognormal(np.log(30), 0.8, 2000)
    segments = torch.from_numpy(np.stack([start, start + length], axis=1).astype(np.float32))
    scores = torch.from_numpy(random.random(2000).astype(np.float32))
    labels = torch.from_numpy(random.integers(0, classes, 2000))
    case = segments, scores, labels
    options = {"sigma": 0.5, "min_score": 0.001, "max_segments": 2000}
    compare(
        f"soft-NMS, 2,000 segments, {classes} class{'es' * (classes > 1)}",
        "≤ 13 ms (elsewhere 6.5 ms in C++)" if classes == 1 else "≤ 2.2 ms (elsewhere 1.1 ms in C++)",
        lambda: soft_nms(*case, **options),
        lambda: plain_post.soft_nms(*case, **options),
        note=f"{len(soft_nms(*case, **options)[0]):,} stay",
        rounds=200,
    )
