"""`tests/benchmarks/plain_student.py` computes what `fustal.student` computes in the published recipe."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from fustal.distillation import Relabel
from fustal.engine.average import start_average, update_average
from fustal.engine.videos import pad
from fustal.params import Params
from fustal.student import Student, detect_videos
from fustal.student.batches import Batch
from fustal.student.losses import student_loss
from fustal.student.training import make_optimizer
from tests.benchmarks.plain_student import (
    plain_forward,
    plain_localize,
    plain_losses,
    plain_optimizer,
    plain_relabel,
    plain_step,
)
from tests.networks import PUBLISHED, truth_of

SMALL = PUBLISHED | {
    "student_dim": 16,
    "student_mlp": 24,
    "student_levels": 3,
    "student_stem": 1,
    "student_bins": 4,
    "student_drop_path": 0.0,
    "mil_dropout": 0.0,
    "input_noise": 0.0,
    "max_snippets": 64,
    "relabel_confidence": 0.5,
    "device": "cpu",
}


def make_student(params, in_dim=6, classes=3):
    """A student whose biases, norms and scales differ from their initial values, and whose class scores are high."""
    torch.manual_seed(0)
    student = Student.from_params(params, in_dim, classes)
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        student.class_head.out.bias.add_(4)
    return student


def make_batch(in_dim=6, classes=3):
    """Sequences with many actions, a single one, equal ones, and none."""
    torch.manual_seed(1)
    x, mask = pad([torch.randn(length, in_dim) for length in (64, 33, 50, 7)], 64)
    start = 50 * torch.rand(12)
    segments = [
        torch.stack([start, start + 14 * torch.rand(12)], dim=1),
        torch.tensor([[3.0, 9.5]]),
        torch.tensor([[10.0, 13.0], [10.0, 13.0], [10.0, 13.0], [8.0, 40.0]]),
        torch.zeros(0, 2),
    ]
    labels = [torch.arange(12) % classes, torch.tensor([1]), torch.tensor([0, 2, 0, 1]), torch.zeros(0).long()]
    video_labels = torch.eye(4, classes) + torch.eye(4, classes).roll(1, dims=0)
    return Batch(["a", "b", "c", "d"], x, mask, truth_of(segments, labels, video_labels))


@pytest.mark.parametrize(
    "changes", [{}, {"student_dim": 64, "student_levels": 2}, {"student_stem": 0, "sgp_window": 3}]
)
def test_losses_and_gradients(changes):
    params = Params(**(SMALL | changes))
    batch = make_batch()
    ours = make_student(params)
    plain = make_student(params)
    expected = student_loss(ours, ours(batch.x, batch.mask), batch.truth, params)
    levels = plain_forward(plain, batch.x.mT, batch.mask.mT)
    found = plain_losses(plain, levels, batch.truth, params)
    assert_close(found, expected)
    expected["loss"].backward()
    found["loss"].backward()
    for (name, one), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert one.grad.any(), name
        assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert_close(ours.positives, plain.positives)


def test_step():
    params = Params(**SMALL, student_lr=1e-2)
    batch = make_batch()
    ours = make_student(params)
    plain = make_student(params)
    our_average = start_average(ours)
    plain_average = start_average(plain)
    our_optimizer = make_optimizer(ours, params)
    optimizer_of_plain = plain_optimizer(plain, params)
    for _ in range(2):
        losses = student_loss(ours.train(), ours(batch.x, batch.mask), batch.truth, params)
        our_optimizer.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
        our_optimizer.step()
        update_average(our_average, ours, 0.9)
        numbers = plain_step(plain, plain_average, optimizer_of_plain, batch, params, 0.9)
    assert numbers == pytest.approx({name: value.item() for name, value in losses.items()}, rel=1e-3)
    for (name, one), other in zip(our_average.named_parameters(), plain_average.parameters(), strict=True):
        assert_close(other, one, rtol=1e-2, atol=1e-4, msg=name)


@pytest.mark.parametrize("changes", [{}, {"pre_nms_topk": 40, "max_detections": 30, "student_drop_path": 0.3}])
def test_detections(planted, changes):
    _, store = planted
    params = Params(**(SMALL | {"max_detections": 2000} | changes))
    student = make_student(params, classes=2)
    videos = ["test0", "train0", "train1"]
    ours = detect_videos(student, store, videos, params)
    plain = plain_localize(student, store, videos, params)
    assert ours.video.value_counts().min() >= 30
    assert list(ours.video.value_counts()) == list(plain.video.value_counts())
    for video in videos:
        one = ours[ours.video == video].sort_values("score", ascending=False)
        other = plain[plain.video == video].sort_values("score", ascending=False)
        np.testing.assert_allclose(other.score, one.score, rtol=1e-4)
        assert_same_rows(one, other)


def assert_same_rows(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Each row of one frame is near one row of the other: the order of nearly equal scores depends on rounding."""
    rows = _as_numbers(one)
    others = _as_numbers(other)
    distance = np.abs(rows[:, None] - others).max(axis=2)
    assert len(set(distance.argmin(axis=1))) == len(rows)
    assert distance.min(axis=1).max() < 1e-3


def _as_numbers(frame: pd.DataFrame) -> np.ndarray:
    """Label, score, start and end of each row; a score counts ten times, as scores differ less than times."""
    return np.column_stack([frame.label.map(ord), 10 * frame.score, frame.start, frame.end])


def test_labels_of_the_teacher():
    params = Params(**SMALL)
    batch = make_batch()
    teacher = make_student(params).eval()
    ours = Relabel(params)(teacher, batch, 0)
    plain = plain_relabel(teacher, batch, params)
    assert sum(map(len, ours.labels)) > 20
    for i in range(len(batch.x)):
        order = ours.segments[i][:, 0].argsort()
        other = plain.segments[i][:, 0].argsort()
        assert_close(plain.segments[i][other], ours.segments[i][order], rtol=1e-4, atol=1e-4)
        assert plain.labels[i][other].tolist() == ours.labels[i][order].tolist()
    nothing = params.model_copy(update={"pre_nms_score": 1.0})
    assert Relabel(nothing)(teacher, batch, 0) is None
    assert plain_relabel(teacher, batch, nothing) is None
