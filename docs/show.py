"""Runs the notebooks as a reader would and writes them, with their figures, to `docs/notebooks`: `make show`.

These copies are what GitHub shows and what the site is built of. `make test` runs them again and compares what they
print and what their figures say, numbers apart.
"""

import base64
import html
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

from fustal import ROOT
from fustal.data.writing import atomic

SHOWN = ROOT / "docs" / "notebooks"
FIGURE = re.compile(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)">')


def main(names: list[str]) -> None:
    """Runs all notebooks in their order, in an empty folder of runs, or only the named ones in the usual folder."""
    with tempfile.TemporaryDirectory() as outputs:
        os.environ |= {"TQDM_DISABLE": "1", "FUSTAL_STATIC": "1"} | ({} if names else {"FUSTAL_OUTPUTS": outputs})
        for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
            if not names or path.stem in names:
                print(path.name, flush=True)
                notebook = nbformat.read(path, as_version=4)
                client = NotebookClient(notebook, kernel_name="python3", timeout=1800)
                client.skip_cells_with_tag = ""  # exercises and solutions too, as in JupyterLab
                client.execute(cwd=str(path.parent))
                write(notebook, SHOWN / path.name)


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Writes an executed notebook without what differs from run to run, its figures as images."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = moved(cell.source)
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if figure := FIGURE.fullmatch(output.get("data", {}).get("text/html", "")):
                alt = html.unescape(figure[1])
                output.data = {"image/png": smaller(figure[2]), "text/plain": alt}
                output.metadata = {"image/png": {"alt": alt}}
    notebook.metadata.pop("widgets", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        nbformat.write(notebook, temporary)


def moved(text: str) -> str:
    """Text of a notebook, with links to pages in `docs` that lead there from `docs/notebooks`.

    >>> moved("[the method](../docs/method.md)")
    '[the method](../method.md)'
    """
    return text.replace("](../docs/", "](../")


def smaller(png: str) -> str:
    """A figure, base64 of a PNG, in 48 colours."""
    picture, buffer = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.quantize(48, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    main(sys.argv[1:])
