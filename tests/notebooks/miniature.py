"""The demo in miniature, and calls of commands, for the tests that run chains of notebooks."""

import os
import re
import subprocess
import sys

SMALL = {
    "generator_steps": 30,
    "student_dim": 32,
    "student_mlp": 32,
    "student_lr": 3e-3,
    "student_epochs": 2,
    "distill_epochs": 1,
    "upper_bound_epochs": 1,
    "device": "cpu",
}
"""Small, but enough for the student to learn its labels whatever the seed is: notebook 03 warns where it did not."""


def environment(outputs, **changes):
    """Of a process whose runs go to a folder."""
    return os.environ | {"FUSTAL_OUTPUTS": str(outputs), "TQDM_DISABLE": "1", "NO_COLOR": "1"} | changes


def call(*command, outputs, cwd, **changes):
    """Runs a module of Python, such as fustal, with other variables of the environment."""
    command = [sys.executable, "-m", *map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment(outputs, **changes))
    done.stderr = said(done.stderr)
    return done


def cells_without_exercises(notebook):
    """The code cells of an executed notebook; none of its exercises was executed."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    exercises = [cell for cell in cells if {"exercise", "solution"} & set(cell.metadata.get("tags", []))]
    assert len(exercises) == 6
    assert not [cell for cell in exercises if cell.execution_count or cell.outputs]
    others = [cell for cell in cells if cell not in exercises]
    assert all(cell.execution_count for cell in others)
    return others


def said(errors):
    """What a command said on stderr, but for a line of libzmq when a notebook's process ends: a rare race within it, by
    which nothing is lost, as all has been written.

    >>> said("Bad file descriptor (src/signaler.cpp:318)\\nerror: no such file\\n")
    'error: no such file\\n'
    """
    return re.sub(r"^.* \(src/\w+\.cpp:\d+\)\n", "", errors, flags=re.MULTILINE)
