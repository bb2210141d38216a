"""Progress of a training: the file that its process writes, and the lines of the process that waits."""

import os
import time
from pathlib import Path

import pytest

from fustal.engine import steps
from fustal.engine.steps import VARIABLE, Steps, reporting


def test_step_and_time_left(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "progress"))
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    training = Steps("student", 200, 1200)
    now[0] += 1
    training.done(201)
    assert not (tmp_path / "progress").exists(), "the file is not written at every step"
    now[0] += 99
    training.done(299)
    assert (tmp_path / "progress").read_text() == "student step 300 of 1200, about 15 min left"
    now[0] += 1
    training.done(1199)
    assert (tmp_path / "progress").read_text() == "", "the file is empty when the training is done"


@pytest.mark.parametrize("file", [None, "no/such/folder/progress"])
def test_nothing_depends_on_the_file(tmp_path, monkeypatch, file):
    monkeypatch.delenv(VARIABLE, raising=False)
    if file:
        monkeypatch.setenv(VARIABLE, str(tmp_path / file))
    Steps("student", 0, 1).done(0)
    assert list(tmp_path.iterdir()) == []


def test_lines_are_reported_now_and_then():
    lines = []
    with reporting(lines.append, "3/5 03", every=0.05):
        file = Path(os.environ[VARIABLE])
        time.sleep(0.2)
        file.write_text("student step 3 of 5, about 2 s left")
        time.sleep(0.2)
        file.write_bytes(b"\xff")
        time.sleep(0.1)
    assert lines[0] == "3/5 03: 0 s so far ..."
    assert "3/5 03: student step 3 of 5, about 2 s left ..." in lines
    assert VARIABLE not in os.environ
    assert not file.parent.exists()
    count = len(lines)
    time.sleep(0.1)
    assert len(lines) == count, "no line after the end"


def test_the_first_line_comes_after_a_while():
    lines = []
    with reporting(lines.append, "1/5 01"):
        pass
    assert lines == []
    assert steps.REPORTED_EVERY == 30
