"""Plain papermill with a preset of one's own: what the preset names is beside it, wherever papermill is called."""

import os
import subprocess
import sys

import nbformat
import pytest

from fustal import ROOT
from tests.notebooks.miniature import said

CELLS = (
    ('run: str = "demo"\ndataset: str = "demo"\nproposals_file: str = ""', ["parameters"]),
    (
        "from fustal.params import Params\n"
        "from fustal.data.names import find_card\n"
        "params = Params.from_notebook(globals())\n"
        "print(params.dataset, params.proposals_file, find_card(dataset), sep='|')",
        [],
    ),
)


@pytest.fixture
def mine(tmp_path):
    """A folder with a card, a preset and another method's proposals, and a notebook that says what it finds."""
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": tags}) for source, tags in CELLS]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "says.ipynb")
    folder = tmp_path / "my data"
    folder.mkdir()
    for name in ("card.yaml", "theirs.json"):
        (folder / name).write_text("")
    (folder / "params.yaml").write_text("run: mine\ndataset: card.yaml\nproposals_file: theirs.json\n")
    (tmp_path / "elsewhere").mkdir()
    return folder


def papermill(mine, folder, *options):
    """Calls papermill in a folder: exit status, what the notebook says, errors."""
    out = mine.parent / "out.ipynb"
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", mine.parent / "says.ipynb", out, *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder, env=environment)
    (output,) = nbformat.read(out, as_version=4).cells[-1].outputs
    return done.returncode, output.get("text", "").strip(), said(done.stderr)


@pytest.mark.parametrize("where", ["my data", "elsewhere", ROOT])
def test_a_preset_is_found_from_any_folder(mine, where):
    folder = mine.parent / where
    status, text, errors = papermill(mine, folder, "-f", os.path.relpath(mine / "params.yaml", folder))
    assert status == 0, errors
    card, theirs = (str((mine / name).resolve()) for name in ("card.yaml", "theirs.json"))
    assert text == f"{card}|{theirs}|{card}"


def test_a_card_that_is_not_there_is_refused_in_one_line(mine):
    status, _, errors = papermill(mine, mine.parent / "elsewhere", "-p", "dataset", "card.yaml")
    assert status != 0
    (line,) = [line for line in errors.splitlines() if line.startswith("InputError: ")]
    assert line.endswith("give a card's whole path, or the preset to papermill by -f")
