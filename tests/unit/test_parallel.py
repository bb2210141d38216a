"""Several processes give what one gives: gradients, trainings, errors. Two processes on CPUs, by gloo."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.testing import assert_close

from fustal import ROOT, InputError, distillation, generator
from fustal.contrastive import equal_label_pairs
from fustal.distillation import distill
from fustal.generator import batch_of_step, train_generator
from fustal.parallel import _first_error, backward, gather, launch, processes, rank, share, total
from fustal.params import Params
from fustal.student import learning, load_student, train_student
from fustal.student.learning import make_optimizer, make_student, start_average
from fustal.training import fit, seed_step
from fustal.writing import write_json

EXACT = {
    "device": "cpu",
    "generator_snippets": 40,
    "generator_dim": 16,
    "generator_dropout": 0.0,
    "mining_dropout": 0.0,
    "contrast_weight": 1.0,
    "cross_video_weight": 1.0,
    "student_dim": 16,
    "student_mlp": 16,
    "student_levels": 3,
    "student_stem": 1,
    "student_bins": 4,
    "student_drop_path": 0.0,
    "mil_dropout": 0.0,
    "input_noise": 0.0,
    "max_snippets": 64,
}
"""Small, and nothing random beyond the order of the videos, their samples and crops."""

STEP = EXACT | {"student_lr": 1e-9, "student_epochs": 1, "distill_epochs": 1, "student_batch": 7, "generator_steps": 1}
"""Two steps of the student, of 7 videos and of 1, which is less than there are processes."""


def _params(**changes):
    return Params(**(STEP | changes))


def _cases(seed):
    """By name: the training, and its parameters."""
    cases = {name: (_generator, _params(generator_contrast=name, seed=seed, generator_batch=3)) for name in CONTRASTS}
    for recipe in ("corrected", "published"):
        cases[f"student {recipe}"] = _student, _params(recipe=recipe)
        cases[f"distill {recipe}"] = _distill, _params(recipe=recipe)
    cases["distill back"] = _distill_back, _params(recipe="published")
    return cases


CONTRASTS = ("in-video", "cross-video")


def _generator(params, dataset, store, folder):
    train_generator(params, dataset, store, folder)


def _student(params, dataset, store, folder):
    train_student(params, dataset, store, dataset.segments, folder)


def _distill(params, dataset, store, folder):
    """With a teacher of its own: the student would have hit its own predictions, where the DIoU has no gradient."""
    torch.manual_seed(0)
    student, teacher = (make_student(params, store.dim, 2) for _ in range(2))
    given = student, start_average(teacher), make_optimizer(student, params)
    distill(params, dataset, store, dataset.segments, *given, folder)


def _distill_back(params, dataset, store, folder):
    """The teacher finds nothing in the last of the seven videos."""

    def predict(teacher, x, *rest):
        found = whole(teacher, x, *rest)
        mine = range(7)[share(7)]
        if len(found) == len(mine) and 6 in mine:
            found[-1] = tuple(part[:0] for part in found[-1])
        return found

    whole = distillation.predict
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "predict", predict)
        _distill(params, dataset, store, folder)


def _gradients(dataset, store, seed, folder):
    """Writes the gradients of every step of every case, whatever the number of processes, and what they logged."""
    for name, (train, params) in _cases(seed).items():
        here = folder / name

        def spy(load, step, modules, optimizer, here=here, **options):
            def keep(i):
                gradients = {key: weight.grad for key, weight in next(iter(modules.values())).named_parameters()}
                where = here.parent / f"{here.name} {i} {rank()}.safetensors"
                save_file({key: gradient.contiguous() for key, gradient in gradients.items()}, where)

            return fit(load, step, modules, optimizer, **options | {"clip": None, "after_step": keep})

        folder.mkdir(exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generator, "fit", spy)
            patch.setattr(learning, "fit", spy)
            train(params, dataset, store, here)


def test_two_processes_have_the_gradients_of_one(planted, tmp_path):
    dataset, store = planted
    labels = torch.from_numpy(dataset.labels(dataset.split("train")))
    pairs = {seed: equal_label_pairs(labels[batch_of_step(8, 3, 0, seed)]).tolist() for seed in range(20)}
    seed = next(seed for seed, found in pairs.items() if found == [[0, 2]])  # the first process has only video 0

    _gradients(dataset, store, seed, tmp_path / "one")
    two = Params(processes=2, device="cpu")
    launch(two, 7, _gradients, dataset, store, seed, tmp_path / "two")

    expected = {path.stem[:-2]: load_file(path) for path in (tmp_path / "one").glob("*.safetensors")}
    assert len(expected) == 2 + 5 * 2
    for name, gradients in expected.items():
        found = [load_file(tmp_path / "two" / f"{name} {rank}.safetensors") for rank in range(2)]
        assert_close(found[0], found[1], rtol=0, atol=0)
        for key, gradient in gradients.items():
            scale = gradient.abs().max().item()
            assert (found[0][key] - gradient).abs().max() <= 1e-5 * scale + 1e-8, (name, key)
    for name in _cases(seed):
        logs = [pd.read_csv(tmp_path / folder / name / "log.csv") for folder in ("one", "two")]
        np.testing.assert_allclose(logs[1], logs[0], rtol=1e-5)

    alone, together = (expected[f"{name} 0"]["embed.weight"] for name in CONTRASTS)
    assert (alone - together).abs().max() > 0.05 * together.abs().max(), "a pair in two processes matters"
    relabelled, back = (expected[f"distill {name} 2"]["class_head.out.bias"] for name in ("published", "back"))
    assert not torch.allclose(relabelled, back), "a video without prediction in one process matters to the other"


WHOLE = EXACT | {
    "generator_steps": 8,
    "generator_batch": 3,
    "generator_lr": 1e-3,
    "student_epochs": 1,
    "distill_epochs": 1,
    "student_batch": 3,
}


def test_a_generator_of_two_processes_is_that_of_one(planted, tmp_path):
    results = [train_generator(Params(**WHOLE, processes=n), *planted, tmp_path / str(n)) for n in (1, 2)]
    (model, log), (model_of_two, log_of_two) = results
    assert not model_of_two.training
    assert_close(model_of_two.state_dict(), model.state_dict(), rtol=1e-3, atol=1e-4)
    assert [list(log_of_two.columns), log_of_two.step.tolist()] == [list(log.columns), log.step.tolist()]
    np.testing.assert_allclose(log_of_two, log, rtol=1e-3)
    assert sorted(path.name for path in (tmp_path / "2").iterdir()) == ["checkpoint.safetensors", "log.csv"]


def test_distillation_of_two_processes_is_that_of_one(planted, tmp_path):
    dataset, store = planted
    train_student(Params(**WHOLE), dataset, store, dataset.segments, tmp_path / "student")
    results = []
    for count in (1, 2):
        params, here = Params(**WHOLE, processes=count), tmp_path / str(count)
        given = load_student(tmp_path / "student", params, store.dim, 2)
        trained = distill(params, dataset, store, dataset.segments, *given, here)
        assert trained == given[:2], "what was given was trained"
        assert {float(state["step"]) for state in given[2].state.values()} == {6}
        left = load_student(here, params, store.dim, 2)
        assert_close([part.state_dict() for part in trained], [part.state_dict() for part in left[:2]])
        results.append(([part.state_dict() for part in trained], sorted(path.name for path in here.iterdir())))
    (weights, files), (weights_of_two, files_of_two) = results
    assert files_of_two == files
    assert_close(weights_of_two, weights, rtol=1e-3, atol=1e-4)


def test_an_input_error_of_one_process_is_raised_as_it_is(planted, tmp_path, capfd):
    dataset, store = planted
    broken = np.load(tmp_path / "train5.npy")
    broken[3] = np.nan
    np.save(tmp_path / "train5.npy", broken)
    with pytest.raises(InputError, match=r"train5\.npy: video 'train5': NaN or infinity in snippet 3$"):
        train_student(Params(**WHOLE, processes=2), dataset, store, dataset.segments, tmp_path / "run")
    assert capfd.readouterr().err == ""


def test_the_first_error_is_raised(tmp_path):
    def error(code):
        failure = ProcessFailure(local_rank=1, pid=1, exitcode=code, error_file="")
        return _first_error(tmp_path, ChildFailedError("train", {1: failure}))

    write_json({"time": 2, "kind": "RuntimeError", "message": "peer is gone"}, tmp_path / "0.error.json")
    write_json({"time": 1, "kind": "FloatingPointError", "message": "the loss is nan"}, tmp_path / "1.error.json")
    assert repr(error(1)) == "FloatingPointError('the loss is nan')"
    assert repr(error(-9)) == "RuntimeError('process 1 of the training ended with exit code -9')"
    write_json({"time": 0, "kind": "KeyError", "message": "Traceback"}, tmp_path / "2.error.json")
    assert repr(error(1)) == "RuntimeError('Traceback')"


def test_too_many_processes(planted, tmp_path, monkeypatch):
    dataset, store = planted
    with pytest.raises(InputError, match=r"^processes: 4 were asked for, but a batch has 3 videos$"):
        train_generator(Params(**WHOLE, processes=4), dataset, store, tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=r"^processes: 2 were asked for, but PyTorch sees 1 GPU$"):
        launch(Params(processes=2), 2, pytest.fail)
    launch(Params(processes=1), 1, pytest.fail)


FOREVER = """
import os, signal, sys, time
from pathlib import Path
from fustal.parallel import launch, rank
from fustal.params import Params

def forever(folder):
    Path(folder, str(rank())).write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts behind itself ignores it
    launch(Params(processes=2, device="cpu"), 2, forever, sys.argv[1])
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_their_parent(tmp_path, how):
    (tmp_path / "forever.py").write_text(FOREVER)
    command = [sys.executable, str(tmp_path / "forever.py"), str(tmp_path)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE) as parent:
        files = [tmp_path / str(rank) for rank in range(2)]
        _until(lambda: all(file.exists() and file.read_text() for file in files))
        parent.send_signal(how)
        assert parent.wait(timeout=30) == -how
    _until(lambda: not any(_lives(int(file.read_text())) for file in files))


def _until(happens, seconds=60):
    last = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < last
        time.sleep(0.05)


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_process_changes_nothing():
    x = torch.ones(2, 1, requires_grad=True)
    assert total(x, 2) is gather(x, 2) is x
    assert (processes(), rank(), share(3)) == (1, 0, slice(0, 3))
    backward(x.sum(), [x])
    assert x.grad.tolist() == [[1], [1]]


@pytest.mark.parametrize(("count", "sizes"), [(8, [2, 3, 3]), (3, [1, 1, 1]), (2, [2, 2, 2])])
def test_shares_are_consecutive_and_never_empty(monkeypatch, count, sizes):
    monkeypatch.setattr("fustal.parallel.processes", lambda: 3)
    shares = []
    for i in range(3):
        monkeypatch.setattr("fustal.parallel.rank", lambda i=i: i)
        shares.append(list(range(count))[share(count)])
    assert [len(part) for part in shares] == sizes
    if count >= 3:
        assert np.concatenate(shares).tolist() == list(range(count))


def test_each_process_draws_its_own(monkeypatch):
    draws = []
    for count, i in [(1, 0), (2, 0), (2, 1)]:
        monkeypatch.setattr("fustal.training.processes", lambda count=count: count)
        monkeypatch.setattr("fustal.training.rank", lambda i=i: i)
        seed_step(0, 0)
        draws.append(torch.rand(()).item())
    assert len(set(draws)) == 3
