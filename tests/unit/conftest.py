"""A small data set, and the command. No deadline for hypothesis, as the machine may be busy."""

import sys

import pytest
from hypothesis import settings

from fustal.tools.cli import main
from tests.datasets import planted_in

settings.register_profile("fustal", deadline=None)
settings.load_profile("fustal")


@pytest.fixture
def planted(tmp_path):
    """Data set and features, see `planted_in`."""
    return planted_in(tmp_path)


@pytest.fixture
def fustal(monkeypatch, capsys):
    """Calls a command: exit status, standard output, standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fustal", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capsys.readouterr()

    return call
