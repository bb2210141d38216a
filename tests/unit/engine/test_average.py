"""The moving average of the weights of a network."""

import pytest

from fustal import ROOT
from fustal.engine.average import decay_of, update_average
from fustal.params import Params
from tests.networks import small_student


def test_average_copies_buffers():
    model = small_student()
    ema = small_student()
    model.positives.fill_(7)
    update_average(ema, model, 0.9)
    assert ema.positives == 7


def test_the_decay_forgets_over_a_share_of_the_steps():
    assert decay_of(10_000, 1000, 0.1) == pytest.approx(1 - 1 / 100)
    assert decay_of(10_000, 2000, 0.1) == pytest.approx(1 - 1 / 200)
    assert decay_of(10_000, 1000, 0.2) == pytest.approx(1 - 1 / 200)


def test_the_decay_rises_from_the_first_step_on_to_its_limit():
    decays = [decay_of(step, 1000, 0.1) for step in range(2000)]
    assert decays[0] == pytest.approx(2 / 11)
    assert decays[8] == pytest.approx(10 / 19)
    assert decays == sorted(decays)
    assert decays[889] == decays[-1] == pytest.approx(0.99), "(2 + 889) / (11 + 889)"
    assert decays[889] > decays[888]


@pytest.mark.parametrize("steps", [1, 9, 10])
def test_a_very_short_training_has_no_average(steps):
    assert [decay_of(step, steps, 0.1) for step in range(3)] == [0, 0, 0]


def test_the_papers_decay():
    params = Params.read(ROOT / "params" / "thumos14.yaml")
    steps = params.student_epochs * -(-200 // params.student_batch)
    assert decay_of(10**6, steps, params.ema_memory) == pytest.approx(0.999, abs=1e-6)
