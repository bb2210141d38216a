"""Figures of trainings and of their results."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
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
    DescribedFigure,
    drawn,
    finish,
    legend_above,
    new_figure,
    row_names,
    rows_in_words,
)

MAX_CLASSES = 40
"""Maximum number of rows of a figure with one row per class; the first classes of its order are shown."""


KIND_COLOURS = {
    "right": GREEN,
    "double": SKY,
    "localisation": BLUE,
    "wrong label": ORANGE,
    "background": GREY,
    "wrong": VERMILLION,
}
"""Colours of the kinds of detections; "wrong" is any kind that is not right."""


def training_curves(log: pd.DataFrame, switches: Iterable[int] = ()) -> DescribedFigure:
    """Losses of a training, one panel each: single steps in grey, the running mean in blue.

    Args:
        log: of a training: step and any number of losses.
        switches: steps at which the labels change; a dashed line each.
    """
    switches = list(switches)
    names = [name for name in log.columns if name != "step"]
    ends = []
    for name, column in log[names].items():
        values = column.dropna()  # of a skipped step there are none
        if len(values):
            ends.append(f"{name} from {values.iloc[0]:.3g} to {values.iloc[-1]:.3g}")
    alt = f"Losses over {len(log)} training steps: {', '.join(ends) or 'none'}."
    if switches:
        alt += f" Dashed lines where the labels change, at steps {', '.join(map(str, switches))}."
    figure, axes = new_figure(alt, columns=max(len(names), 1))
    for axis, name in zip(axes, names or ["loss"], strict=True):
        values = log.get(name, pd.Series(dtype=float))
        if len(values):
            window = len(log) // 20 + 1
            mean = values.rolling(window, min_periods=1, center=True).mean()
            axis.plot(log.step, values, color=GREY, linewidth=0.6, alpha=0.7)
            axis.plot(log.step, mean, color=BLUE)
            for step in switches:
                axis.axvline(step, color=BLACK, linestyle="--", linewidth=1)
        finish(axis, "step", name, empty=not len(values))
    return figure


def quality_bars(table: pd.DataFrame) -> DescribedFigure:
    """Grouped bars, for example of precision and recall of the labels after each stage.

    Args:
        table: index stage, a column for each measure in [0, 1].
    """
    figure, (axis,) = new_figure(f"Bars of the quality of labels. {rows_in_words(table) or 'No stage'}.")
    width = 0.8 / max(table.shape[1], 1)
    for i, (name, column) in enumerate(table.items()):
        x = np.arange(len(table)) + (i - (table.shape[1] - 1) / 2) * width
        bars = axis.bar(x, column, width * 0.95, color=COLOURS[i % len(COLOURS)], label=name)
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    axis.set_xticks(range(len(table)), table.index)
    legend_above(axis)
    finish(axis, "stage", "share", empty=not table.size)
    return figure


def ema_curve(
    raw: pd.Series, ema: pd.Series, xlabel: str = "epoch", ylabel: str = "average mAP (%)"
) -> DescribedFigure:
    """A measure of the student and of the moving average of its weights over training.

    Args:
        raw: of the student, indexed by epoch or step.
        ema: of the moving average, indexed likewise.
        xlabel: name of the index.
        ylabel: name of the measure.
    """
    ends = []
    for name, values in (("student", raw), ("EMA", ema)):
        if len(values):
            ends.append(f"{name} ends at {values.iloc[-1]:.3g}")
    facts = "; ".join(ends) or "No values"
    figure, (axis,) = new_figure(f"{ylabel} by {xlabel} of the student and its moving average. {facts}.")
    size = 4 if len(raw) <= 50 else 0  # markers for epochs, a line for steps
    axis.plot(raw.index, raw, color=ORANGE, marker="o", markersize=size, label="student")
    axis.plot(ema.index, ema, color=BLUE, marker="s", markersize=size, label="moving average of its weights (EMA)")
    axis.legend()
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(axis, xlabel, ylabel, empty=not len(raw) + len(ema))
    return figure


def memory(shares: pd.DataFrame) -> DescribedFigure:
    """How much of the random start is left in a moving average after each step.

    Args:
        shares: index step, a column for each kind of decay, in [0, 1].
    """
    facts = [f"{name} ends at {values.iloc[-1]:.2f}" for name, values in shares.items() if len(values)]
    alt = f"Share of the random start in the moving average by step. {'; '.join(facts) or 'No steps'}."
    figure, (axis,) = new_figure(alt)
    for (name, values), colour, style in zip(shares.items(), cycle(COLOURS), cycle(["-", "--", "-.", ":"])):
        axis.plot(values.index, values, style, color=colour, linewidth=2, label=name)
    axis.set_ylim(0, 1.03)
    legend_above(axis)
    finish(axis, "step", "share of the start", empty=not len(shares))
    return figure


def average_precision(table: pd.DataFrame) -> DescribedFigure:
    """The mAP of each stage at each tIoU.

    Args:
        table: of `evaluation.summary`: index stage, columns tIoU, percent; averages over ranges are not drawn.
    """
    table = table[[name for name in table.columns if ":" not in str(name)]]
    means = ", ".join(f"{stage} {row.mean():.1f}" for stage, row in table.iterrows())
    figure, (axis,) = new_figure(f"mAP in percent at each tIoU threshold. Averages: {means or 'none'}.")
    for (stage, row), colour, marker in zip(table.iterrows(), cycle(COLOURS), cycle(MARKERS)):
        axis.plot(row.index.astype(float), row, label=stage, markersize=5, color=colour, marker=marker)
    if len(table):
        axis.legend()
    axis.set_ylim(bottom=0)
    finish(axis, "tIoU", "mAP (%)", empty=not table.size)
    return figure


def class_ap(table: pd.DataFrame) -> DescribedFigure:
    """The average precision of each class in each stage, one row per class.

    Args:
        table: index class, a column for each stage, percent; sorted by the last stage.
    """
    ends = ""
    if table.size:
        table = table.sort_values(table.columns[-1], ascending=False)[:MAX_CLASSES]
        ends = f" Best {table.index[0]}, worst {table.index[-1]}."
    stages = ", ".join(str(name) for name in table.columns)
    alt = f"Average precision of {len(table)} classes in the stages {stages}.{ends}"
    figure, (axis,) = new_figure(alt, height=1.3 + 0.22 * len(table))
    y = np.arange(len(table))
    if table.size:
        axis.hlines(y, table.min(axis=1), table.max(axis=1), color=GREY, linewidth=1.2)
    for (stage, values), colour, marker in zip(table.items(), cycle(COLOURS), cycle(MARKERS)):
        axis.plot(values, y, linestyle="none", markersize=5, label=stage, color=colour, marker=marker)
    row_names(axis, table.index)
    legend_above(axis)
    finish(axis, "average precision (%)", "class", empty=not table.size)
    return figure


def error_kinds(table: pd.DataFrame) -> DescribedFigure:
    """Kinds of the best detections of each stage as stacked bars, and the share of missed actions.

    Args:
        table: index stage, columns of `evaluation.error_shares`, shares; the last one is "missed".
    """
    kinds = table.columns[:-1]
    missed = table[table.columns[-1:]].to_numpy().ravel()
    facts = []
    for stage, row in table.iterrows():
        shares = ", ".join(f"{kind} {100 * value:.0f} %" for kind, value in row.items())
        facts.append(f"{stage}: {shares}")
    alt = f"Kinds of the best detections, as many as there are actions. {'; '.join(facts) or 'No stage'}."
    figure, (left, right) = new_figure(alt, columns=2, height=1.6 + 0.4 * len(table), sharey=True, width_ratios=[3, 1])
    begin = np.zeros(len(table))
    for kind, colour in zip(kinds, KIND_COLOURS.values(), strict=False):
        bars = left.barh(range(len(table)), 100 * table[kind], left=begin, color=colour, label=kind)
        # A bar of less than 5 % has no room for its number.
        numbers = [f"{100 * value:.0f}" if value >= 0.05 else "" for value in table[kind]]
        left.bar_label(bars, numbers, label_type="center", fontsize=8)
        begin += 100 * table[kind].to_numpy()
    right.barh(range(len(table)), 100 * missed, color=VERMILLION)
    row_names(left, table.index)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    finish(left, "best detections (%)", "stage", empty=not len(table))
    finish(right, "missed actions (%)", "")
    return figure


def judged(detections: pd.DataFrame, ground_truth: pd.DataFrame, kinds: Sequence[str]) -> DescribedFigure:
    """True segments of one video, and below them its detections, a row and a kind each.

    Args:
        detections: label, score, start, end; may be empty.
        ground_truth: label, start, end; may be empty.
        kinds: what each detection is, of `KIND_COLOURS`.
    """
    names = [f"{row.label} {row.score:g}" for row in detections.itertuples()]
    facts = [f"{name} is {kind}" for name, kind in zip(names, kinds, strict=True)]
    alt = f"{len(ground_truth)} true segments and the kinds of detections. {'; '.join(facts) or 'No detection'}."
    figure, (axis,) = new_figure(alt, height=1.4 + 0.32 * len(names))
    for row in ground_truth.itertuples():
        axis.barh(0, row.end - row.start, 0.7, left=row.start, color=BLACK)
        axis.text((row.start + row.end) / 2, 0, row.label, color="white", ha="center", va="center", fontsize=9)
        axis.axvspan(row.start, row.end, color=GREY, alpha=0.15, linewidth=0)
    for y, (row, kind) in enumerate(zip(detections.itertuples(), kinds, strict=True), start=1):
        axis.barh(y, row.end - row.start, 0.7, left=row.start, color=KIND_COLOURS[kind])
        axis.annotate(kind, (row.end, y), (4, 0), textcoords="offset points", va="center", fontsize=10)
    end = max([*detections.end, *ground_truth.end], default=1.0)
    axis.set_xlim(0, 1.2 * end)  # with room for the name of the kind
    row_names(axis, ["true segments", *names])
    finish(axis, "time (s)", "detection", empty=not len(names) + len(ground_truth))
    return figure


def length_ap(table: pd.DataFrame) -> DescribedFigure:
    """The mAP of each stage for short and for long actions.

    Args:
        table: index stage, columns ranges of length, of `evaluation.diagnosis.average_precision_by_length`, shares.
    """
    facts = []
    for stage, row in table.iterrows():
        facts.append(f"{stage} from {100 * row.iloc[0]:.0f} to {100 * row.iloc[-1]:.0f}")
    alt = f"mAP in percent, from the shortest to the longest actions: {'; '.join(facts) or 'none'}."
    figure, (axis,) = new_figure(alt)
    for (stage, row), colour, marker in zip(table.iterrows(), cycle(COLOURS), cycle(MARKERS)):
        axis.plot(range(len(row)), 100 * row, label=stage, color=colour, marker=marker)
    axis.set_xticks(range(table.shape[1]), table.columns)
    axis.set_ylim(bottom=0)
    legend_above(axis)
    finish(axis, "length of the action", "mAP (%)", empty=not table.size)
    return figure


def precision_recall(curves: Mapping[str, pd.DataFrame]) -> DescribedFigure:
    """Precision over recall. A single curve shows the area of its AP, a curve of few points their ranks.

    Args:
        curves: name -> frame of `evaluation.precision_recall`: precision and recall in [0, 1], by falling score.
    """
    ends = []
    for name, curve in curves.items():
        if len(curve):
            recall, precision = curve.recall.iloc[-1], curve.precision.iloc[-1]
            ends.append(f"{name} ends at recall {recall:.2f} with precision {precision:.2f}")
    figure, (axis,) = new_figure(f"Precision over recall: {'; '.join(ends) or 'no detection'}.", height=3.4)
    for i, (name, curve) in enumerate(curves.items()):
        few = len(curve) <= 12
        axis.plot(curve.recall, curve.precision, "o-" if few else "-", color=COLOURS[i % len(COLOURS)], label=name)
        if few:
            for rank, point in enumerate(curve.itertuples(), 1):
                axis.annotate(str(rank), (point.recall, point.precision), (4, 5), textcoords="offset points")
        if len(curves) == 1 and len(curve):
            # Interpolated precision: the highest one at this recall or any higher one.
            envelope = np.maximum.accumulate(curve.precision.to_numpy()[::-1])[::-1]
            x = np.r_[0, curve.recall]
            y = np.r_[envelope[0], envelope]
            axis.fill_between(x, y, step="pre", color=SKY, alpha=0.3, label="area: AP")
    axis.set(xlim=(0, 1.03), ylim=(0, 1.12))
    legend_above(axis)
    finish(axis, "recall", "precision", empty=not any(len(curve) for curve in curves.values()))
    return figure


def class_balance(dataset: Dataset) -> DescribedFigure:
    """Number of segments of each class in training and in test videos."""
    subset = dataset.segments.video.map(dataset.videos.subset)
    table = pd.crosstab(dataset.segments.label, subset).reindex(columns=["train", "test"], fill_value=0)
    table = table.loc[table.sum(axis=1).sort_values(ascending=False).index][:MAX_CLASSES]
    ends = f", most {table.index[0]}, fewest {table.index[-1]}" if len(table) else ""
    alt = f"Segments of {len(table)} classes of {dataset.name}{ends}."
    figure, (axis,) = new_figure(alt, height=1.3 + 0.22 * len(table))
    for shift, (name, values), colour in zip((-0.2, 0.2), table.items(), (BLUE, ORANGE), strict=True):
        axis.barh(np.arange(len(table)) + shift, values, 0.38, color=colour, label=name)
    row_names(axis, table.index)
    legend_above(axis)
    finish(axis, "segments", "class", empty=not len(table))
    return figure


def differences(table: pd.DataFrame, unit: str = "points of average mAP") -> DescribedFigure:
    """Effect of each change on a result, paired by seed: a panel per data set, a row per change, with its interval.

    The scale is linear up to `LINEAR` points and logarithmic beyond, so that small differences can be seen beside large
    ones. A full dot is significant after Holm's correction, an open one is not.

    Args:
        table: of `ablation.compare`: dataset, title, difference, low, high, and perhaps p.
        unit: of the differences.
    """
    datasets = list(dict.fromkeys(table.dataset))
    titles = list(dict.fromkeys(table.title))
    facts = []
    for row in table.itertuples():
        facts.append(f"{row.dataset}, {row.title}: {_with_interval(row)}")
    alt = f"Differences in {unit}, with intervals. {'; '.join(facts) or 'None'}."
    height = 1.2 + 0.36 * len(titles)
    figure, axes = new_figure(alt, columns=max(len(datasets), 1), height=height, sharex=True, sharey=True)
    for axis, name, colour in zip(axes, datasets or [""], cycle(COLOURS)):
        part = table[table.dataset == name]
        y = np.array([titles.index(title) for title in part.title])
        axis.axvline(0, color=BLACK, linewidth=1)
        axis.hlines(y, part.low, part.high, color=colour, linewidth=2)
        axis.scatter(part.difference, y, color=_filled(part, colour), edgecolors=colour, zorder=3)
        axis.set_title(name)
        row_names(axis, titles)
        axis.set_yticklabels([fill(title, 28, max_lines=2, placeholder="…") for title in titles])
        finish(axis, unit, "change" if axis is axes[0] else "", empty=part.empty)
    _scale_for_differences(axes[0], "x", table)
    return figure


LINEAR = 2
"""Points up to which the scale of differences is linear."""


def _scale_for_differences(axis: Axes, which: str, table: pd.DataFrame) -> None:
    """A scale on which differences of one point and of fifty can be seen, for all axes that share it."""
    ends = np.nan_to_num(table[["difference", "low", "high"]].to_numpy(float))
    low, high = min(ends.min(initial=0), -LINEAR), max(ends.max(initial=0), LINEAR)
    furthest = max(-low, high)
    numbers = (-50, -10, -LINEAR, 0, LINEAR, 10, 50) if furthest >= 10 else (-5, -LINEAR, 0, LINEAR, 5)
    places = [place for place in numbers if 1.3 * low <= place <= 1.3 * high]
    set_scale, scaled = (axis.set_xscale, axis.xaxis) if which == "x" else (axis.set_yscale, axis.yaxis)
    set_scale("symlog", linthresh=LINEAR, linscale=0.8)
    scaled.set_ticks(places, labels=[f"{place:g}" for place in places])
    (axis.set_xlim if which == "x" else axis.set_ylim)(1.3 * low, 1.3 * high)


def _with_interval(row: Any) -> str:
    """A difference [interval], in words for an alt text."""
    between = "" if np.isnan(row.low) else f" [{row.low:+.1f}, {row.high:+.1f}]"
    return f"{row.difference:+.1f}{between}"


def _filled(part: pd.DataFrame, colour: str) -> list[str]:
    """Colours of dots: white inside, unless the difference is significant."""
    p = part.get("p", pd.Series(0.0, part.index))
    return [colour if value <= 0.05 else "white" for value in p]


def stage_steps(values: pd.DataFrame, steps: pd.DataFrame, unit: str = "average mAP") -> DescribedFigure:
    """What each stage adds: above, every seed and the mean; below, differences to the stage before.

    Args:
        values: dataset, title of the stage, seed, value; stages in their order.
        steps: of `ablation.compare`, each stage against the one before.
        unit: of the values.
    """
    datasets = list(dict.fromkeys(values.dataset))
    titles = list(dict.fromkeys(values.title))
    steps = steps[steps.title.isin(titles) & (steps.title != steps.against)]
    facts = []
    for row in steps.itertuples():
        facts.append(f"{row.dataset}, {row.title} - {row.against}: {_with_interval(row)}")
    alt = f"{unit} of each seed in each stage, and differences to the stage before, with intervals. "
    alt += f"{'; '.join(facts) or 'None'}."
    figure, axes = new_figure(alt, rows=2, columns=max(len(datasets), 1), height=5.2, sharex=True)
    columns = max(len(datasets), 1)
    for column, (name, colour) in enumerate(zip(datasets or [""], cycle(COLOURS))):
        above, below = axes[column], axes[columns + column]
        table = values[values.dataset == name].pivot(index="title", columns="seed", values="value").reindex(titles)
        above.plot(range(len(titles)), table, color=GREY, linewidth=0.8)
        above.plot(range(len(titles)), table.mean(axis=1), "o-", color=colour, linewidth=2)
        above.set_title(name)
        part = steps[steps.dataset == name]
        x = [titles.index(title) for title in part.title]
        below.axhline(0, color=BLACK, linewidth=1)
        below.vlines(x, part.low, part.high, color=colour, linewidth=2)
        below.scatter(x, part.difference, color=_filled(part, colour), edgecolors=colour, zorder=3)
        below.set_xticks(range(len(titles)), [drawn(title) for title in titles], rotation=30, ha="right")
        if column:
            below.sharey(axes[columns])
        finish(above, "", "" if column else f"{unit} (%)", empty=table.empty)
        finish(below, "stage", "" if column else "- stage before", empty=part.empty)
    _scale_for_differences(axes[columns], "y", steps)
    return figure


def resampled(values: Mapping[str, np.ndarray], unit: str = "mAP (%)") -> DescribedFigure:
    """A measure of some systems on many resamples of the test videos, and the differences of two of them.

    Args:
        values: system -> its values (R,), of the same resamples for all systems.
        unit: of the values.
    """
    names = list(values)
    facts = [
        f"{name}: mean {np.mean(part):.1f}, standard deviation {np.std(part):.1f}" for name, part in values.items()
    ]
    gain = values[names[1]] - values[names[0]] if len(names) > 1 else np.zeros(0)
    if gain.size:
        facts.append(f"difference: mean {gain.mean():.1f}, standard deviation {gain.std():.1f}")
    alt = f"{unit} on resamples of the test videos. {'; '.join(facts) or 'None'}."
    figure, (left, right) = new_figure(alt, columns=2, width_ratios=[3, 2], sharey=True)
    for (name, part), colour in zip(values.items(), cycle(COLOURS)):
        left.hist(part, bins=20, color=colour, alpha=0.6, label=drawn(name))
    right.hist(gain, bins=20, color=GREEN, alpha=0.6)
    right.axvline(0, color=BLACK, linewidth=1)
    legend_above(left)
    finish(left, unit, "resamples", empty=not values)
    finish(right, "difference", "")
    return figure


def label_quality(table: pd.DataFrame) -> DescribedFigure:
    """Quality of the labels of the training videos after each stage: a panel per measure, a line per data set.

    Args:
        table: dataset, stage, measure, value; a row per value of a run. Stages and measures are drawn in the order of
            their first rows.
    """
    measures = list(dict.fromkeys(table.measure))
    stages = list(dict.fromkeys(table.stage))
    means = table.groupby(["dataset", "stage", "measure"], sort=False).value.mean()
    facts = []
    for (dataset, stage, measure), value in means.items():
        facts.append(f"{dataset} {stage} {measure} {value:.1f}")
    alt = f"Quality of the labels of training videos by stage. {'; '.join(facts) or 'None'}."
    columns = min(max(len(measures), 1), 2)
    rows = -(-max(len(measures), 1) // columns)
    figure, axes = new_figure(alt, rows=rows, columns=columns, height=0.6 + 2.6 * rows)
    for empty in axes[max(len(measures), 1) :]:
        empty.remove()
    for axis, measure in zip(axes, measures or ["quality"], strict=False):
        groups = table[table.measure == measure].groupby("dataset", sort=False)
        for (name, part), colour, marker in zip(groups, cycle(COLOURS), cycle(MARKERS)):
            values = part.groupby("stage").value.agg(["mean", "std"]).reindex(stages)
            spread = values["std"].fillna(0)  # of one seed it is not defined
            axis.errorbar(
                range(len(stages)), values["mean"], spread, label=name, color=colour, marker=marker, capsize=3
            )
        axis.set_xticks(range(len(stages)), stages, rotation=30, ha="right")
        finish(axis, "labels after", measure, empty=table.empty)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure
