"""Figures of how proposals become labels: what NMS leaves, the IoU score, durations, borders, and rules compared."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fustal.viz.common import (
    BLACK,
    BLUE,
    COLOURS,
    GREY,
    MARKERS,
    ORANGE,
    SKY,
    VERMILLION,
    DescribedFigure,
    drawn,
    finish,
    lanes_of,
    legend_above,
    new_figure,
    row_names,
    rows_in_words,
)

BINS = 15
"""Bins of a histogram of IoU scores, from 0 to the highest score."""

MAX_LABELS = 8
"""Classes in the legend of a figure of one video."""

LEVEL = 1.96
"""Standard errors on each side of a share in an interval of 95 %."""


def surviving_runs(curve: np.ndarray, times: np.ndarray, runs: pd.DataFrame) -> DescribedFigure:
    """A curve and its runs at each threshold, drawn at the height of the threshold: those that NMS keeps are dark.

    Args:
        curve: (T,) activations.
        times: (T,) of the curve, s.
        runs: threshold, start, end (s), kept (boolean).
    """
    alt = f"A curve with {len(runs)} runs above its thresholds, of which NMS keeps {int(runs.kept.sum())}."
    figure, (axis,) = new_figure(alt, height=3.2)
    axis.plot(times, curve, color=BLUE, label="activation of the class")
    for kept, colour, width, name in ((False, GREY, 2, "removed by NMS"), (True, VERMILLION, 4, "kept")):
        part = runs[runs.kept == kept]
        axis.hlines(part.threshold, part.start, part.end, color=colour, linewidth=width, label=name)
    if len(times):
        legend_above(axis)
    finish(axis, "time (s)", "activation and thresholds", empty=not len(times))
    return figure


def score_histogram(kinds: Mapping[str, tuple[np.ndarray, np.ndarray]], threshold: float) -> DescribedFigure:
    """Numbers of true and false positives over the whole range of the IoU score, and the share of true ones per bin.

    Args:
        kinds: name of a kind of score -> scores (N,) and whether each proposal is right (N,); a column for each.
        threshold: gamma, drawn as a line.
    """
    facts = []
    for name, (values, right) in kinds.items():
        below = values < threshold
        facts.append(
            f"{name}: {right.sum()} true and {(~right).sum()} false positives; below the threshold {threshold:g} lie "
            f"{(below & right).sum()} true and {(below & ~right).sum()} false ones"
        )
    alt = f"Histograms of the IoU score, and the share of true positives in each bin. {'. '.join(facts) or 'None'}."
    columns = max(len(kinds), 1)
    figure, axes = new_figure(alt, rows=2, columns=columns, height=4.6, sharex="col", sharey="row")
    for column, (name, (values, right)) in enumerate(kinds.items()):
        top, bottom = axes[column], axes[columns + column]
        edges = np.linspace(0, max(np.max(values, initial=0), threshold) or 1, BINS + 1)
        true, false = np.histogram(values[right], edges)[0], np.histogram(values[~right], edges)[0]
        for count, colour, kind in ((false, ORANGE, "false positives"), (true, BLUE, "true positives")):
            top.stairs(count, edges, color=colour, fill=True, alpha=0.3)
            top.stairs(count, edges, color=colour, linewidth=1.8, label=kind)
        filled = true + false > 0
        share, low, high = share_interval(true[filled], (true + false)[filled])
        middle = (edges[:-1] + edges[1:])[filled] / 2
        bottom.errorbar(middle, share, (share - low, high - share), fmt="o-", color=BLUE, ecolor=SKY, capsize=2)
        top.set_title(name)
        for axis in (top, bottom):
            axis.axvline(threshold, color=BLACK, linestyle="--", linewidth=1)
    for row, (xlabel, ylabel) in enumerate((("", "proposals"), ("IoU score", "share of true positives"))):
        for column, axis in enumerate(axes[row * columns : (row + 1) * columns]):
            axis.set_ylim(bottom=0)
            finish(axis, xlabel, "" if column else ylabel, empty=not kinds)
    if kinds:
        names = axes[0].get_legend_handles_labels()
        figure.legend(*names, loc="outside upper center", ncols=2, frameon=False)
    return figure


def share_interval(part: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares, and the lower and upper ends of their intervals of 95 % (Wilson, 1927); useful for few cases, too.

    Args:
        part: (N,) counts.
        whole: (N,) counts, above 0.

    >>> [value.round(2).tolist() for value in share_interval(np.array([0, 50]), np.array([4, 100]))]
    [[0.0, 0.5], [0.0, 0.4], [0.49, 0.6]]
    """
    share = part / whole
    middle = (share + LEVEL**2 / (2 * whole)) / (1 + LEVEL**2 / whole)
    reach = LEVEL * np.sqrt(share * (1 - share) / whole + (LEVEL / whole) ** 2 / 4) / (1 + LEVEL**2 / whole)
    return share, np.minimum(middle - reach, share), np.maximum(middle + reach, share)


def duration_weights(
    durations: np.ndarray, chosen: np.ndarray, typical: float, spread: float, power: float, label: str
) -> DescribedFigure:
    """Durations of the proposals of a class, those of its first labels, and the weight that a duration gets.

    Args:
        durations: (N,) of proposals, s, above 0.
        chosen: (M,) of the first labels, s.
        typical: median of the logarithm of the durations of the first labels.
        spread: of these logarithms.
        power: of the weight.
        label: the class.
    """
    alt = (
        f"Durations of {len(durations)} proposals and {len(chosen)} first labels of {drawn(label)}. The weight is 1 at "
        f"{np.exp(typical):.2f} s and falls to both sides."
    )
    figure, (axis,) = new_figure(alt)
    if len(durations):
        logs = np.log(durations)
        edges = np.linspace(logs.min() - 0.05, logs.max() + 0.05, 31)
        for values, colour, name in ((durations, GREY, "proposals"), (chosen, BLUE, "first labels")):
            counts = np.histogram(np.log(values), edges)[0] / max(len(values), 1)
            axis.stairs(counts / max(counts.max(), 1e-9), np.exp(edges), color=colour, fill=True, alpha=0.5, label=name)
        grid = np.linspace(edges[0], edges[-1], 200)
        weight = (1 + ((grid - typical) / spread) ** 2) ** -power
        axis.plot(np.exp(grid), weight, color=VERMILLION, linewidth=2, label="weight")
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        legend_above(axis)
    finish(axis, "duration (s), logarithmic", "weight; counts, highest = 1", empty=not len(durations))
    return figure


def border_change(places: np.ndarray, height: np.ndarray, before: float, after: float, inward: int) -> DescribedFigure:
    """Features around one border, projected on the direction of change, with the border before and after its move.

    Args:
        places: (T,) times of the snippets around the border, s; may be empty.
        height: (T,) of the features: 0 is their mean outside of the label, 1 that inside of it.
        before: the border as it was, s.
        after: where the features cross 1/2, s.
        inward: 1 for a start, -1 for an end.
    """
    side = "start" if inward > 0 else "end"
    alt = f"Features around the {side} of a label: the border moves from {before:.2f} to {after:.2f} s."
    figure, (axis,) = new_figure(alt if len(places) else "No border can be moved.", height=3.2)
    if len(places):
        axis.axhspan(-0.03, 0.03, color=GREY, alpha=0.4, linewidth=0)
        axis.axhspan(0.97, 1.03, color=SKY, alpha=0.6, linewidth=0)
        axis.plot(places, height, color=BLUE, marker="o", markersize=4, label="features, projected")
        axis.axhline(0.5, color=BLACK, linewidth=1, linestyle=":")
        axis.axvline(before, color=ORANGE, linewidth=2, linestyle="--", label=f"{side} before: {before:.2f} s")
        axis.axvline(after, color=VERMILLION, linewidth=2, label=f"after: {after:.2f} s")
        legend_above(axis)
    finish(axis, "time (s)", "0: outside, 1: inside", empty=not len(places))
    return figure


def stacked(rows: Mapping[str, pd.DataFrame]) -> DescribedFigure:
    """The segments of one video from several sources; segments of a source that overlap are drawn below each other.

    Args:
        rows: name of the row -> start, end, label, perhaps score; bars with a lower score are paler.
    """
    counts = ", ".join(f"{name} {len(frame)}" for name, frame in rows.items())
    labels = list(dict.fromkeys(label for frame in rows.values() for label in frame["label"]))
    colours = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(labels)}
    lanes = {}
    for name, frame in rows.items():
        starts, ends = frame.start.to_numpy(float), frame.end.to_numpy(float)
        order = np.argsort(-ends, kind="stable")  # of segments that start together the longest one gets the first lane
        lanes[name] = np.zeros(len(frame), dtype=int)
        lanes[name][order] = lanes_of(starts[order], ends[order])
    heights = [1 + int(lane.max(initial=0)) for lane in lanes.values()]
    tops = np.cumsum([0, *(height + 1 for height in heights)])  # an empty lane between two rows
    figure, (axis,) = new_figure(f"Segments of one video: {counts or 'none'}.", height=1.4 + 0.13 * tops[-1])
    for (name, frame), top in zip(rows.items(), tops, strict=False):
        score = frame["score"].to_numpy(float) if "score" in frame else np.ones(len(frame))
        shade = 0.2 + 0.8 * np.clip(score / max(score.max(initial=0), 1e-9), 0, 1)
        edges = [colours[label] for label in frame["label"]]
        colour = list(zip(edges, shade, strict=True))
        length = frame.end - frame.start
        axis.barh(top + lanes[name], length, 0.85, frame.start, color=colour, edgecolor=edges, linewidth=0.6)
    axis.hlines(tops[1:-1] - 1, 0, 1, transform=axis.get_yaxis_transform(), color=GREY, linewidth=0.6)
    axis.set(yticks=tops[:-1] + (np.array(heights) - 1) / 2, yticklabels=[drawn(name) for name in rows])
    axis.set_ylim(max(tops[-1] - 1, 1), -1)
    if labels:
        patches = [Patch(color=colours[label], label=drawn(label)) for label in labels[:MAX_LABELS]]
        figure.legend(handles=patches, loc="outside upper center", ncols=4, frameon=False)
    finish(axis, "time (s)", "source", empty=not labels)
    return figure


def share_curves(curves: Mapping[str, Mapping[float, float]], chosen: float) -> DescribedFigure:
    """Measures of labels for each share of the highest confidence, such as the agreement and the F1.

    Args:
        curves: name -> share -> value in [0, 1].
        chosen: the share that was taken, drawn as a line.
    """
    facts = []
    for name, curve in curves.items():
        values = ", ".join(f"{value:.2f} at {share:g}" for share, value in curve.items())
        facts.append(f"{name}: {values or 'none'}")
    figure, (axis,) = new_figure(f"Measures of labels by minimum share. {'; '.join(facts) or 'None'}.")
    for (name, curve), colour, marker in zip(curves.items(), COLOURS, MARKERS, strict=False):
        axis.plot(list(curve), list(curve.values()), color=colour, marker=marker, label=name)
    empty = not any(len(curve) for curve in curves.values())
    if not empty:
        axis.axvline(chosen, color=BLACK, linestyle="--", linewidth=1, label=f"taken: {chosen:g}")
        legend_above(axis)
    finish(axis, "minimum share of the highest confidence", "F1 at tIoU 0.5", empty=empty)
    return figure


def rule_quality(table: pd.DataFrame) -> DescribedFigure:
    """Precision, recall and F1 of the labels of each rule: a row per rule, a mark per measure.

    Args:
        table: index rule, a column for each measure in [0, 1].
    """
    alt = f"Quality of labels by rule. {rows_in_words(table) or 'No rule'}."
    figure, (axis,) = new_figure(alt, height=1.2 + 0.36 * len(table))
    rows = np.arange(len(table))
    if table.size:
        axis.hlines(rows, table.min(axis=1), table.max(axis=1), color=GREY, linewidth=1)
    for (name, column), colour, marker in zip(table.items(), COLOURS, MARKERS, strict=False):
        axis.plot(column, rows, marker, color=colour, markersize=8, label=name)
    axis.set_xlim(-0.02, 1.02)
    row_names(axis, table.index)
    legend_above(axis)
    finish(axis, "share", "rule", empty=not table.size)
    return figure
