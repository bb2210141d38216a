"""EMA distillation: which predictions of the teacher become labels, and the training that continues."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fustal import distillation, viz
from fustal.data.results import as_labels
from fustal.distillation import (
    Relabel,
    best_of_classes,
    distill,
    highest_scores,
    most_confident,
    predict,
    teacher_agreement,
    teacher_labels,
)
from fustal.engine import loop
from fustal.params import Params
from fustal.proposals import SHARES, choose_share
from fustal.segments import tiou_matrix
from fustal.student import Student, StudentState, train_student, training
from fustal.student.batches import Batch
from fustal.student.decoding import candidates
from tests.networks import FixedStudent, truth_of

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
    "video_score": "softmax",
    "label_rule": "thresholds",
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
    return Batch(["v", "w"], torch.randn(2, 64, 6), mask, truth_of(segments, labels, torch.eye(2)))


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
    params = Params(**SMALL, relabel=False, ema_memory=0.5)
    train_student(params, store, dataset.segments, tmp_path / "student")
    loaded = StudentState.load(tmp_path / "student", params, store)
    continued = distill(params, store, dataset.segments, loaded, tmp_path / "on")
    # Twice as many epochs, and an average over the same number of steps.
    longer = params.model_copy(update={"student_epochs": 4, "ema_memory": 0.25})
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


# --- the best of each class -------------------------------------------------------------------------------------------

BEST = SMALL | {"label_rule": "best", "label_share": 0.5}


@st.composite
def candidate_sets(draw):
    """Candidates of one sequence: segments, positive scores (equal ones occur) and labels of three classes."""
    count = draw(st.integers(0, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    start = random.integers(0, 30, count)
    segments = torch.tensor(np.stack([start, start + random.integers(1, 9, count)], axis=1).astype(np.float32))
    scores = random.choice([0.1, 0.25, 0.5, 1.0], count) if draw(st.booleans()) else random.uniform(0.01, 1, count)
    return segments, torch.tensor(scores, dtype=torch.float32), torch.tensor(random.integers(0, 3, count))


def minimum_of(found, share):
    """(3,) the share of the highest score of each class; 1 where there is none."""
    _, scores, labels = found
    highest = [scores[labels == label].amax().item() if (labels == label).any() else 1.0 for label in range(3)]
    return share * torch.tensor(highest)


@given(candidate_sets(), st.sampled_from([0.0, 0.5, 1.0]))
def test_every_class_with_candidates_has_labels_of_its_own_candidates(found, share):
    minimum = minimum_of(found, share)
    segments, scores, labels = best_of_classes(found, minimum, Params())
    assert set(labels.tolist()) == set(found[2].tolist())
    assert (scores >= minimum[labels]).all()
    for label in labels.unique():
        of_class = found[0][found[2] == label]
        assert (segments[labels == label] >= of_class.amin(dim=0) - 1e-4).all(), "averages lie between candidates"
        assert (segments[labels == label] <= of_class.amax(dim=0) + 1e-4).all()


@given(candidate_sets(), st.sampled_from([0.0, 0.5, 1.0]))
def test_no_two_labels_of_a_class_overlap_before_they_are_averaged(found, share):
    alone = Params(voting_tiou=1.0)  # only equal candidates vote
    segments, _, labels = best_of_classes(found, minimum_of(found, share), alone)
    for label in labels.unique():
        same = segments[labels == label]
        assert tiou_matrix(same, same).fill_diagonal_(0).max() < 1e-5


@given(candidate_sets(), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.125, 0.5, 4.0]))
def test_the_teachers_labels_do_not_depend_on_the_scale_of_its_scores(found, share, scale):
    minimum = minimum_of(found, share)
    segments, scores, labels = best_of_classes(found, minimum, Params())
    scaled = best_of_classes((found[0], scale * found[1], found[2]), scale * minimum, Params())
    assert_close(scaled, (segments, scale * scores, labels))


def test_a_label_is_the_average_of_the_candidates_near_it():
    segments = torch.tensor([[10.0, 20.0], [10.0, 24.0], [9.0, 20.0], [10.0, 40.0], [50.0, 55.0]])
    scores = torch.tensor([0.6, 0.9, 0.6, 0.55, 0.8])
    found = segments, scores, torch.zeros(5, dtype=torch.long)
    new, new_scores, _ = best_of_classes(found, torch.tensor([0.5]), Params(label_prior=0.0))
    # Of the overlapping ones the second is best. The first and third have tIoU .71 and .67 with it.
    assert_close(new, torch.tensor([[10.0, (0.6 * 20 + 0.9 * 24) / 1.5], [50.0, 55.0]]))
    assert_close(new_scores, torch.tensor([0.9, 0.8]))


def test_labels_do_not_grow_over_relabellings_of_the_teachers_own_candidates():
    """Each teacher finds candidates around the labels of the one before."""
    random = torch.Generator().manual_seed(0)
    labels = torch.tensor([[100.0, 120.0], [200.0, 205.0], [206.0, 220.0]])
    before = labels.diff(dim=1)
    for _ in range(20):
        length = labels.diff(dim=1)[:, :, None].expand(-1, 40, 2)
        around = labels[:, None] + 0.05 * length * torch.randn(3, 40, 2, generator=random)
        segments = around.flatten(0, 1)
        scores = 0.6 + 0.4 * torch.rand(120, generator=random)
        found = segments, scores, torch.zeros(120, dtype=torch.long)
        labels, _, _ = best_of_classes(found, 0.6 * scores.amax()[None], Params())
        labels = labels[labels[:, 0].argsort()]
        assert len(labels) == 3
    assert_close(labels.diff(dim=1), before, rtol=0.15, atol=0)


@pytest.fixture
def two_actions():
    """A teacher that finds class 0 with .95 and .05 in one sequence, and with .05 in another, and class 1 in both."""
    teacher = FixedStudent([64], bins=4)
    logits = teacher.output.class_logits
    logits[:] = -20
    logits[0, 20, 0] = 3
    logits[:, 40, 0] = -3
    logits[:, 60, 1] = -5
    return teacher


def test_a_crop_without_an_action_of_a_class_has_no_label_of_it(two_actions):
    _, x, mask, _ = batch_of_two()
    known = torch.ones(2, 2)
    params = Params(**BEST)
    whole = predict(two_actions, x, mask, known, params)
    assert [labels.tolist() for _, _, labels in whole] == [[0, 1], [0, 1]], "low scores are enough in a whole video"
    highest = torch.tensor([[3.0, -5.0]]).sigmoid().expand(2, 2)
    crops = predict(two_actions, x, mask, known, params, highest)
    assert [labels.tolist() for _, _, labels in crops] == [[0, 1], [1]]
    lower = params.model_copy(update={"label_share": 0.04})
    crops = predict(two_actions, x, mask, known, lower, highest)
    assert [labels.tolist() for _, _, labels in crops] == [[0, 0, 1], [0, 1]], "a share below all of SHARES counts"


@pytest.mark.parametrize("recipe", ["corrected", "published"])
def test_only_known_classes_get_labels(two_actions, recipe):
    _, x, mask, _ = batch_of_two()
    known = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    found = predict(two_actions, x, mask, known, Params(**BEST, recipe=recipe))
    assert [labels.tolist() for _, _, labels in found] == [[0], []]


def test_a_crop_without_any_label_keeps_its_pseudo_labels(two_actions):
    batch = batch_of_two()
    highest = torch.tensor([3.0, 3.0]).sigmoid()
    new = Relabel(Params(**BEST), {"v": highest, "w": highest})(two_actions, batch, 0)
    assert [labels.tolist() for labels in new.labels] == [[0], [1]]
    assert new.segments[0][0, 0] < 20 < new.segments[0][0, 1]
    assert new.segments[1].tolist() == [[3, 4]]


@pytest.fixture
def trained(planted, tmp_path):
    """Parameters, store, pseudo labels and state of a student that has learned the planted actions."""
    dataset, store = planted
    params = Params(**BEST | {"label_share": 0.0, "student_epochs": 15, "student_lr": 5e-3, "distill_epochs": 1})
    labels = as_labels(dataset.segments_of("train"))
    return params, store, labels, train_student(params, store, labels, tmp_path / "student")


def test_the_teachers_share_is_where_its_labels_agree_with_what_it_learned(trained, tmp_path, monkeypatch):
    params, store, labels, state = trained
    videos = store.dataset.split("train")
    agreed = teacher_agreement(state.ema, store, labels, params)
    assert list(agreed) == list(SHARES)
    assert max(agreed.values()) > 0.7, "it has learned them"
    other = labels.assign(start=0.0, end=1.0)
    assert max(teacher_agreement(state.ema, store, other, params).values()) == 0
    chosen = choose_share(agreed, params)
    found = teacher_labels(state.ema, store, videos, chosen)
    pairs = set(zip(labels.video, labels.label, strict=True))
    assert set(zip(found.video, found.label, strict=True)) == pairs, "every class of every video, and no other"
    highest = highest_scores(state.ema, store, videos, params)
    best = found.groupby("video").score.max()
    for video, label in pairs:
        assert best[video] <= highest[video]["ab".index(label)].item() + 1e-6
    seen = []

    class Spy(Relabel):
        def __init__(self, params, reference):
            super().__init__(params, reference)
            seen.append((params.label_share, reference))

    monkeypatch.setattr(distillation, "Relabel", Spy)
    distill(params, store, labels, state, tmp_path / "distilled")
    ((share, reference),) = seen
    assert share == chosen.label_share
    assert_close(reference, highest, rtol=0, atol=0)
