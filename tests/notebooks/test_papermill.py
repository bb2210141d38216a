"""Plain papermill with a preset in any folder: paths in the preset are relative to it."""

import os
import subprocess
import sys

import nbformat
import pytest

from fustal import ROOT
from tests.notebooks.miniature import without_zmq

PARAMETERS = """
run: str = "demo"
dataset: str = "demo"
proposals_file: str = ""
"""
CODE = """
from fustal.params import Params
from fustal.data.names import find_card
params = Params.from_notebook(globals())
print(params.dataset, params.proposals_file, find_card(dataset), sep='|')
"""


@pytest.fixture
def mine(tmp_path):
    """A folder with a card, a preset and proposals of another method, and a notebook that prints the paths it finds."""
    parameters = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    cells = [parameters, nbformat.v4.new_code_cell(CODE)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "prints.ipynb")
    folder = tmp_path / "my data"
    folder.mkdir()
    for name in ("card.yaml", "theirs.json"):
        (folder / name).write_text("")
    (folder / "params.yaml").write_text("run: mine\ndataset: card.yaml\nproposals_file: theirs.json\n")
    (tmp_path / "elsewhere").mkdir()
    return folder


def papermill(mine, folder, *options):
    """Calls papermill in a folder: exit status, output of the notebook, errors."""
    out = mine.parent / "out.ipynb"
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", mine.parent / "prints.ipynb", out, *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder, env=environment)
    (output,) = nbformat.read(out, as_version=4).cells[-1].outputs
    return done.returncode, output.get("text", "").strip(), without_zmq(done.stderr)


@pytest.mark.parametrize("where", ["my data", "elsewhere", ROOT])
def test_a_preset_is_found_from_any_folder(mine, where):
    folder = mine.parent / where
    status, text, errors = papermill(mine, folder, "-f", os.path.relpath(mine / "params.yaml", folder))
    assert status == 0, errors
    card = (mine / "card.yaml").resolve()
    proposals = (mine / "theirs.json").resolve()
    assert text == f"{card}|{proposals}|{card}"


def test_a_missing_card_is_an_error_of_one_line(mine):
    status, _, errors = papermill(mine, mine.parent / "elsewhere", "-p", "dataset", "card.yaml")
    assert status != 0
    (line,) = [line for line in errors.splitlines() if line.startswith("InputError: ")]
    assert line.endswith("give a card's whole path, or the preset to papermill by -f")
