"""Running notebooks without JupyterLab; whole chains are tested in tests/notebooks."""

import os
import tempfile
from pathlib import Path

import pytest

from fustal.runs import batch


@pytest.mark.parametrize("letters", [20, 60, 120])
def test_the_sockets_of_a_kernel_have_short_paths(tmp_path, monkeypatch, letters):
    """For any $TMPDIR: systems refuse longer paths."""
    usual = tmp_path / ("ä" * letters)
    usual.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(usual))
    with tempfile.TemporaryDirectory(prefix="fustal-", dir=batch._short_folder()) as folder:
        assert len(os.fsencode(Path(folder) / "kernel-5")) <= batch.LONGEST_SOCKET


def test_the_usual_folder_is_used_where_its_path_is_short(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert batch._short_folder() is None
