"""The copies of the notebooks that GitHub shows have the same cells, and figures."""

import nbformat
import pytest

from docs.show import moved
from fustal import ROOT

NAMES = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("name", NAMES)
def test_the_shown_copy_has_the_same_cells(name):
    source = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    shown = nbformat.read(ROOT / "docs" / "notebooks" / name, as_version=4)
    expected = []
    for cell in source.cells:
        text = moved(cell.source) if cell.cell_type == "markdown" else cell.source
        expected.append((cell.cell_type, text))
    assert [(cell.cell_type, cell.source) for cell in shown.cells] == expected, "make show"


@pytest.mark.parametrize("name", NAMES)
def test_the_shown_copy_has_figures_with_alt_text(name):
    shown = nbformat.read(ROOT / "docs" / "notebooks" / name, as_version=4)
    outputs = []
    for cell in shown.cells:
        outputs += cell.get("outputs", [])
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) >= 3
    widgets = [output for output in outputs if "widget" in str(output.get("data", {}).keys())]
    assert not widgets, "they do not work without a kernel"
    assert all(len(figure.metadata["image/png"]["alt"]) > 20 for figure in figures)


def test_nothing_else_is_shown():
    assert sorted(path.name for path in (ROOT / "docs" / "notebooks").iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_shown_solutions_are_right(name):
    shown = nbformat.read(ROOT / "docs" / "notebooks" / name, as_version=4)
    solutions = [cell for cell in shown.cells if "solution" in cell.metadata.get("tags", [])]
    assert solutions
    for cell in solutions:
        assert "Right." in "".join(output.get("text", "") for output in cell.outputs), cell.source
