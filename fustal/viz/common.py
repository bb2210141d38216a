"""What all figures share: colours, frames, and how a figure is shown or saved."""

import base64
import html
import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from fustal.data.writing import atomic

BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY = (
    *("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"),
    *("#000000", "#999999"),
)
COLOURS = [BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK]
MARKERS = "osD^vP*"

MOST_LETTERS = 40
"""A longer name is cut where it is drawn."""


def show(figure: Figure) -> None:
    """Displays a figure in a notebook, as an image with alt text."""
    display({"text/html": as_html(figure), "text/plain": figure.alt_text}, raw=True)


def as_html(figure: Figure) -> str:
    """A figure as an image with alt text."""
    return f'<img alt="{html.escape(figure.alt_text)}" src="{as_source(figure)}">'


def as_source(figure: Figure, dpi: int = 90, **options: Any) -> str:
    """A figure as what an image of a page is read from, the PNG itself; options are those of `savefig`."""
    buffer = io.BytesIO()
    _write(figure, buffer, dpi=dpi, **options)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, its alt text in the metadata (Description)."""
    with atomic(path) as temporary:
        _write(figure, temporary, dpi=150, metadata={"Description": figure.alt_text})


def _write(figure: Figure, target: Path | BinaryIO, **options: Any) -> None:
    """Every picture comes from here: names of classes and videos are drawn as they are, whatever they hold."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name is no formula
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():  # also of texts made meanwhile
        warnings.filterwarnings("ignore", "Glyph|Matplotlib currently does not support")  # letters that no font has
        figure.savefig(target, format="png", **options)


def drawn(name: object) -> str:
    """A name as figures show it: on one line, not longer than `MOST_LETTERS`.

    >>> drawn("Jump"), drawn("a" * 50) == "a" * 39 + "…"
    ('Jump', True)
    """
    text = " ".join(str(name).splitlines())
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"


def new_figure(
    alt_text: str, rows: int = 1, columns: int = 1, height: float = 3.0, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure outside of pyplot, so that none stays open, and its axes, row by row."""
    figure = Figure(figsize=(max(6.8, 2.6 * columns), height), layout="constrained")
    figure.alt_text = alt_text
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def finish(axis: Axes, xlabel: str, ylabel: str, *, empty: bool = False, grid: bool = True) -> None:
    """Names the axes, draws the grid, says so where there is nothing to show."""
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    if grid:
        axis.grid(color="#dddddd", linewidth=0.6)
    if empty:
        axis.text(0.5, 0.5, "nothing to show", transform=axis.transAxes, ha="center", va="center", color=GREY)


def legend_above(axis: Axes) -> None:
    """A legend outside of the axes, on top."""
    if names := axis.get_legend_handles_labels()[1]:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(len(names), 4), frameon=False)


def row_names(axis: Axes, names: Iterable[str]) -> None:
    """Names on the y axis, the first on top."""
    names = [drawn(name) for name in names]
    axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))


def bar_row(axis: Axes, y: float, frame: pd.DataFrame, colour: str, height: float = 0.7) -> None:
    """Segments as bars around y; those of lower score are paler."""
    score = frame["score"].to_numpy(float) if "score" in frame else np.ones(len(frame))
    alpha = 0.15 + 0.75 * np.clip(score / max(score.max(initial=0), 1e-9), 0, 1)
    spans = np.stack([frame.start, frame.end - frame.start], axis=1) if len(frame) else []
    paint = {"facecolors": [(colour, a) for a in alpha], "edgecolors": colour, "linewidth": 0.5}
    axis.broken_barh(spans, (y - height / 2, height), **paint)
