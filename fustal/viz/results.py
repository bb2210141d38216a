"""Figures of trainings and of what they were worth."""

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fustal.data.cards import Dataset
from fustal.viz.common import (
    BLACK,
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    SKY,
    VERMILLION,
    finish,
    legend_above,
    new_figure,
    row_names,
)

MOST_CLASSES = 40
"""A figure with one row a class shows so many, the first of its order."""


def training_curves(log: pd.DataFrame) -> Figure:
    """One panel a loss: each step in grey, the running mean in blue.

    Args:
        log: of `training.fit`: step and any number of losses.
    """
    names = [name for name in log.columns if name != "step"]
    ends = ", ".join(f"{name} from {v.iloc[0]:.3g} to {v.iloc[-1]:.3g}" for name, v in log[names].items() if len(v))
    figure, axes = new_figure(f"Losses over {len(log)} training steps: {ends or 'none'}.", columns=max(len(names), 1))
    for axis, name in zip(axes, names or ["loss"], strict=True):
        values = log.get(name, pd.Series(dtype=float))
        if len(values):
            axis.plot(log.step, values, color=GREY, linewidth=0.6, alpha=0.7)
            axis.plot(log.step, values.rolling(len(log) // 20 + 1, min_periods=1, center=True).mean(), color=BLUE)
        finish(axis, "step", name, empty=not len(values))
    return figure


def quality_bars(table: pd.DataFrame) -> Figure:
    """Grouped bars, e.g. of precision and recall of the labels after each stage.

    Args:
        table: index stage, a column for each measure in [0, 1].
    """
    facts = "; ".join(
        f"{stage}: " + ", ".join(f"{k} {v:.2f}" for k, v in row.items()) for stage, row in table.iterrows()
    )
    figure, (axis,) = new_figure(f"Bars of the quality of labels. {facts or 'No stage'}.")
    width = 0.8 / max(table.shape[1], 1)
    for i, (name, values) in enumerate(table.items()):
        x = np.arange(len(table)) + (i - (table.shape[1] - 1) / 2) * width
        bars = axis.bar(x, values, width * 0.95, color=COLOURS[i % len(COLOURS)], label=name)
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    axis.set_xticks(range(len(table)), table.index)
    legend_above(axis)
    finish(axis, "stage", "share", empty=not table.size)
    return figure


def ema_curve(raw: pd.Series, ema: pd.Series, xlabel: str = "epoch", ylabel: str = "average mAP (%)") -> Figure:
    """The student and the moving average of its weights over training.

    Args:
        raw: measure of the student, indexed by epoch or step.
        ema: the same of its moving average.
        xlabel: what the index counts.
        ylabel: what is measured.
    """
    ends = "; ".join(f"{name} ends at {v.iloc[-1]:.3g}" for name, v in (("student", raw), ("EMA", ema)) if len(v))
    figure, (axis,) = new_figure(f"{ylabel} by {xlabel} of the student and its moving average. {ends or 'No values'}.")
    size = 4 if len(raw) <= 50 else 0  # markers for epochs, a line for steps
    axis.plot(raw.index, raw, color=ORANGE, marker="o", markersize=size, label="student")
    axis.plot(ema.index, ema, color=BLUE, marker="s", markersize=size, label="moving average of its weights (EMA)")
    axis.legend()
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(axis, xlabel, ylabel, empty=not len(raw) + len(ema))
    return figure


def average_precision(table: pd.DataFrame) -> Figure:
    """The mAP of each stage at each tIoU.

    Args:
        table: of `evaluation.summary`: index stage, columns tIoU, percent; its averages over ranges are left out.
    """
    table = table[[name for name in table.columns if ":" not in str(name)]]
    means = ", ".join(f"{stage} {row.mean():.1f}" for stage, row in table.iterrows())
    figure, (axis,) = new_figure(f"mAP in percent at each tIoU threshold. Averages: {means or 'none'}.")
    for i, (stage, row) in enumerate(table.iterrows()):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        axis.plot(row.index.astype(float), row, label=stage, markersize=5, **style)
    if len(table):
        axis.legend()
    axis.set_ylim(bottom=0)
    finish(axis, "tIoU", "mAP (%)", empty=not table.size)
    return figure


def class_ap(table: pd.DataFrame) -> Figure:
    """The average precision of each class in each stage, one line a class.

    Args:
        table: index class, a column for each stage, percent; sorted by the last stage.
    """
    table = (table.sort_values(table.columns[-1], ascending=False) if table.size else table)[:MOST_CLASSES]
    ends = f" Best {table.index[0]}, worst {table.index[-1]}." if table.size else ""
    alt = f"Average precision of {len(table)} classes in the stages {', '.join(map(str, table.columns))}.{ends}"
    figure, (axis,) = new_figure(alt, height=1.3 + 0.22 * len(table))
    y = np.arange(len(table))
    if table.size:
        axis.hlines(y, table.min(axis=1), table.max(axis=1), color=GREY, linewidth=1.2)
    for i, (stage, values) in enumerate(table.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        axis.plot(values, y, linestyle="none", markersize=5, label=stage, **style)
    row_names(axis, table.index)
    legend_above(axis)
    finish(axis, "average precision (%)", "class", empty=not table.size)
    return figure


def error_kinds(table: pd.DataFrame) -> Figure:
    """What the best detections of each stage are, stacked, and how many actions none of them finds.

    Args:
        table: index stage, columns those of `errors.error_shares`, shares; the last one is "missed".
    """
    kinds, missed = table.columns[:-1], table[table.columns[-1:]].to_numpy().ravel()
    facts = "; ".join(
        f"{stage}: " + ", ".join(f"{kind} {100 * value:.0f} %" for kind, value in row.items())
        for stage, row in table.iterrows()
    )
    alt = f"What the best detections are, as many as there are actions. {facts or 'No stage'}."
    figure, (left, right) = new_figure(alt, columns=2, height=1.6 + 0.4 * len(table), sharey=True, width_ratios=[3, 1])
    begin = np.zeros(len(table))
    for kind, colour in zip(kinds, [GREEN, SKY, BLUE, ORANGE, GREY], strict=False):
        bars = left.barh(range(len(table)), 100 * table[kind], left=begin, color=colour, label=kind)
        left.bar_label(
            bars, [f"{100 * v:.0f}" if v >= 0.05 else "" for v in table[kind]], label_type="center", fontsize=8
        )
        begin += 100 * table[kind].to_numpy()
    right.barh(range(len(table)), 100 * missed, color=VERMILLION)
    row_names(left, table.index)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    finish(left, "best detections (%)", "stage", empty=not len(table))
    finish(right, "missed actions (%)", "")
    return figure


def length_ap(table: pd.DataFrame) -> Figure:
    """The mAP of each stage for short and for long actions.

    Args:
        table: index stage, columns ranges of length, of `errors.average_precision_by_length`, shares.
    """
    facts = "; ".join(
        f"{stage} from {100 * row.iloc[0]:.0f} to {100 * row.iloc[-1]:.0f}" for stage, row in table.iterrows()
    )
    figure, (axis,) = new_figure(f"mAP in percent, from the shortest to the longest actions: {facts or 'none'}.")
    for (stage, row), colour, marker in zip(table.iterrows(), cycle(COLOURS), cycle(MARKERS)):
        axis.plot(range(len(row)), 100 * row, label=stage, color=colour, marker=marker)
    axis.set_xticks(range(table.shape[1]), table.columns)
    axis.set_ylim(bottom=0)
    legend_above(axis)
    finish(axis, "length of the action", "mAP (%)", empty=not table.size)
    return figure


def precision_recall(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Precision over recall, as more and more detections count; with one curve the area, AP.

    Args:
        curves: name -> frame of `evaluation.precision_recall`: precision and recall in [0, 1], in the ranking's order.
    """
    ends = (
        f"{name} ends at recall {curve.recall.iloc[-1]:.2f} with precision {curve.precision.iloc[-1]:.2f}"
        for name, curve in curves.items()
        if len(curve)
    )
    figure, (axis,) = new_figure(f"Precision over recall: {'; '.join(ends) or 'no detection'}.", height=3.4)
    for i, (name, curve) in enumerate(curves.items()):
        few = len(curve) <= 12
        axis.plot(curve.recall, curve.precision, "o-" if few else "-", color=COLOURS[i % len(COLOURS)], label=name)
        if few:
            for rank, point in enumerate(curve.itertuples(), 1):
                axis.annotate(str(rank), (point.recall, point.precision), (4, 5), textcoords="offset points")
        if len(curves) == 1 and len(curve):
            falling = np.maximum.accumulate(curve.precision.to_numpy()[::-1])[::-1]
            axis.fill_between(
                np.r_[0, curve.recall], np.r_[falling[0], falling], step="pre", color=SKY, alpha=0.3, label="area: AP"
            )
    axis.set(xlim=(0, 1.03), ylim=(0, 1.12))
    legend_above(axis)
    finish(axis, "recall", "precision", empty=not any(map(len, curves.values())))
    return figure


def class_balance(dataset: Dataset) -> Figure:
    """How many segments every class has in training and in test videos."""
    subset = dataset.segments.video.map(dataset.videos.subset)
    table = pd.crosstab(dataset.segments.label, subset).reindex(columns=["train", "test"], fill_value=0)
    table = table.loc[table.sum(axis=1).sort_values(ascending=False).index][:MOST_CLASSES]
    ends = f", most {table.index[0]}, fewest {table.index[-1]}" if len(table) else ""
    figure, (axis,) = new_figure(
        f"Segments of {len(table)} classes of {dataset.name}{ends}.", height=1.3 + 0.22 * len(table)
    )
    for shift, (name, values), colour in zip((-0.2, 0.2), table.items(), (BLUE, ORANGE), strict=True):
        axis.barh(np.arange(len(table)) + shift, values, 0.38, color=colour, label=name)
    row_names(axis, table.index)
    legend_above(axis)
    finish(axis, "segments", "class", empty=not len(table))
    return figure


def differences(table: pd.DataFrame, unit: str = "points of average mAP") -> Figure:
    """What each change does to a result, paired by seed: a panel a data set, a line a change, with its interval.

    Args:
        table: of `ablation.compare`: dataset, title, difference, low, high.
        unit: of the differences.
    """
    datasets, titles = list(dict.fromkeys(table.dataset)), list(dict.fromkeys(table.title))
    facts = "; ".join(
        f"{row.dataset}, {row.title}: {row.difference:+.1f}"
        + ("" if np.isnan(row.low) else f" [{row.low:+.1f}, {row.high:+.1f}]")
        for row in table.itertuples()
    )
    alt = f"Differences to the full system in {unit}, with intervals. {facts or 'None'}."
    figure, axes = new_figure(
        alt, columns=max(len(datasets), 1), height=1.2 + 0.3 * len(titles), sharex=True, sharey=True
    )
    for axis, name, colour in zip(axes, datasets or [""], cycle(COLOURS)):
        part = table[table.dataset == name]
        y = [titles.index(title) for title in part.title]
        axis.axvline(0, color=BLACK, linewidth=1)
        axis.hlines(y, part.low, part.high, color=colour, linewidth=2)
        axis.plot(part.difference, y, "o", color=colour)
        axis.set_title(name)
        row_names(axis, titles)
        finish(axis, unit, "change" if axis is axes[0] else "", empty=part.empty)
    return figure


def label_quality(table: pd.DataFrame) -> Figure:
    """How the labels of the training videos change from stage to stage: a panel a measure, a line a data set.

    Args:
        table: tidy: dataset, stage, measure, value; a row a run; stages and measures in order of appearance.
    """
    measures, stages = list(dict.fromkeys(table.measure)), list(dict.fromkeys(table.stage))
    means = table.groupby(["dataset", "stage", "measure"], sort=False).value.mean()
    facts = "; ".join(f"{' '.join(map(str, key))} {value:.1f}" for key, value in means.items())
    alt = f"Quality of the labels of training videos by stage. {facts or 'None'}."
    figure, axes = new_figure(alt, columns=max(len(measures), 1), height=3.2)
    for axis, measure in zip(axes, measures or ["quality"], strict=True):
        groups = table[table.measure == measure].groupby("dataset", sort=False)
        for (name, part), colour, marker in zip(groups, cycle(COLOURS), cycle(MARKERS)):
            values = part.groupby("stage").value.agg(["mean", "std"]).reindex(stages)
            spread, style = values["std"].fillna(0), {"color": colour, "marker": marker, "capsize": 3}
            axis.errorbar(range(len(stages)), values["mean"], spread, label=name, **style)
        axis.set_xticks(range(len(stages)), stages, rotation=30, ha="right")
        finish(axis, "labels after", measure, empty=table.empty)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure
