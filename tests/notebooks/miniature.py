"""Small sizes for the demo, and calls of commands, for the tests that run chains of notebooks."""

import os
import re
import subprocess
import sys

SMALL = {
    "generator_steps": 30,
    "student_dim": 32,
    "student_mlp": 32,
    "student_lr": 3e-3,
    "student_epochs": 10,
    "distill_epochs": 2,
    "upper_bound_epochs": 1,
    "device": "cpu",
}
"""Small, but large enough for the student to learn its labels with any seed: notebook 03 warns if it does not."""


def environment(outputs, **changes):
    """The environment of a process whose runs go to a folder."""
    return os.environ | {"FUSTAL_OUTPUTS": str(outputs), "TQDM_DISABLE": "1", "NO_COLOR": "1"} | changes


def call(*command, outputs, cwd, **changes):
    """Runs a Python module, such as fustal; `changes` are variables of its environment."""
    command = [sys.executable, "-m", *map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment(outputs, **changes))
    done.stderr = without_zmq(done.stderr)
    return done


def cells_without_exercises(notebook):
    """The code cells of an executed notebook without its exercises, none of which may have been executed."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    exercises = [cell for cell in cells if {"exercise", "solution"} & set(cell.metadata.get("tags", []))]
    assert len(exercises) >= 6
    assert not [cell for cell in exercises if cell.execution_count or cell.outputs]
    others = [cell for cell in cells if cell not in exercises]
    assert all(cell.execution_count for cell in others)
    return others


def without_zmq(errors):
    """The text on stderr without a line of libzmq.

    It comes from a rare race inside libzmq when the process of a notebook ends; all files have been written by then.

    >>> without_zmq("Bad file descriptor (src/signaler.cpp:318)\\nerror: no such file\\n")
    'error: no such file\\n'
    """
    return re.sub(r"^.* \(src/\w+\.cpp:\d+\)\n", "", errors, flags=re.MULTILINE)
