"""References in code, notebooks and pages lead to pages, sections and files that exist."""

import json
import re

import pytest

from fustal import ROOT

METHOD = ROOT / "docs" / "method.md"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "outputs" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOURCES = [
    *sorted((ROOT / "fustal").rglob("*.py")),
    *sorted((ROOT / "tests").rglob("*.py")),
    *sorted((ROOT / "params").rglob("*.yaml")),
]
SECTIONS = r"docs/method\.md`?\)?,? sections? (\d+(?:(?:, | and | to )\d+)*)"
TAUGHT = r'notebook (\d\d), section "([^"]+)"'


def text_of(path):
    """The text of a page, a source, or all cells of a notebook; line breaks are blanks."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return re.sub(r"\s*\n\s*(?:#: ?|# )?", " ", text)


def headings_of(path):
    """The headings of a page or a notebook, without their numbers."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    return re.findall(r"^#+ +(.*?) *$", text, flags=re.MULTILINE)


def anchor(heading):
    """The anchor that GitHub gives to a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", ""))
    return kept.replace(" ", "-")


@pytest.mark.parametrize("path", [*SOURCES, *NOTEBOOKS, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_sections_of_the_method_exist(path):
    numbers = re.findall(r"^## (\d+)\.", METHOD.read_text(encoding="utf-8"), re.MULTILINE)
    for match in re.findall(SECTIONS, text_of(path)):
        for number in re.findall(r"\d+", match):
            assert number in numbers, f"docs/method.md has no section {number}"


def test_the_method_is_referred_to():
    """The pattern above finds references at all."""
    found = [path for path in SOURCES if re.search(SECTIONS, text_of(path))]
    assert len(found) > 15
    assert any(re.search(SECTIONS, text_of(path)) or "docs/method.md" in text_of(path) for path in NOTEBOOKS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_lesson_that_a_module_names_exists(path):
    for number, section in re.findall(TAUGHT, text_of(path)):
        (notebook,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        titles = [re.sub(r"^[\d.]+ ", "", heading) for heading in headings_of(notebook)]
        assert any(title.startswith(section) for title in titles), (
            f"{notebook.name} has no section {section!r}: {titles}"
        )


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{target}: no such file"
        if fragment and file.suffix in (".md", ".ipynb"):
            assert fragment in [anchor(heading) for heading in headings_of(file)], f"{target}: no such heading"


def test_nothing_refers_to_pages_outside_the_repository():
    this = ROOT / "tests" / "unit" / "test_references.py"
    for path in [*SOURCES, *NOTEBOOKS, *PAGES]:
        if path != this:
            assert not re.search(r"\b(METHOD|DESIGN)\.md", text_of(path)), path
