"""Fixtures: the golden vectors and the real data; tests that need them are skipped where they are missing."""

import os
from pathlib import Path

import matplotlib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("FUSTAL_SHARED", ROOT.parent / "shared"))
GOLDEN = Path(os.environ.get("FUSTAL_GOLDEN", SHARED / "golden"))

matplotlib.use("agg")
os.environ.setdefault("TQDM_DISABLE", "1")


def pytest_terminal_summary(terminalreporter):
    """Reports how many invalid inputs were refused and how many properties held."""
    passed = terminalreporter.stats.get("passed", [])
    invalid = sum("test_invalid_input.py" in report.nodeid for report in passed)
    properties = sum("hypothesis" in report.keywords for report in passed)
    if invalid or properties:
        terminalreporter.write_line(f"{invalid} invalid inputs refused, {properties} properties checked")


@pytest.fixture(scope="session")
def golden():
    """A function that reads a file of golden vectors by its name."""

    def read(name):
        path = GOLDEN / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"no golden vectors: {path} (set FUSTAL_GOLDEN)")
        with np.load(path, allow_pickle=False) as file:
            return dict(file)

    return read


@pytest.fixture(scope="session")
def shared():
    """The folder of real data."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data: {SHARED / 'data'} (set FUSTAL_SHARED)")
    return SHARED / "data"
