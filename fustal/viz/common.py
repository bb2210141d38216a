"""Parts that all figures share: colours, axes, bars, and functions that show or save a figure."""

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

BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
ORANGE = "#E69F00"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
BLACK = "#000000"
GREY = "#999999"
COLOURS = [BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK]
MARKERS = "osD^vP*"

MAX_LETTERS = 40
"""Longer names are cut in figures."""


class DescribedFigure(Figure):
    """A figure with a text for readers who cannot see it.

    Attributes:
        alt_text: the text.
    """

    alt_text: str = ""


def show(figure: DescribedFigure) -> None:
    """Displays a figure in a notebook, as an image with alt text."""
    display({"text/html": as_html(figure), "text/plain": figure.alt_text}, raw=True)


def as_html(figure: DescribedFigure) -> str:
    """A figure as an HTML image with alt text."""
    return f'<img alt="{html.escape(figure.alt_text)}" src="{as_source(figure)}">'


def as_source(figure: Figure, dpi: int = 90, **options: Any) -> str:
    """A figure as the source of an HTML image: a data URL that contains the PNG.

    Args:
        figure: any.
        dpi: dots per inch.
        **options: of matplotlib's `savefig`.
    """
    buffer = io.BytesIO()
    _write(figure, buffer, dpi=dpi, **options)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def save(figure: DescribedFigure, path: Path) -> None:
    """Writes a figure as PNG, with its alt text in the metadata (Description)."""
    with atomic(path) as temporary:
        _write(figure, temporary, dpi=150, metadata={"Description": figure.alt_text})


def _write(figure: Figure, target: Path | BinaryIO, **options: Any) -> None:
    """Writes a figure as PNG; names of classes and videos are drawn literally.

    Args:
        figure: any.
        target: path or file.
        **options: of matplotlib's `savefig`.
    """
    # A "$" in a name is not the start of a formula.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    # The setting covers texts that matplotlib makes while it draws. Letters without a glyph are drawn as boxes.
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph|Matplotlib currently does not support")
        figure.savefig(target, format="png", **options)


def drawn(name: object) -> str:
    """A name as figures show it: on one line, at most `MAX_LETTERS` long.

    >>> drawn("Jump"), drawn("a" * 50) == "a" * 39 + "…"
    ('Jump', True)
    """
    text = " ".join(str(name).splitlines())
    if len(text) <= MAX_LETTERS:
        return text
    return f"{text[: MAX_LETTERS - 1]}…"


def new_figure(
    alt_text: str, rows: int = 1, columns: int = 1, height: float = 3.0, **options: Any
) -> tuple[DescribedFigure, list[Axes]]:
    """A new figure and its axes. It is made without pyplot, which would keep it open.

    Args:
        alt_text: text for readers who cannot see the figure.
        rows: of axes.
        columns: of axes.
        height: in inches.
        **options: of matplotlib's `subplots`.

    Returns:
        The figure and its axes, row by row.
    """
    figure = DescribedFigure(figsize=(max(6.8, 2.6 * columns), height), layout="constrained")
    figure.alt_text = alt_text
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def finish(axis: Axes, xlabel: str, ylabel: str, *, empty: bool = False, grid: bool = True) -> None:
    """Completes the axes of a figure.

    Args:
        axis: of the figure.
        xlabel: name of the x axis.
        ylabel: name of the y axis.
        empty: write "nothing to show" into the axes.
        grid: draw a grid.
    """
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    if grid:
        axis.grid(color="#dddddd", linewidth=0.6)
    if empty:
        axis.text(0.5, 0.5, "nothing to show", transform=axis.transAxes, ha="center", va="center", color=GREY)


def legend_above(axis: Axes) -> None:
    """Draws a legend above the axes, if anything in them has a label."""
    names = axis.get_legend_handles_labels()[1]
    if names:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(len(names), 4), frameon=False)


def row_names(axis: Axes, names: Iterable[str]) -> None:
    """Writes names on the y axis, the first one at the top."""
    labels = [drawn(name) for name in names]
    axis.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.4, -0.6))


def bar_row(axis: Axes, y: float, frame: pd.DataFrame, colour: str, height: float = 0.7) -> None:
    """Draws segments as bars on one row; bars with a lower score are paler.

    Args:
        axis: to draw on.
        y: middle of the row.
        frame: start, end, perhaps score.
        colour: of the bars.
        height: of the bars.
    """
    score = frame["score"].to_numpy(float) if "score" in frame else np.ones(len(frame))
    alpha = 0.15 + 0.75 * np.clip(score / max(score.max(initial=0), 1e-9), 0, 1)
    axis.broken_barh(
        list(zip(frame.start, frame.end - frame.start, strict=True)),
        (y - height / 2, height),
        facecolors=[(colour, value) for value in alpha],
        edgecolors=colour,
        linewidth=0.5,
    )


def lanes_of(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The lane (N,) of each segment: by their starts, each gets the first lane in which it overlaps no other one.

    >>> lanes_of(np.array([0.0, 1.0, 5.0, 2.0]), np.array([4.0, 6.0, 9.0, 3.0])).tolist()
    [0, 1, 0, 2]
    """
    lanes = np.zeros(len(starts), dtype=int)
    free: list[float] = []  # from when on each lane is free
    for i in np.argsort(starts, kind="stable"):
        open_lanes = [lane for lane, time in enumerate(free) if time <= starts[i]]
        lanes[i] = open_lanes[0] if open_lanes else len(free)
        free[lanes[i] : lanes[i] + 1] = [ends[i]]
    return lanes


def rows_in_words(table: pd.DataFrame) -> str:
    """The values (two decimals) of each row of a table, for an alt text; empty if it has no row."""
    facts = []
    for title, row in table.iterrows():
        values = ", ".join(f"{name} {value:.2f}" for name, value in row.items())
        facts.append(f"{title}: {values}")
    return "; ".join(facts)
