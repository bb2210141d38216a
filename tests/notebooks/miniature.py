"""The demo in miniature, for the tests that run chains of notebooks."""

import os

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
