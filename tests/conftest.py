"""Fixtures: the golden vectors and the real data, where they are at hand."""

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
    """Says how many kinds of rubbish were refused and how many properties held."""
    passed = terminalreporter.stats.get("passed", [])
    rubbish = sum("test_rubbish.py" in report.nodeid for report in passed)
    properties = sum("hypothesis" in report.keywords for report in passed)
    if rubbish or properties:
        terminalreporter.write_line(f"{rubbish} kinds of rubbish tried, {properties} properties checked")


@pytest.fixture(scope="session")
def golden():
    """Reads one file of golden vectors by name."""

    def read(name):
        path = GOLDEN / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"golden vectors are not here: {path} (set FUSTAL_GOLDEN)")
        with np.load(path, allow_pickle=False) as file:
            return dict(file)

    return read


@pytest.fixture(scope="session")
def shared():
    """The folder of real data."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real data is not here: {SHARED / 'data'} (set FUSTAL_SHARED)")
    return SHARED / "data"
