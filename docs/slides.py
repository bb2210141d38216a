"""Slides of the notebooks as they were run, `make slides`: nbconvert and reveal.js, with a rule instead of copies.

Headings, formulas, tables, lists, captions, sentences with a new term, short code and figures go to slides; all text
becomes notes for the speaker.
Parameters, checks and exercises are left out.
"""

import argparse
import re
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from traitlets.config import Config

from fustal import ROOT

SHOWN = ROOT / "docs" / "notebooks"
SKIPPED = ("## Parameters", "## Checks", "## What was written", "## Exercises")
MAX_LINES = 16
"""Cells with more lines of code show only what comes out."""

WHOLE = re.compile(r"#+ |\||[-*] |\d+\. |\*\*Figure |!\[|\$\$|\*\*You will")
"""Beginnings of paragraphs that a slide shows whole: headings, tables, lists, captions, pictures, formulas."""


def slides_of(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A notebook whose cells say which slide they belong to.

    Args:
        notebook: as it was run; it is not changed.

    Returns:
        The cells of its slides, with metadata of the slide show: "slide" begins a section, "subslide" a part of it.
    """
    cells = []
    skipping = False
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        if cell.cell_type == "markdown":
            for part in re.split(r"^(?=## )", cell.source, flags=re.MULTILINE):
                skipping = part.startswith(SKIPPED) if part.startswith("## ") else skipping
                cells += [] if skipping else _slides_of_text(part)
        elif not (skipping or {"parameters", "exercise", "solution"} & tags or _only_imports(cell)):
            cells.append(_slide_of_code(cell))
        if "parameters" in tags:
            skipping = False
    return nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)


def _only_imports(cell: nbformat.NotebookNode) -> bool:
    return cell.source.startswith(("import ", "from "))


def shown_of(text: str) -> str:
    r"""The parts of a text that a slide shows.

    Of other paragraphs it shows the first sentence below a heading, and sentences with a term in bold.

    >>> shown_of("## 1.1 Title\n\nFirst. Second.\n\nA **term** is new. It is.\n\nMore.\n\n$$x$$")
    '## 1.1 Title\n\nFirst.\n\nA **term** is new.\n\n$$x$$'
    """
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        title = bool(found) and found[0].startswith("# ")
        if WHOLE.match(paragraph):
            if not (title and paragraph.startswith("|")):  # costs and files
                found.append(paragraph)
        elif not title:
            sentences = re.split(r"(?<=[.?])\s+", paragraph)
            below = found and found[-1].startswith("#")
            terms = [sentence for sentence in sentences if "**" in sentence]
            found += [" ".join(terms or sentences[:1])] if terms or below else []
    return "\n\n".join(found)


def _slides_of_text(text: str) -> list[nbformat.NotebookNode]:
    """What a slide shows of a text, then all of the text as notes."""
    shown = shown_of(text)
    kind = "slide" if re.search(r"^##? ", shown, re.M) else "subslide"
    if shown.startswith("**Figure "):
        kind = "-"  # below its figure
    notes = nbformat.v4.new_markdown_cell(text, metadata={"slideshow": {"slide_type": "notes"}})
    if not shown:
        return [notes]
    return [nbformat.v4.new_markdown_cell(shown, metadata={"slideshow": {"slide_type": kind}}), notes]


def _slide_of_code(cell: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A cell of code and what comes out; long code is hidden."""
    lines = [line for line in cell.source.splitlines() if line.strip()]
    tags = ["hide_code"] if len(lines) > MAX_LINES else []
    metadata = {"slideshow": {"slide_type": "subslide"}, "tags": tags}
    return nbformat.v4.new_code_cell(cell.source, outputs=cell.outputs, metadata=metadata)


def exporter(modules: str = "") -> SlidesExporter:
    """The exporter of nbconvert, with figures inside of the files.

    Args:
        modules: folder that npm has filled, relative to the slides; empty: browsers load scripts from the internet.
    """
    config = Config()
    slides = config.SlidesExporter
    slides.embed_images = True
    slides.exclude_input_prompt = True
    slides.exclude_output_prompt = True
    slides.reveal_scroll = True
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {"hide_code"}
    if modules:
        slides.reveal_url_prefix = f"{modules}/reveal.js"
        slides.require_js_url = f"{modules}/requirejs/require.js"
        slides.jquery_url = f"{modules}/jquery/dist/jquery.min.js"
        slides.mathjax_url = f"{modules}/mathjax/MathJax.js?config=TeX-AMS_CHTML-full,Safe"
    return SlidesExporter(config=config)


def main(arguments: list[str] | None = None) -> None:
    """Writes a file of slides for each notebook."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "slides")
    parser.add_argument("--modules", default="")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(SHOWN.glob("*.ipynb")):
        slides = slides_of(nbformat.read(path, as_version=4))
        resources = {"metadata": {"name": path.stem, "path": str(SHOWN)}}
        page, _ = exporter(options.modules).from_notebook_node(slides, resources)
        target = options.out / f"{path.stem}.slides.html"
        target.write_text(page, encoding="utf-8")
        print(target)


if __name__ == "__main__":
    main()
