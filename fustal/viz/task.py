"""Figures of the task: an overview of the method, snippets, overlap, and the contents of a data set."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch

from fustal.data.cards import Dataset
from fustal.data.features import VideoGrid
from fustal.viz.common import (
    BLACK,
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    DescribedFigure,
    bar_row,
    finish,
    new_figure,
    row_names,
)

MAX_FEATURES = 64
"""Maximum number of features that are drawn."""


def overview() -> DescribedFigure:
    """Overview of the method: its stages, and the files that one stage passes to the next."""
    stages = [
        ("videos", "features and\nlists of classes", GREY),
        ("1 · generator", "cross-video\ncontrast", BLUE),
        ("2 · filter", "IoU score", SKY),
        ("3 · student", "TriDet,\nMIL loss", ORANGE),
        ("4 · teacher", "average of\nthe weights", GREEN),
        ("5 · evaluation", "mAP", GREY),
    ]
    passed = ["", "proposals", "pseudo\nlabels", "weights", "detections"]
    alt = (
        "The method from left to right: videos with lists of classes; the generator proposes segments; the filter "
        "turns proposals into pseudo labels; the student learns from them; the teacher, the average of its weights, "
        "gives new labels to the student; its detections are evaluated."
    )
    figure, (axis,) = new_figure(alt, height=2.1)
    figure.set_figwidth(8.4)
    axis.set(xlim=(-0.55, len(stages) - 0.45), ylim=(-1.0, 0.85))
    axis.set_axis_off()
    for x, (name, about, colour) in enumerate(stages):
        box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": colour, "linewidth": 2}
        axis.text(x, 0, f"{name}\n\n{about}", ha="center", va="center", fontsize=9.5, bbox=box, linespacing=1.1)
    for x, what in enumerate(passed):
        _arrow(axis, (x + 0.4, 0), (x + 0.6, 0))
        axis.text(x + 0.5, 0.47, what, ha="center", va="bottom", fontsize=9.5)
    _arrow(axis, (4, -0.45), (3, -0.45), "arc3,rad=-0.3")
    axis.text(3.5, -1.0, "new labels", ha="center", va="bottom", fontsize=9.5)
    return figure


def snippet_windows(grid: VideoGrid, count: int = 6) -> DescribedFigure:
    """The windows of the first snippets of a video, and the times at which they are centred.

    Args:
        grid: of the video.
        count: number of snippets.
    """
    centres = np.asarray(grid.to_seconds(np.arange(count)), float)
    half = grid.window / grid.fps / 2
    alt = f"{count} snippets of {2 * half:.2f} s each, one every {grid.stride / grid.fps:.2f} s."
    figure, (axis,) = new_figure(alt, height=0.9 + 0.28 * count)
    windows = pd.DataFrame({"start": centres - half, "end": centres + half})
    for y in range(count):
        bar_row(axis, y, windows.iloc[[y]], SKY)
    axis.plot(centres, np.arange(count), "o", color=BLACK, markersize=4)
    row_names(axis, map(str, range(count)))
    finish(axis, "time (s)", "snippet", empty=not count)
    return figure


def overlap(
    pairs: Sequence[tuple[tuple[float, float], tuple[float, float]]], tious: Sequence[float]
) -> DescribedFigure:
    """Pairs of a true segment and a detection, one above the other, with their tIoU.

    Args:
        pairs: true and detected (start, end), s.
        tious: of each pair.
    """
    facts = "; ".join(
        f"{true[0]:g} to {true[1]:g} and {found[0]:g} to {found[1]:g} s: {value:.2f}"
        for (true, found), value in zip(pairs, tious, strict=True)
    )
    figure, (axis,) = new_figure(f"Pairs of segments and their tIoU. {facts}.", height=0.9 + 0.55 * len(pairs))
    for y, (true, found) in enumerate(pairs):
        for shift, (start, end), colour in ((-0.2, true, BLACK), (0.2, found, BLUE)):
            bar_row(axis, y + shift, pd.DataFrame({"start": [start], "end": [end]}), colour, 0.34)
        begin = max(true[0], found[0])
        end = min(true[1], found[1])
        if begin < end:
            # The height of the shaded part is a share of the axes, from the bottom: the first pair is at the top.
            bottom = (len(pairs) - 1 - y) / len(pairs)
            top = (len(pairs) - y) / len(pairs)
            axis.axvspan(begin, end, bottom, top, color=ORANGE, alpha=0.3, linewidth=0, zorder=0)
    row_names(axis, [f"{value:.2f}" for value in tious])
    axis.set_ylim(max(len(pairs), 1) - 0.5, -0.5)
    finish(axis, "time (s); black: true, blue: detected, shaded: both", "tIoU", empty=not len(pairs))
    return figure


def durations(dataset: Dataset) -> DescribedFigure:
    """Histograms of the lengths of videos and segments, and of the number of segments per video."""
    # Rounded: differences of equal lengths must be equal numbers to fall into the same bin.
    lengths = (dataset.segments.end - dataset.segments.start).round(3)
    counts = dataset.segments.groupby("video").size()
    count_bins: int | list[float] = 20
    if len(counts):
        # Edges between whole numbers.
        count_bins = np.linspace(0.5, max(counts.max(), 20) + 0.5, 21).tolist()
    panels: list[tuple[pd.Series, str, int | list[float]]] = [
        (dataset.videos.duration.dropna(), "video (s)", 20),
        (lengths, "segment (s)", 20),
        (counts, "segments of a video", count_bins),
    ]
    facts = "; ".join(f"{name}: median {values.median():.1f}" for values, name, _ in panels if len(values))
    figure, axes = new_figure(f"Histograms of {dataset.name}. {facts or 'No videos'}.", columns=3, height=2.6)
    for axis, (values, name, bins), colour in zip(axes, panels, COLOURS[:3], strict=True):
        axis.hist(values, bins=bins, color=colour, rwidth=0.9)
        finish(axis, name, "count" if axis is axes[0] else "", empty=not len(values))
    return figure


def features(values: np.ndarray, times: np.ndarray, truth: pd.DataFrame) -> DescribedFigure:
    """The features of one video over time, and its true segments below.

    Args:
        values: (T, D); the first 64 of D are drawn.
        times: (T,) centres of the snippets, s.
        truth: start, end.
    """
    alt = f"{values.shape[1]} features of {len(times)} snippets over time; below, {len(truth)} true segments."
    figure, (top, bottom) = new_figure(alt, rows=2, height=3.6, sharex=True, height_ratios=[4, 1])
    if len(times):
        shown = values[:, :MAX_FEATURES].T
        low, high = np.quantile(values, [0.02, 0.98])
        # A snippet's column reaches half of the way to the next one; a single snippet is 1 s wide.
        half = np.ptp(times) / max(len(times) - 1, 1) / 2 or 0.5
        extent = (times[0] - half, times[-1] + half, len(shown), 0)
        image = top.imshow(shown, aspect="auto", cmap="cividis", extent=extent, vmin=low, vmax=high)
        figure.colorbar(image, ax=[top, bottom], label="value of the feature", pad=0.01)
    finish(top, "", "feature", empty=not len(times), grid=False)
    bar_row(bottom, 0, truth, BLACK)
    row_names(bottom, ["truth"])
    finish(bottom, "time (s)", "")
    return figure


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "arc3") -> None:
    """Draws an arrow between two points; `style` is matplotlib's connection style."""
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=BLACK, connectionstyle=style))
