"""Figures of the task: the method from above, snippets, overlap, and what a data set looks like."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from fustal.data.cards import Dataset
from fustal.data.features import VideoGrid
from fustal.viz.common import BLACK, BLUE, COLOURS, GREEN, GREY, ORANGE, SKY, bar_row, finish, new_figure, row_names

MOST_ROWS = 64
"""Features of a video that are drawn."""


def overview() -> Figure:
    """The method from above: five stages, and what goes from one to the next."""
    stages = [
        ("videos", "features and\nlists of classes", GREY),
        ("1 · generator", "cross-video\ncontrast", BLUE),
        ("2 · filter", "IoU score", SKY),
        ("3 · student", "TriDet, MIL loss", ORANGE),
        ("4 · teacher", "average of\nthe weights", GREEN),
        ("5 · evaluation", "mAP", GREY),
    ]
    passed = ["", "proposals", "pseudo\nlabels", "weights", "detections"]
    alt = (
        "The method from left to right: videos with lists of classes; the generator proposes segments; the filter "
        "makes pseudo labels of them; the student learns from these; the average of its weights, the teacher, gives "
        "new labels back to the student; its detections are evaluated."
    )
    figure, (axis,) = new_figure(alt, height=1.7)
    axis.set(xlim=(-0.62, len(stages) - 0.38), ylim=(-1.0, 0.75))
    axis.set_axis_off()
    for x, (name, about, colour) in enumerate(stages):
        box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": colour, "linewidth": 2}
        axis.text(x, 0, f"{name}\n\n{about}", ha="center", va="center", fontsize=7.5, bbox=box, linespacing=1.1)
    for x, what in enumerate(passed):
        _arrow(axis, (x + 0.39, 0), (x + 0.62, 0))
        axis.text(x + 0.5, 0.45, what, ha="center", va="bottom", fontsize=7)
    _arrow(axis, (4, -0.45), (3, -0.45), "arc3,rad=-0.3")
    axis.text(3.5, -1.0, "new labels", ha="center", va="bottom", fontsize=7)
    return figure


def snippet_windows(grid: VideoGrid, count: int = 6) -> Figure:
    """The windows of the first snippets of a video, and the times at which they are centred.

    Args:
        grid: of the video.
        count: how many.
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


def overlap(pairs: Sequence[tuple[tuple[float, float], tuple[float, float]]], tious: Sequence[float]) -> Figure:
    """Pairs of a true segment and a detection above each other, with their tIoU.

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
        both = max(true[0], found[0]), min(true[1], found[1])
        if both[0] < both[1]:
            place = (len(pairs) - 1 - y) / len(pairs), (len(pairs) - y) / len(pairs)
            axis.axvspan(*both, *place, color=ORANGE, alpha=0.3, linewidth=0, zorder=0)
    row_names(axis, [f"{value:.2f}" for value in tious])
    axis.set_ylim(max(len(pairs), 1) - 0.5, -0.5)
    finish(axis, "time (s); black: true, blue: detected, shaded: both", "tIoU", empty=not len(pairs))
    return figure


def durations(dataset: Dataset) -> Figure:
    """How long videos and segments are, and how many segments a video has."""
    lengths = (dataset.segments.end - dataset.segments.start).round(3)  # equal ones stay equal
    counts = dataset.segments.groupby("video").size()
    panels = [
        (dataset.videos.duration.dropna(), "video (s)", 20),
        (lengths, "segment (s)", 20),
        (counts, "segments of a video", np.linspace(0.5, max(counts.max(), 20) + 0.5, 21) if len(counts) else 20),
    ]
    facts = "; ".join(f"{name}: median {values.median():.1f}" for values, name, _ in panels if len(values))
    figure, axes = new_figure(f"Histograms of {dataset.name}. {facts or 'Nothing there'}.", columns=3, height=2.6)
    for axis, (values, name, bins), colour in zip(axes, panels, COLOURS[:3], strict=True):
        axis.hist(values, bins=bins, color=colour, rwidth=0.9)
        finish(axis, name, "how many" if axis is axes[0] else "", empty=not len(values))
    return figure


def features(values: np.ndarray, times: np.ndarray, truth: pd.DataFrame) -> Figure:
    """The features of one video over time, and its true segments below.

    Args:
        values: (T, D); the first 64 of D are drawn.
        times: (T,) centres of the snippets, s.
        truth: start, end.
    """
    alt = f"{values.shape[1]} features of {len(times)} snippets over time; below, {len(truth)} true segments."
    figure, (top, bottom) = new_figure(alt, rows=2, height=3.6, sharex=True, height_ratios=[4, 1])
    if len(times):
        shown, limits = values[:, :MOST_ROWS].T, np.quantile(values, [0.02, 0.98])
        half = np.ptp(times) / max(len(times) - 1, 1) / 2 or 0.5  # of the time from one snippet to the next
        extent = (times[0] - half, times[-1] + half, min(values.shape[1], MOST_ROWS), 0)
        top.imshow(shown, aspect="auto", cmap="cividis", extent=extent, vmin=limits[0], vmax=limits[1])
    finish(top, "", "feature", empty=not len(times), grid=False)
    bar_row(bottom, 0, truth, BLACK)
    row_names(bottom, ["truth"])
    finish(bottom, "time (s)", "")
    return figure


def _arrow(axis, start: tuple[float, float], end: tuple[float, float], style: str = "arc3") -> None:
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=BLACK, connectionstyle=style))
