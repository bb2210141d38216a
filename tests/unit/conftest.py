"""A data set small enough to train on in seconds; no deadline for hypothesis, as the machine may be busy."""

import pytest
from hypothesis import settings

from tests.datasets import planted_in

settings.register_profile("fustal", deadline=None)
settings.load_profile("fustal")


@pytest.fixture
def planted(tmp_path):
    """Data set and features, see `planted_in`."""
    return planted_in(tmp_path)
