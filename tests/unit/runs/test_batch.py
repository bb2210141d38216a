"""Running notebooks headlessly; whole chains are in tests/notebooks."""

import os
import tempfile
from pathlib import Path

import pytest

from fustal.runs import batch


@pytest.mark.parametrize("letters", [20, 60, 120])
def test_the_sockets_of_a_kernel_have_short_paths(tmp_path, monkeypatch, letters):
    """Whatever $TMPDIR is: systems refuse longer ones."""
    usual = tmp_path / ("ä" * letters)
    usual.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(usual))
    with tempfile.TemporaryDirectory(prefix="fustal-", dir=batch._short_folder()) as folder:
        assert len(os.fsencode(Path(folder) / "kernel-5")) <= batch.LONGEST_SOCKET


def test_the_usual_place_is_taken_where_it_is_short(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert batch._short_folder() is None
