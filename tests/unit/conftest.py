"""A data set small enough to train on in seconds; no deadline for hypothesis, as the machine may be busy."""

import pytest
import torch
from hypothesis import settings

from fustal.student.network import Borders, StudentOutput
from tests.datasets import planted_in

settings.register_profile("fustal", deadline=None)
settings.load_profile("fustal")


@pytest.fixture
def planted(tmp_path):
    """Data set and features, see `planted_in`."""
    return planted_in(tmp_path)


class Answers(torch.nn.Module):
    """A student whose heads say random numbers: `output` and `said`."""

    def __init__(self, lengths, bins=3, batch=2, classes=2):
        super().__init__()
        torch.manual_seed(2)
        rows = [torch.randn(batch, sum(lengths), size) for size in (classes, classes, classes, 2 * bins + 2)]
        mask = torch.ones(batch, sum(lengths), 1, dtype=torch.bool)
        self.output, self.said = StudentOutput(rows[0], mask, lengths, None), Borders(*rows[1:])

    def forward(self, x, mask):
        return self.output

    def borders(self, output, video, point):
        return self.said


@pytest.fixture
def answers():
    return Answers
