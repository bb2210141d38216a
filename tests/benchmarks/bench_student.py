"""The full-size student on a CPU: a training step, inference on THUMOS'14-sized videos, EMA relabelling.

Each against `plain_student.py` on the same weights.
"""

import math
from time import perf_counter

import numpy as np
import pytest
import torch
from torch import nn

from fustal import ROOT
from fustal.data.cards import Dataset
from fustal.data.features import FeatureStore
from fustal.distillation import Relabel
from fustal.engine.average import start_average, update_average
from fustal.params import Params
from fustal.student import Student, detect_videos
from fustal.student.batches import Batch
from fustal.student.losses import student_loss
from fustal.student.training import make_optimizer
from tests.benchmarks import plain_student, shapes
from tests.benchmarks.conftest import spent
from tests.networks import truth_of

PARAMS = Params.read(ROOT / "params" / "thumos14.yaml", device="cpu")
DIM, BATCH, LENGTH = 2048, 8, PARAMS.max_snippets
DECAY = 0.999
SAMPLE = 24
"""Test videos of 210, evenly spaced quantiles of their durations."""

CANDIDATES, CONFIDENT = 0.37, 0.0003
"""Shares of the class scores above `pre_nms_score` and `relabel_confidence`, as SBHAR's distilled student gave them."""


pytestmark = pytest.mark.usefixtures("two_threads")


def random_features(length, seed):
    """Features (T, D) that change within about a second: neighbours are similar, as in real video."""
    random = torch.Generator().manual_seed(seed)
    kernel = torch.exp(-(torch.linspace(-2, 2, 17) ** 2))[None, None]
    smooth = nn.functional.conv1d(torch.randn(64, 1, length + 16, generator=random), kernel / kernel.norm())[:, 0]
    return (smooth.T @ torch.randn(64, DIM, generator=torch.Generator().manual_seed(0)) / 8).numpy()


def make_student(recipe="corrected"):
    torch.manual_seed(0)
    return Student.from_params(PARAMS.model_copy(update={"recipe": recipe}), DIM, shapes.CLASSES)


@torch.no_grad()
def as_if_trained(student, candidates, confident):
    """Scales the class scores: as many of them exceed the thresholds as after a training.

    Args:
        student: is changed.
        candidates: share of the scores above `pre_nms_score`.
        confident: share above `relabel_confidence`.
    """
    features = torch.from_numpy(random_features(LENGTH, seed=1))[None]
    logits = student.eval()(features, torch.ones(1, LENGTH, 1, dtype=torch.bool)).class_logits[0]
    low, high = logits.quantile(torch.tensor([1 - candidates, 1 - confident]), dim=0)  # (C,)
    floor = math.log(PARAMS.pre_nms_score / (1 - PARAMS.pre_nms_score))
    ceiling = math.log(PARAMS.relabel_confidence / (1 - PARAMS.relabel_confidence))
    gain = (ceiling - floor) / (high - low)
    out = student.class_head.out
    out.weight.mul_(gain[:, None, None])
    out.bias.sub_(low).mul_(gain).add_(floor)


def make_batch():
    """Sequences of full length, each with one class and THUMOS'14's number and durations of actions."""
    x = torch.from_numpy(np.stack([random_features(LENGTH, seed) for seed in range(BATCH)]))
    random = np.random.default_rng(0)
    seconds = LENGTH * shapes.STUDENT.stride / shapes.STUDENT.fps
    spans = [shapes.actions(seconds, random) / seconds * LENGTH for _ in range(BATCH)]
    segments = [torch.from_numpy(span.astype(np.float32)) for span in spans]
    labels = [torch.full((len(span),), i) for i, span in enumerate(spans)]
    mask = torch.ones(BATCH, LENGTH, 1, dtype=torch.bool)
    truth = truth_of(segments, labels, torch.eye(BATCH, shapes.CLASSES))
    return Batch([str(i) for i in range(BATCH)], x, mask, truth)


def training(student, relabel=None):
    """The training step of `fustal.student.training.train_epochs`; it returns the share of time of relabelling."""
    ema = start_average(student)
    optimizer = make_optimizer(student, PARAMS)

    def step(batch):
        began = perf_counter()
        noisy = batch.x + PARAMS.input_noise * torch.randn_like(batch.x)
        drawn = perf_counter()
        if relabel:
            batch = batch._replace(truth=relabel(ema, batch, PARAMS.student_epochs))
        labelled = perf_counter()
        losses = student_loss(student.train(), student(noisy, batch.mask), batch.truth, PARAMS)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        update_average(ema, student, DECAY)
        return (labelled - drawn) / (perf_counter() - began)

    return step


def plain_training(student, relabel=None):
    """The same step with plain loops."""
    ema = start_average(student)
    optimizer = plain_student.plain_optimizer(student, PARAMS)

    def step(batch):
        began = perf_counter()
        if relabel:
            batch = batch._replace(truth=relabel(ema, batch, PARAMS))
        labelled = perf_counter()
        plain_student.plain_step(student, ema, optimizer, batch, PARAMS, DECAY)
        return (labelled - began) / (perf_counter() - began)

    return step


def test_student_step(compare, benchmark):
    ours = training(make_student())
    plain = plain_training(make_student("published"))
    batch = make_batch()
    ours(batch)  # the first pass allocates memory
    plain(batch)
    compare(
        f"student step, batch {BATCH} × {LENGTH}, 16 M parameters",
        "≥ 1.5 ×",
        lambda: ours(batch),
        lambda: plain(batch),
        note=f"{sum(map(len, batch.truth.labels)) / BATCH:.0f} segments a video, float32, 2 threads",
        rounds=2,
    )
    benchmark.extra_info["details"] = f"time of a student step: {spent(lambda: ours(batch))}"


def test_relabelling(compare, benchmark):
    batch = make_batch()
    student = make_student()
    published = make_student("published")
    as_if_trained(student, CANDIDATES, shapes.CLASSES * CONFIDENT)  # only the label of the video is predicted
    as_if_trained(published, CANDIDATES, CONFIDENT)
    ours = training(student, Relabel(PARAMS))
    plain = plain_training(published, plain_student.plain_relabel)
    ours(batch)  # the first pass allocates memory
    plain(batch)
    our_shares = []
    plain_shares = []
    compare(
        "distillation step: EMA relabelling, then a student step",
        "relabelling ≤ 25 %",
        lambda: our_shares.append(ours(batch)),
        lambda: plain_shares.append(plain(batch)),
        note=f"batch {BATCH} × {LENGTH}, float32, 2 threads; plain: inference of each video, then a plain step",
        rounds=2,
    )
    benchmark.extra_info |= {"share": float(np.median(our_shares)), "plain_share": float(np.median(plain_shares))}


@pytest.fixture
def split(tmp_path):
    """Test videos with features in files, and their store."""
    videos, segments = shapes.annotate({"test": SAMPLE})
    (tmp_path / "student").mkdir()
    for seed, (video, seconds) in enumerate(videos.duration.items()):
        features = random_features(shapes.snippets(seconds, shapes.STUDENT), seed)
        np.save(tmp_path / "student" / f"{video}.npy", features.astype(np.float16))
    dataset = Dataset(
        name="test videos",
        about="",
        root=tmp_path,
        annotations=tmp_path / "gt.json",
        classes=[f"class_{i:02d}" for i in range(shapes.CLASSES)],
        videos=videos,
        video_labels=segments[["video", "label"]],
        segments=segments,
        grids={"student": shapes.STUDENT},
    )
    return FeatureStore(dataset, "student"), videos.index.tolist()


@pytest.mark.parametrize("padded", ["a training sequence", "the longest video"])
def test_inference(compare, benchmark, split, padded):
    student = make_student()
    published = make_student("published")
    as_if_trained(student, CANDIDATES, CONFIDENT)
    as_if_trained(published, CANDIDATES, CONFIDENT)
    minutes = shapes.durations("test", SAMPLE).sum() / 60
    store, videos = split
    longest = max(map(store.length, videos)) if padded == "the longest video" else LENGTH
    plain_params = PARAMS.model_copy(update={"max_snippets": longest})
    detect_videos(student, store, videos[-3:], PARAMS)  # the first pass allocates memory
    plain_student.plain_localize(published, store, videos[-3:], PARAMS)
    compare(
        "inference, THUMOS'14-sized test split",
        "≥ 3 ×",
        lambda: detect_videos(student, *split, PARAMS),
        lambda: plain_student.plain_localize(published, *split, plain_params),
        note=f"{SAMPLE} videos, {minutes:.0f} minutes together, float32, 2 threads; "
        f"plain: one by one, padded to {padded}, {longest} snippets, at least",
        rounds=2,
    )
    if padded == "the longest video":
        profile = spent(lambda: detect_videos(student, *split, PARAMS))
        benchmark.extra_info["details"] = f"time of inference: {profile}"
