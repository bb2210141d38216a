"""Training of the student and of the average of its weights."""

import pytest
import torch
from torch.testing import assert_close

from fustal.exceptions import InputError
from fustal.params import Params
from fustal.student import StudentState, TrainingVideos, detect_videos, train_student
from fustal.student.training import make_optimizer, train_epochs
from tests.networks import SMALL, small_student


def test_weight_decay_spares_biases_norms_and_scales():
    model = small_student()
    names = {id(p): name for name, p in model.named_parameters()}
    with_decay, without = make_optimizer(model, Params()).param_groups
    assert with_decay["weight_decay"] == Params().student_weight_decay
    assert without["weight_decay"] == 0
    decayed = {names[id(p)] for p in with_decay["params"]}
    spared = {names[id(p)] for p in without["params"]}
    assert decayed | spared == set(names.values())
    assert all(name.endswith(".weight") and "norm" not in name for name in decayed)
    assert all(name.endswith(("bias", "scale", "scales")) or "norm" in name for name in spared)


@pytest.fixture
def train(planted, tmp_path):
    """Trains a student for some epochs of four steps; returns its parameters.

    `watch` is called with the state before the training, to register hooks.
    """
    dataset, store = planted

    def run(watch, each_epoch=None, **changes):
        params = Params(**(SMALL | {"student_batch": 2, "device": "cpu"} | changes))
        data = TrainingVideos(params, store, dataset.segments, torch.device("cpu"))
        assert data.steps_per_epoch == 4
        state = StudentState.new(params, store)
        watch(state)
        train_epochs(params, data, state, tmp_path, range(params.student_epochs), each_epoch=each_epoch)
        return params

    return run


def test_the_learning_rate_rises_through_the_first_epoch_and_then_stays(train):
    rates = []

    def note_rates(optimizer, args, kwargs):
        rates.append([group["lr"] for group in optimizer.param_groups])

    params = train(lambda state: state.optimizer.register_step_pre_hook(note_rates), student_epochs=2)
    factors = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert rates == [[factor * params.student_lr] * 2 for factor in factors]


def test_gradients_are_clipped_to_a_norm_of_1(train):
    norms = []

    def note_norm(optimizer, args, kwargs):
        gradients = []
        for group in optimizer.param_groups:
            gradients += [p.grad for p in group["params"]]
        norms.append(torch.nn.utils.get_total_norm(gradients))

    # A large loss weight: without clipping every gradient has a norm above 1.
    train(lambda state: state.optimizer.register_step_pre_hook(note_norm), student_epochs=1, mil_weight=100.0)
    assert_close(torch.stack(norms), torch.ones(4), rtol=1e-4, atol=0)


def test_every_step_is_in_training_mode_though_each_epoch_ends_in_evaluation_mode(train):
    modes = []
    epochs = []

    def note_mode(student, args):
        modes.append(student.training)

    def evaluate(epoch, state):
        epochs.append(epoch)
        state.student.eval()

    train(lambda state: state.student.register_forward_pre_hook(note_mode), evaluate, student_epochs=3)
    assert epochs == [1, 2, 3]
    assert modes == [True] * 12


def test_the_trained_student_detects_the_planted_actions(planted, tmp_path):
    dataset, store = planted
    params = Params(**SMALL, student_epochs=40, student_lr=5e-3, ema_memory=0.125, device="cpu")
    state = train_student(params, store, dataset.segments, tmp_path / "run")
    found = detect_videos(state.ema, store, dataset.split("test"), params)
    assert list(found.columns) == ["video", "label", "score", "start", "end"]
    assert (found.start >= 0).all()
    assert (found.end <= found.video.map(store.duration)).all()
    best = found.groupby("video").first()
    truth = dataset.segments.set_index("video").loc[best.index]
    assert (best.label == truth.label).all()
    assert (best[["start", "end"]] - truth[["start", "end"]]).abs().to_numpy().max() < 1.0
    restored = StudentState.load(tmp_path / "run", params, store)
    assert_close(restored.student.state_dict(), state.student.state_dict())
    assert_close(restored.ema.state_dict(), state.ema.state_dict())
    assert len(restored.optimizer.state) == len(list(state.student.parameters()))


def test_training_is_deterministic_and_needs_no_labels(planted, tmp_path):
    dataset, store = planted
    params = Params(**SMALL, student_epochs=1, device="cpu")
    runs = [train_student(params, store, dataset.segments[:3], tmp_path / name).student for name in "ab"]
    assert_close(runs[0].state_dict(), runs[1].state_dict(), rtol=0, atol=0)
    train_student(params, store, dataset.segments[:0], tmp_path / "c")


def test_missing_weights_are_an_error(planted, tmp_path):
    with pytest.raises(InputError, match="no such file of weights"):
        StudentState.load(tmp_path, Params(**SMALL), planted[1])
