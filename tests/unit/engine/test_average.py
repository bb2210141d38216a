"""The moving average of the weights of a network."""

from fustal.engine.average import update_average
from tests.networks import small_student


def test_average_copies_buffers():
    model = small_student()
    ema = small_student()
    model.positives.fill_(7)
    update_average(ema, model, 0.9)
    assert ema.positives == 7
