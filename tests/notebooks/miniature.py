"""The demo in miniature, for the tests that run chains of notebooks."""

import os
import re

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
"""Small, but enough for the student to learn its labels whatever the seed is: notebook 03 checks that."""


def environment(outputs):
    """Of a process whose runs go to a folder."""
    return os.environ | {"FUSTAL_OUTPUTS": str(outputs), "TQDM_DISABLE": "1", "NO_COLOR": "1"}


def said(errors):
    """What a command said on stderr, but for a line of libzmq when a notebook's process ends: a rare race within it, by
    which nothing is lost, as all has been written.

    >>> said("Bad file descriptor (src/signaler.cpp:318)\\nerror: no such file\\n")
    'error: no such file\\n'
    """
    return re.sub(r"^.* \(src/\w+\.cpp:\d+\)\n", "", errors, flags=re.MULTILINE)
