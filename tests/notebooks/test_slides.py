"""Slides of the notebooks, and the buttons that open them elsewhere."""

import re

import nbformat
import pytest

from docs.launch import PAGES, badges, colab_cell, theme_options
from docs.slides import SHOWN, exporter, shown_of, slides_of

NAMES = sorted(path.name for path in SHOWN.glob("*.ipynb"))


@pytest.mark.parametrize("name", NAMES)
def test_slides_have_sections_and_figures_and_no_exercises(name):
    shown = nbformat.read(SHOWN / name, as_version=4)
    slides = slides_of(shown)
    kinds = [cell.metadata.slideshow.slide_type for cell in slides.cells]
    texts = [cell.source for cell, kind in zip(slides.cells, kinds, strict=True) if kind == "slide"]
    titles = re.findall(r"^## (?:\d+\.)?\d+ .*", "\n".join(cell.source for cell in shown.cells), re.M)
    assert [title for title in titles if not any(title in text for text in texts)] == []
    assert kinds[0] == "slide"
    assert not any("your turn" in cell.source or "# Solution" in cell.source for cell in slides.cells)
    figures = [
        cell for cell in shown.cells if any("image/png" in part.get("data", {}) for part in cell.get("outputs", []))
    ]
    kept = [
        cell for cell in slides.cells if any("image/png" in part.get("data", {}) for part in cell.get("outputs", []))
    ]
    assert 3 <= len(kept) <= len(figures)


def test_a_page_of_slides():
    slides = slides_of(nbformat.read(SHOWN / NAMES[0], as_version=4))
    resources = {"metadata": {"name": "slides", "path": str(SHOWN)}}
    page, _ = exporter("node_modules").from_notebook_node(slides, resources)
    assert page.count("<section") > 10
    assert "node_modules/reveal.js/dist/reveal.js" in page
    assert 'src="node_modules/mathjax' in page or "node_modules/mathjax" in page
    assert 'class="notes"' in page


def test_a_long_text_is_for_the_speaker():
    assert shown_of("Long text without a term. " * 20) == ""
    assert shown_of("- one\n- two") == "- one\n- two"


def between(page, name):
    return page.read_text(encoding="utf-8").split(f"<!-- {name}: begin -->\n")[1].split(f"\n<!-- {name}: end -->")[0]


def test_buttons_are_those_of_the_one_address():
    for page in PAGES:
        assert between(page, "launch") == badges(), "make launch"
    assert between(PAGES[1], "colab") == colab_cell(), "make launch"


def test_an_address_becomes_buttons():
    text = badges("https://github.com/a/b")
    assert "https://mybinder.org/v2/gh/a/b/main?urlpath=lab/tree/notebooks/00_the_task.ipynb" in text
    assert "https://colab.research.google.com/github/a/b/blob/main/notebooks/00_the_task.ipynb" in text
    assert theme_options("https://github.com/a/b")["repository_url"] == "https://github.com/a/b"
    assert theme_options("") == {}
