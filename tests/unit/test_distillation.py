"""EMA distillation: which predictions of the teacher become labels, and the training that continues."""

import math

import pytest
import torch
from torch.testing import assert_close

from fustal import distillation
from fustal.distillation import Relabel, distill, most_confident, predict
from fustal.params import Params
from fustal.student import Student, StudentState, Truth, train_student
from fustal.student.batches import Batch
from fustal.student.decoding import candidates
from tests.networks import FixedStudent

SMALL = {
    "student_dim": 16,
    "student_mlp": 16,
    "student_levels": 2,
    "student_stem": 1,
    "student_bins": 4,
    "sgp_init_std": 0.1,
    "max_snippets": 64,
    "student_batch": 4,
    "student_epochs": 2,
    "distill_epochs": 2,
    "device": "cpu",
}
FOUND = torch.tensor([[0.0, 4.0], [0.0, 4.4], [8.0, 70.0], [8.0, 9.0]]), torch.tensor([0.9, 0.5, 0.6, 0.2])
LABELS = torch.tensor([0, 0, 1, 1])


def test_confident_detections_become_labels():
    segments, scores, labels = most_confident((*FOUND, LABELS), Params(relabel_confidence=0.4))
    assert scores.tolist() == pytest.approx([0.9, 0.6])  # soft-NMS lowers the second below the confidence
    assert labels.tolist() == [0, 1]
    assert segments.tolist() == [[0, 4], [8, 70]]


def test_the_confidence_before_and_after_soft_nms_gives_the_same():
    torch.manual_seed(0)
    start = torch.rand(200) * 50
    segments = torch.stack([start, start + 5 * torch.rand(200)], dim=1)
    found = segments, torch.rand(200), torch.randint(3, (200,))
    early = most_confident(found, Params())
    segments, scores, labels = distillation.apply_soft_nms(found, Params())
    late = scores > 0.4
    assert late.sum() > 10
    assert_close(early, (segments[late], scores[late], labels[late]))


def test_single_best_where_nothing_is_confident():
    assert most_confident((*FOUND, LABELS), Params(relabel_confidence=0.95))[1].tolist() == pytest.approx([0.9])
    nothing = torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, dtype=torch.long)
    assert [len(part) for part in most_confident(nothing, Params())] == [0, 0, 0]


def batch_of_two():
    mask = torch.ones(2, 64, 1, dtype=torch.bool)
    segments = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])]
    labels = [torch.tensor([0]), torch.tensor([1])]
    truth = Truth(segments, labels, [torch.ones(1)] * 2, torch.eye(2))
    return Batch(["v", "w"], torch.randn(2, 64, 6), mask, truth)


@pytest.fixture
def teacher():
    """A teacher that finds both classes in the first video of a batch, and nothing in the second."""
    teacher = FixedStudent([64], bins=4)
    logits = teacher.output.class_logits
    logits[:] = -20
    logits[0, 20, 0] = 3
    logits[0, 63, 1] = 3
    logits[0, 21, 0] = -2  # not confident
    teacher.fixed_borders.offsets[0, 63, 9] = 99  # the segment ends behind the sequence
    return teacher


def test_corrected_fallback_concerns_one_video(teacher):
    relabel, batch = Relabel(Params(**SMALL)), batch_of_two()
    for epoch in (5, 5):
        new = relabel(teacher, batch, epoch)
        assert len(new.segments[0]) == 1
        assert new.segments[0][0, 0] < 20 < new.segments[0][0, 1]
        assert new.segments[1].tolist() == [[3, 4]]
        assert [labels.tolist() for labels in new.labels] == [[0], [1]]  # class 1 is not a label of the first video


def test_published_fallback_lasts_for_the_epoch(teacher):
    relabel, batch = Relabel(Params(**SMALL, recipe="published")), batch_of_two()
    assert relabel(teacher, batch, 5) is batch.truth
    teacher.output.class_logits[1] = teacher.output.class_logits[0]
    restored = Relabel(Params(**SMALL, recipe="published"))
    restored.load_state_dict(relabel.state_dict())
    assert restored(teacher, batch, 5) is batch.truth
    new = restored(teacher, batch, 6)
    assert sorted(new.labels[1].tolist()) == [0, 1]  # the predicted class 1 as well
    assert new.segments[1].max() == 64  # clipped to the sequence


def test_teacher_decodes_only_what_can_become_a_label(teacher, monkeypatch):
    decoded = []

    def spy(model, output, scores, params):
        decoded.append((scores > 0).sum(dim=(1, 2)).tolist())
        return candidates(model, output, scores, params)

    monkeypatch.setattr(distillation, "candidates", spy)
    _, x, mask, truth = batch_of_two()
    known = truth.video_labels
    params = Params(**SMALL)
    first, second = predict(teacher, x, mask, known.flip(0), params)
    assert first[2].tolist() == [1]
    assert len(second[2]) == 0
    teacher.output.class_logits[:] = torch.randn(2, 64, 2) - 4
    assert [len(labels) for _, _, labels in predict(teacher, x, mask, known, params)] == [1, 1]  # the single best
    assert decoded[1] == [1, 1]


def test_teacher_labels_in_evaluation_mode():
    teacher = Student.from_params(Params(**SMALL), 6, 2).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    new = Relabel(Params(**SMALL))(teacher, batch_of_two(), 0)
    assert not teacher.training
    assert not any(segments.requires_grad for segments in new.segments)
    assert all(len(segments) == len(labels) >= 1 for segments, labels in zip(new.segments, new.labels, strict=True))
    assert_close(dict(teacher.state_dict()), before)


def test_without_relabelling_the_student_training_continues(planted, tmp_path):
    dataset, store = planted
    params = Params(**SMALL, relabel=False)
    train_student(params, store, dataset.segments, tmp_path / "student")
    loaded = StudentState.load(tmp_path / "student", params, store)
    continued = distill(params, store, dataset.segments, loaded, tmp_path / "on")
    longer = params.model_copy(update={"student_epochs": params.student_epochs + params.distill_epochs})
    expected = train_student(longer, store, dataset.segments, tmp_path / "longer")
    assert_close(continued.ema.state_dict(), expected.ema.state_dict(), rtol=0, atol=0)


def test_distillation_continues_from_files(planted, tmp_path):
    dataset, store = planted
    params = Params(**SMALL)
    train_student(params, store, dataset.segments, tmp_path / "student")
    results = []
    for name in "ab":
        state = StudentState.load(tmp_path / "student", params, store)
        results.append(distill(params, store, dataset.segments, state, tmp_path / name))
        steps = {float(moments["step"]) for moments in state.optimizer.state.values()}
        assert steps == {4 * math.ceil(8 / params.student_batch)}
        assert not torch.equal(state.student.class_head.out.bias, state.ema.class_head.out.bias)
    assert_close(results[0].ema.state_dict(), results[1].ema.state_dict(), rtol=0, atol=0)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "checkpoint.safetensors",
        "ema.safetensors",
        "log.csv",
        "model.safetensors",
        "optimizer.safetensors",
    ]
