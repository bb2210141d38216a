"""EMA distillation: which predictions of the teacher become labels, and the training that continues."""

import math

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from fustal import distillation, viz
from fustal.distillation import Relabel, distill, most_confident, predict
from fustal.engine import loop
from fustal.evaluation.labels import pseudo_label_quality
from fustal.params import Params
from fustal.student import Student, StudentState, Truth, train_student, training
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
    "ema_memory": 1.0,
    "label_rule": "thresholds",
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
    truth = Truth(segments, labels, [torch.ones(1)] * 2, torch.eye(2), torch.full((1, 2), 5))
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
    assert relabel(teacher, batch, 5) is None, "this batch is skipped"
    teacher.output.class_logits[1] = teacher.output.class_logits[0]
    restored = Relabel(Params(**SMALL, recipe="published"))
    restored.load_state_dict(relabel.state_dict())
    assert restored(teacher, batch, 5) is batch.truth
    new = restored(teacher, batch, 6)
    assert sorted(new.labels[1].tolist()) == [0, 1]  # the predicted class 1 as well
    assert new.segments[1].max() == 64  # clipped to the sequence


@pytest.fixture
def distilled(planted, tmp_path):
    """Distils a student in a folder; its training is the same each time.

    `watch` is called with the state before the distillation, to register hooks.
    """
    dataset, store = planted

    def run(name, watch=lambda state: None, **changes):
        params = Params(**(SMALL | {"recipe": "published"} | changes))
        if not (tmp_path / "student").exists():
            train_student(params, store, dataset.segments, tmp_path / "student")
        state = StudentState.load(tmp_path / "student", params, store)
        watch(state)
        distill(params, store, dataset.segments, state, tmp_path / name)
        return state, pd.read_csv(tmp_path / name / "log.csv")

    return run


NOTHING_FOUND = {"pre_nms_score": 1.0}


def test_published_skips_the_step_and_uses_pseudo_labels_for_the_rest_of_the_epoch(distilled, monkeypatch):
    calls = []

    def count(optimizer, args, kwargs):
        calls.append("optimizer")

    def watch(state):
        calls.clear()  # of the training before
        state.optimizer.register_step_pre_hook(count)
        state.student.register_forward_pre_hook(lambda student, args: calls.append("student"))
        state.ema.register_forward_pre_hook(lambda student, args: calls.append("teacher"))

    average = training.update_average
    monkeypatch.setattr(training, "update_average", lambda *args: (calls.append("average"), average(*args)))
    state, log = distilled("a", watch, **NOTHING_FOUND)
    # The first of the two steps of each epoch is skipped; in the second the teacher is not asked again.
    assert calls == ["teacher", "student", "optimizer", "average"] * 2
    assert log.step.tolist() == [4, 5, 6, 7]
    assert log.loss.isna().tolist() == log.focal.isna().tolist() == [True, False, True, False]
    assert {float(moments["step"]) for moments in state.optimizer.state.values()} == {4 + 2}


def test_skipped_steps_alone_change_nothing(distilled, tmp_path):
    changes = NOTHING_FOUND | {"student_batch": 8}  # one step in an epoch
    before = {}

    def watch(state):
        for name in ("student", "ema"):
            before[name] = {key: value.clone() for key, value in getattr(state, name).state_dict().items()}

    state, log = distilled("a", watch, **changes)
    assert_close(state.student.state_dict(), before["student"], rtol=0, atol=0)
    assert_close(state.ema.state_dict(), before["ema"], rtol=0, atol=0)
    assert log.columns.tolist() == ["step", "loss"]
    assert log.loss.isna().all()
    assert "none" in viz.training_curves(log).alt_text
    corrected, log = distilled("b", recipe="corrected", **changes)
    assert log.loss.notna().all()
    assert not corrected.student.class_head.out.bias.equal(before["student"]["class_head.out.bias"])


@pytest.mark.parametrize("fail_at", [0, 1])
def test_a_distillation_with_skipped_steps_continues_with_equal_bits(distilled, tmp_path, monkeypatch, fail_at):
    """It is interrupted in the second step of an epoch whose first step is skipped."""
    whole, _ = distilled("whole", **NOTHING_FOUND)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 1)

    def watch(state):
        outputs = []

        def fail(student, args):
            if len(outputs) == fail_at:
                raise RuntimeError("power cut")
            outputs.append(args)

        state.student.register_forward_pre_hook(fail)

    with pytest.raises(RuntimeError, match="power cut"):
        distilled("broken", watch, **NOTHING_FOUND)
    again, _ = distilled("broken", **NOTHING_FOUND)
    assert_close(again.student.state_dict(), whole.student.state_dict(), rtol=0, atol=0)
    assert_close(again.ema.state_dict(), whole.ema.state_dict(), rtol=0, atol=0)
    assert (tmp_path / "broken" / "log.csv").read_bytes() == (tmp_path / "whole" / "log.csv").read_bytes()


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
    distill(params, store, dataset.segments, loaded, tmp_path / "on")
    longer = params.model_copy(update={"student_epochs": params.student_epochs + params.distill_epochs})
    expected = train_student(longer, store, dataset.segments, tmp_path / "longer")
    assert_close(loaded.ema.state_dict(), expected.ema.state_dict(), rtol=0, atol=0)


def test_rounds_label_all_videos_again_and_continue_after_a_stop(planted, tmp_path, monkeypatch):
    dataset, store = planted
    params = Params(**SMALL | {"label_rule": "best", "distill_rounds": 2})
    train_student(params, store, dataset.segments, tmp_path / "student")
    labelled = []
    label_again = distillation.label_again

    def noted(teacher, store, labels, params):
        labelled.append(label_again(teacher, store, labels, params))
        return labelled[-1]

    monkeypatch.setattr(distillation, "label_again", noted)

    def distilled(name):
        state = StudentState.load(tmp_path / "student", params, store)
        taught = distill(params, store, dataset.segments, state, tmp_path / name)
        assert taught is labelled[-1], "the labels of the last round"
        return state

    whole = distilled("whole")
    assert len(labelled) == 2
    known = set(dataset.video_labels[dataset.video_labels.video.isin(dataset.split("train"))].itertuples(index=False))
    assert all(set(found[["video", "label"]].itertuples(index=False)) == known for found in labelled)
    assert len(pd.read_csv(tmp_path / "whole" / "log.csv")) == 4
    assert (tmp_path / "whole" / "ema.safetensors").exists()

    class Stopped(Exception):
        pass

    def stop(self, step):
        if step == 6:  # in the second round
            raise Stopped
        save(self, step)

    save = loop.Loop.save
    monkeypatch.setattr(loop.Loop, "save", stop)
    with pytest.raises(Stopped):
        distilled("stopped")
    monkeypatch.setattr(loop.Loop, "save", save)
    again = distilled("stopped")
    assert_close(dict(again.ema.state_dict()), dict(whole.ema.state_dict()), rtol=0, atol=0)
    assert_close(dict(again.student.state_dict()), dict(whole.student.state_dict()), rtol=0, atol=0)


def test_labels_of_a_trained_teacher_lie_at_the_actions(planted, tmp_path):
    dataset, store = planted
    params = Params(**SMALL | {"label_rule": "best", "student_epochs": 40, "student_lr": 5e-3})
    state = train_student(params, store, dataset.segments, tmp_path)
    found = distillation.label_again(state.ema, store, dataset.segments, params)
    truth = dataset.segments_of("train")
    assert pseudo_label_quality(found, truth, [0.7]).f1.iloc[0] > 0.9
    for _, part in found.groupby(["video", "label"]):
        ordered = part.sort_values("start")
        assert (ordered.start.to_numpy()[1:] >= ordered.end.to_numpy()[:-1] - 0.5).all()


def test_distillation_continues_from_files(planted, tmp_path):
    dataset, store = planted
    params = Params(**SMALL)
    train_student(params, store, dataset.segments, tmp_path / "student")
    results = []
    for name in "ab":
        state = StudentState.load(tmp_path / "student", params, store)
        distill(params, store, dataset.segments, state, tmp_path / name)
        results.append(state)
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
