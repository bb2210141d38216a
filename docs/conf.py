"""The web site, `make site`: the notebooks as `make show` left them, and the pages of this folder."""

import html
import json
import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parents[1]))

from docs.launch import theme_options

project = "FuSTAL in notebooks"
author = "the FuSTAL authors"
html_title = project
html_theme = "sphinx_book_theme"
html_theme_options = {"home_page_in_toc": True} | theme_options()
extensions = ["myst_nb"]
exclude_patterns = ["_build"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
suppress_warnings = ["mystnb.unknown_mime_type"]


def setup(app: Sphinx) -> None:
    """Keeps what figures say in words: myst-nb would give them their file name as alt text."""
    app.connect("source-read", keep_alt_text)


def keep_alt_text(app: Sphinx, name: str, source: list[str]) -> None:
    """Replaces the figures of a notebook by HTML with their alt text."""
    if not name.startswith("notebooks/"):
        return
    notebook = json.loads(source[0])
    for output in (output for cell in notebook["cells"] for output in cell.get("outputs", [])):
        if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
            data = "".join(output["data"]["image/png"]).replace("\n", "")
            output["data"] = {"text/html": f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'}
    source[0] = json.dumps(notebook)
