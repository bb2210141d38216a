"""The training loop: log, checkpoints, resumption with equal bits, and errors."""

import contextlib
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fustal.data.files import digest
from fustal.engine import loop
from fustal.engine.checkpoint import fingerprint, load_module, read_state, save_module, save_state
from fustal.engine.device import random_generator
from fustal.engine.loop import Loop, load_ahead
from fustal.exceptions import InputError
from fustal.params import Params

SEED = 5


def fit(
    load,
    step,
    modules,
    optimizer,
    *,
    last_step,
    seed,
    folder,
    first_step=0,
    about="",
    description="training",
    videos_of=lambda i: (),
    after_step=lambda i: None,
):
    """A training with the loop of the generator and the student."""
    trained = next(iter(modules.values()))
    steps = range(first_step, last_step)
    options = {"seed": seed, "folder": folder, "modules": modules, "optimizer": optimizer, "about": about}
    training = Loop(description, steps, **options)
    with contextlib.closing(training.batches(load)) as batches:
        for i, batch in batches:
            trained.train()
            losses = step(batch, i)
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            training.record(i, losses, videos_of(i))
            optimizer.step()
            after_step(i)
            training.save(i)
    return training.log()


class Toy:
    """A regression with dropout and a moving average; its batches come from the loading thread."""

    def __init__(self, fail_at=None, bad_at=None, fused=False):
        torch.manual_seed(3)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.average = nn.Linear(3, 8)
        self.average.load_state_dict(self.model[0].state_dict())
        self.optimizer = torch.optim.Adam(self.model.parameters(), 0.02, fused=fused)
        self.fail_at, self.bad_at, self.seen, self.rates = fail_at, bad_at, [], []
        self.seed = SEED

    def load(self, i):
        return torch.randn(16, 3, generator=random_generator(self.seed, i))

    def step(self, features, i):
        if i == self.fail_at:
            raise RuntimeError("power cut")
        self.seen.append(i)
        error = (self.model(features)[:, 0] - features.sum(1)).square().mean()
        return {"loss": error * (float("nan") if i == self.bad_at else 1.0), "error": error}

    def after_step(self, i):
        with torch.no_grad():
            self.average.weight.lerp_(self.model[0].weight, 0.1)
        self.rates.append(self.optimizer.param_groups[0]["lr"])

    def fit(self, folder, **changes):
        options = {"last_step": 23, "seed": SEED, "folder": folder, "after_step": self.after_step} | changes
        self.seed = options["seed"]
        return fit(self.load, self.step, {"model": self.model, "average": self.average}, self.optimizer, **options)

    def weights(self):
        return {**self.model.state_dict(prefix="model."), **self.average.state_dict(prefix="average.")}


def assert_same_weights(one, other):
    for name, value in one.weights().items():
        assert value.equal(other.weights()[name]), name


@pytest.fixture
def every_five(monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 5)


def test_the_log_has_a_row_for_each_step(tmp_path):
    toy = Toy()
    log = toy.fit(tmp_path / "new", last_step=120)
    assert list(log.columns) == ["step", "loss", "error"]
    assert log.step.tolist() == toy.seen == list(range(120))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "log.csv"), log)
    assert 0 <= log.attrs["waiting"] <= 1
    assert log.loss.tail(20).mean() < 0.5 * log.loss.head(20).mean(), "it learns"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["checkpoint.safetensors", "log.csv"]


def test_a_later_training_continues_the_numbers_of_steps(tmp_path):
    log = Toy().fit(tmp_path, first_step=10, last_step=12)
    assert log.step.tolist() == [10, 11]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path):
    one, two, other = Toy(), Toy(), Toy()
    log = one.fit(tmp_path / "1")
    torch.rand(7)  # a different past
    pd.testing.assert_frame_equal(log, two.fit(tmp_path / "2"), check_exact=True)
    assert_same_weights(one, two)
    assert (other.fit(tmp_path / "3", seed=6).loss != log.loss).all()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("fail_at", [3, 12, 21])
def test_an_interrupted_training_continues_with_equal_bits(tmp_path, every_five, fail_at, fused):
    whole = Toy(fused=fused)
    log = whole.fit(tmp_path / "whole")
    broken = Toy(fail_at=fail_at, fused=fused)
    with pytest.raises(RuntimeError, match="power cut"):
        broken.fit(tmp_path / "broken")
    kept = fail_at // 5 * 5
    assert (tmp_path / "broken" / "checkpoint.safetensors").exists() == (kept > 0)
    resumed = Toy(fused=fused)
    torch.manual_seed(99)
    if kept:
        for weights in resumed.model.parameters():
            nn.init.normal_(weights)  # all weights must come from the checkpoint
    again = resumed.fit(tmp_path / "broken")
    assert resumed.seen == list(range(kept, 23))
    pd.testing.assert_frame_equal(again, log, check_exact=True)
    assert (tmp_path / "broken" / "log.csv").read_bytes() == (tmp_path / "whole" / "log.csv").read_bytes()
    assert_same_weights(whole, resumed)
    once_more = Toy(fused=fused)
    pd.testing.assert_frame_equal(once_more.fit(tmp_path / "broken"), log, check_exact=True)
    assert once_more.seen == [], "a finished training is not repeated"
    assert_same_weights(whole, once_more)


def test_a_checkpoint_of_another_training_is_ignored(tmp_path):
    Toy().fit(tmp_path, about="one")
    other, plain = Toy(), Toy()
    other.fit(tmp_path, about="another")
    assert other.seen == list(range(23))
    plain.fit(tmp_path / "plain", about="another")
    assert_same_weights(other, plain)


def test_the_fingerprint_is_of_parameters_and_labels():
    labels = pd.DataFrame({"video": ["a"], "start": [0.5]})
    prints = [
        fingerprint(Params()),
        fingerprint(Params(seed=1)),
        fingerprint(Params(), labels),
        fingerprint(Params(), labels.assign(start=0.25)),
    ]
    assert len(set(prints)) == 4
    assert fingerprint(Params(), labels.copy()) == prints[2]


def test_the_error_of_a_loss_names_the_videos_of_its_batch(tmp_path):
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 3, in a batch of video3, video4$"):
        Toy(bad_at=3).fit(tmp_path, videos_of=lambda i: [f"video{i}", f"video{i + 1}"])


def test_rows_after_the_checkpoint_are_not_kept_twice(tmp_path, every_five):
    with pytest.raises(RuntimeError):
        Toy(fail_at=12).fit(tmp_path)
    log = pd.read_csv(tmp_path / "log.csv")
    pd.concat([log, log.tail(1).assign(step=10)]).to_csv(tmp_path / "log.csv", index=False)
    assert Toy().fit(tmp_path).step.tolist() == list(range(23))


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(tmp_path, every_five):
    toy = Toy(bad_at=12)
    with pytest.raises(FloatingPointError, match=r"^a toy: the loss is nan at step 12$"):
        toy.fit(tmp_path, description="a toy")
    assert all(value.isfinite().all() for value in toy.weights().values())
    assert (tmp_path / "checkpoint.safetensors").exists()


# --- loading ahead ----------------------------------------------------------------------------------------------------


def test_each_batch_is_loaded_once_in_order_and_goes_to_its_step(tmp_path):
    toy, loaded, used = Toy(), [], []

    def load(i):
        loaded.append((i, threading.current_thread() is threading.main_thread()))
        return i

    def step(batch, i):
        used.append((batch, i))
        return {"loss": toy.model(torch.ones(1, 3)).sum()}

    fit(load, step, {"model": toy.model}, toy.optimizer, first_step=4, last_step=9, seed=0, folder=tmp_path)
    assert loaded == [(i, False) for i in range(4, 9)], "in a thread, and no batch after the last"
    assert used == [(i, i) for i in range(4, 9)]


def test_the_next_batch_is_loaded_while_a_step_computes():
    started = [threading.Event() for _ in range(4)]

    def load(i):
        started[i].set()
        return i

    with contextlib.closing(load_ahead(load, range(3))) as batches:
        for i, (batch, seconds) in enumerate(batches):
            assert batch == i
            assert seconds >= 0
            if i < 2:
                assert started[i + 1].wait(timeout=10), "before the next batch is requested"
    assert not started[3].is_set()


def test_nothing_is_loaded_for_no_steps(tmp_path):
    toy = Toy()
    log = fit(pytest.fail, toy.step, {"model": toy.model}, toy.optimizer, last_step=0, seed=0, folder=tmp_path)
    assert log.empty
    assert np.isnan(log.attrs["waiting"])


def test_waiting_is_the_share_of_the_time_without_a_batch(tmp_path, monkeypatch):
    clock = iter([100.0, 120.0])
    monkeypatch.setattr(loop, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(loop, "load_ahead", lambda load, steps: ((load(i), 0.5) for i in steps))
    log = Toy().fit(tmp_path, last_step=12)
    assert log.attrs["waiting"] == 12 * 0.5 / 20
    assert "waiting" not in (tmp_path / "log.csv").read_text(), "the file is the same in each run"


def test_seconds_of_waiting_are_those_between_request_and_batch(monkeypatch):
    clock = iter([1.0, 1.5, 7.0, 7.25])
    monkeypatch.setattr(loop, "perf_counter", lambda: next(clock))
    assert list(load_ahead(lambda i: i, range(2))) == [(0, 0.5), (1, 0.25)]


def test_an_error_while_loading_is_raised_unchanged(tmp_path, every_five):
    toy = Toy()

    def load(i):
        if i == 8:
            raise InputError("v.npy: NaN or infinity in snippet 3")
        return toy.load(i)

    with pytest.raises(InputError, match=r"^v\.npy: NaN or infinity in snippet 3$"):
        fit(load, toy.step, {"model": toy.model}, toy.optimizer, last_step=20, seed=0, folder=tmp_path)
    assert toy.seen == list(range(8))
    assert (tmp_path / "checkpoint.safetensors").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loading")]


def test_no_thread_stays_when_a_step_fails(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        Toy(fail_at=2).fit(tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loading")]


def test_loading_does_not_change_the_random_numbers_of_a_step(tmp_path):
    """The thread has its own generator, so dropout has the same random numbers for any loading time."""

    def losses(folder, delay):
        toy = Toy()
        load = toy.load

        def load_late(i):
            time.sleep(delay * (i % 3))
            return load(i)

        toy.load = load_late
        return toy.fit(folder)

    pd.testing.assert_frame_equal(losses(tmp_path / "a", 0.0), losses(tmp_path / "b", 0.003), check_exact=True)


# --- state on disk ----------------------------------------------------------------------------------------------------


def test_state_survives_a_round_trip(tmp_path):
    toy, other = Toy(), Toy()
    toy.fit(tmp_path, last_step=6)
    modules = {"model": toy.model, "average": toy.average}
    save_state(tmp_path / "s.safetensors", modules, toy.optimizer, step=6)
    state = read_state(tmp_path / "s.safetensors")
    state.restore({"model": other.model, "average": other.average}, other.optimizer)
    assert state.step == 6
    assert_same_weights(toy, other)
    for index, state in toy.optimizer.state_dict()["state"].items():
        for key, value in state.items():
            assert value.equal(other.optimizer.state_dict()["state"][index][key]), (index, key)


def test_the_same_state_is_the_same_file(tmp_path):
    toy = Toy()
    toy.fit(tmp_path, last_step=6)
    for i in range(8):
        save_state(tmp_path / str(i), {"model": toy.model}, toy.optimizer, step=6, about="a toy")
    assert len({digest(tmp_path / str(i)) for i in range(8)}) == 1


def test_state_before_the_first_step_has_no_moments(tmp_path):
    toy = Toy()
    save_state(tmp_path / "s.safetensors", {"model": toy.model}, toy.optimizer, step=0)
    state = read_state(tmp_path / "s.safetensors")
    state.restore({"model": toy.model}, toy.optimizer)
    assert state.step == 0
    assert toy.optimizer.state_dict()["state"] == {}


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "log.csv"])
@pytest.mark.parametrize("damage", ["cut off", "empty", "zeros", "rubbish", "a folder", "gone"])
def test_after_a_broken_checkpoint_or_log_the_training_starts_again(tmp_path, every_five, capsys, name, damage):
    whole = Toy()
    log = whole.fit(tmp_path / "whole")
    with pytest.raises(RuntimeError):
        Toy(fail_at=12).fit(tmp_path / "broken")
    file = tmp_path / "broken" / name
    content = file.read_bytes()
    file.unlink()
    if damage == "a folder":
        file.mkdir()
    elif damage != "gone":
        contents = {
            "cut off": content[: len(content) // 2],
            "empty": b"",
            "zeros": bytes(len(content)),
            "rubbish": b"not a checkpoint",
        }
        file.write_bytes(contents[damage])
    again = Toy()
    if damage == "a folder":
        with pytest.raises(InputError, match="is a folder, and a file never replaces one"):
            again.fit(tmp_path / "broken")
        return
    pd.testing.assert_frame_equal(again.fit(tmp_path / "broken"), log, check_exact=True)
    assert again.seen == list(range(23))
    assert_same_weights(whole, again)
    message = capsys.readouterr().err
    expected = 0 if name == "checkpoint.safetensors" and damage == "gone" else 1
    assert message.count("the training starts again") == expected
    assert message.count("\n") == expected


def test_a_checkpoint_of_other_modules_is_refused(tmp_path):
    toy = Toy()
    save_state(tmp_path / "s.safetensors", {"other": toy.model}, toy.optimizer, step=1)
    with pytest.raises(InputError, match="cannot be restored"):
        read_state(tmp_path / "s.safetensors").restore({"model": toy.model}, toy.optimizer)
    save_file({"a": torch.ones(1)}, tmp_path / "no_step.safetensors")
    for name in ("no_step", "absent"):
        with pytest.raises(InputError, match=f"{name}\\.safetensors: cannot be read as a checkpoint"):
            read_state(tmp_path / f"{name}.safetensors")


def test_weights_survive_a_round_trip(tmp_path):
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    one.weight.data = one.weight.data.T.contiguous().T  # not contiguous, like the weights of some layers
    save_module(one, tmp_path / "m.safetensors")
    load_module(other, tmp_path / "m.safetensors")
    assert one.weight.equal(other.weight)
    assert one.bias.equal(other.bias)


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(InputError, match=r"m\.safetensors: no such file of weights"):
        load_module(nn.Linear(3, 2), path)
    save_module(nn.Linear(3, 2), path)
    for other in (nn.Linear(3, 4), nn.Linear(3, 2, bias=False), nn.BatchNorm1d(3)):
        with pytest.raises(InputError, match=r"m\.safetensors: does not fit the model: ") as error:
            load_module(other, path)
        assert "\n" not in str(error.value)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match="does not fit the model"):
        load_module(nn.Linear(3, 2), path)
