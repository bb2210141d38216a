"""Figures of a run on real recordings: one sequence, and all of its labels (`docs/real.py` writes them)."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from fustal.viz.common import (
    BLACK,
    BLUE,
    COLOURS,
    GREY,
    MARKERS,
    ORANGE,
    DescribedFigure,
    drawn,
    finish,
    legend_above,
    new_figure,
    row_names,
)

BINS = 6
"""Bars of `prior_shares` for each score."""


def class_curves(
    curves: Mapping[str, np.ndarray], times: np.ndarray, proposals: pd.DataFrame, truth: pd.DataFrame
) -> DescribedFigure:
    """Activations of one video, a panel for each class; its proposals at the height of their score, and the truth.

    Args:
        curves: class -> (T,) activations, normalised.
        times: (T,) s.
        proposals: label, start, end, score.
        truth: label, start, end.
    """
    facts = []
    for name in curves:
        found = (proposals.label == name).sum()
        actions = ", ".join(f"{row.start:.1f} to {row.end:.1f} s" for row in truth[truth.label == name].itertuples())
        facts.append(f"{name}: {found} proposals, true {actions or 'nowhere'}")
    alt = f"Class activations of one video in a panel for each class, with proposals. {'; '.join(facts) or 'No class'}."
    rows = max(len(curves), 1)
    figure, axes = new_figure(alt, rows=rows, height=0.9 + 1.0 * rows, sharex=True, sharey=True)
    for axis, (name, curve) in zip(axes, curves.items(), strict=False):
        for row in truth[truth.label == name].itertuples():
            axis.axvspan(row.start, row.end, color=GREY, alpha=0.35, linewidth=0, label="true gesture")
        axis.plot(times, curve, color=BLUE, label="activation")
        own = proposals[proposals.label == name]
        axis.hlines(own.score, own.start, own.end, color=ORANGE, linewidth=1.8, label="proposals, at their score")
        finish(axis, "", "", empty=not len(times))
        axis.set_ylabel(drawn(name), rotation=0, ha="right", va="center")
    handles: dict[str, Any] = {}
    for axis in axes:
        artists, names = axis.get_legend_handles_labels()
        handles |= dict(zip(names, artists, strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, frameon=False)
    if not curves:
        finish(axes[0], "", "class", empty=True)
    axes[-1].set_xlabel("time (s)")
    axes[-1].set_xlim(0, max(np.max(times, initial=0), proposals.end.max() if len(proposals) else 0, 1e-3))
    return figure


def prior_shares(scores: Mapping[str, tuple[np.ndarray, np.ndarray]], bins: int = BINS) -> DescribedFigure:
    """The share of true positives among proposals of a similar IoU score; a panel for each kind of score.

    Args:
        scores: kind -> IoU scores (N,), and whether each of these proposals is a true positive (N,).
        bins: number of bars, each of about the same number of proposals.
    """
    figure, axes = new_figure("", columns=max(len(scores), 1), height=3.0, sharey=True)
    facts = []
    for axis, (kind, (score, is_true)) in zip(axes, scores.items(), strict=False):
        score = np.asarray(score, float)
        edges = np.unique(np.quantile(score, np.linspace(0, 1, bins + 1))) if len(score) else np.zeros(1)
        place = np.clip(np.searchsorted(edges, score, side="right") - 1, 0, max(len(edges) - 2, 0))
        shares = [100 * float(np.mean(np.asarray(is_true)[place == i])) for i in np.unique(place)]
        bars = axis.bar(np.arange(len(shares)) + 0.5, shares, 0.92, color=BLUE)
        axis.bar_label(bars, [f"{value:.1f}" for value in shares], fontsize=9)
        axis.set_xticks(range(len(edges)), [f"{round(edge, 2):.2g}" for edge in edges], fontsize=9)
        if len(score):
            mean = 100 * float(np.mean(is_true))
            name = f"all {len(score)} proposals: {mean:.1f} %"
            axis.axhline(mean, color=BLACK, linestyle="--", linewidth=1, label=name)
            facts.append(f"{kind}: " + ", ".join(f"{value:.1f} %" for value in shares))
        legend_above(axis)
        finish(axis, f"IoU score, {kind}", "true positives (%)" if axis is axes[0] else "", empty=not len(score))
    figure.alt_text = (
        "Share of true positives among proposals, from the lowest to the highest IoU score, in bins of about as many "
        f"proposals each. {'; '.join(facts) or 'No proposals'}."
    )
    return figure


def label_stages(f1: pd.DataFrame, counts: pd.DataFrame) -> DescribedFigure:
    """The F1 of the labels after each stage, and the number of labels of each class.

    Args:
        f1: index stage, a column for each tIoU, percent.
        counts: index class, a column for each set of labels; the first one is the truth.
    """
    facts = []
    for stage, row in f1.iterrows():
        facts.append(f"{stage} " + ", ".join(f"{value:.0f} at tIoU {tiou:g}" for tiou, value in row.items()))
    sums = ", ".join(f"{name} {values.sum()}" for name, values in counts.items())
    alt = f"F1 of labels in percent: {'; '.join(facts) or 'none'}. Numbers of labels of {len(counts)} classes: {sums}."
    height = max(3.0, 1.4 + 0.26 * len(counts))
    figure, (left, right) = new_figure(alt, columns=2, height=height, width_ratios=[1, 1.2])
    width = 0.8 / max(f1.shape[1], 1)
    for i, (tiou, values) in enumerate(f1.items()):
        y = np.arange(len(f1)) + (i - (f1.shape[1] - 1) / 2) * width
        bars = left.barh(y, values, width * 0.92, color=COLOURS[i % len(COLOURS)], label=f"tIoU {tiou:g}")
        left.bar_label(bars, fmt="%.0f", fontsize=9, padding=2)
    row_names(left, f1.index)
    left.set_xlim(0, 115)
    finish(left, "F1 of the labels (%)", "labels after", empty=not f1.size)
    shift = np.linspace(-0.3, 0.3, max(counts.shape[1], 1))  # equal numbers would cover each other
    for (name, values), dy, colour, marker in zip(counts.items(), shift, cycle([BLACK, *COLOURS]), cycle(MARKERS)):
        y = np.arange(len(values)) + dy
        right.plot(values, y, linestyle="none", color=colour, marker=marker, markersize=4, label=name)
    row_names(right, counts.index)
    right.set_xlim(0, 1.08 * max(counts.to_numpy().max(initial=0), 1))
    right.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    finish(right, "number of labels", "class", empty=not counts.size)
    for axis in (left, right):
        if axis.get_legend_handles_labels()[1]:
            axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, columnspacing=1.0)
    return figure
