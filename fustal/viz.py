"""Every figure of the notebooks. Each function returns a matplotlib Figure with a text for those who cannot see it.

The text is the attribute `alt_text`; `show` puts it into the notebook beside the picture, `save` into the PNG file.
Colours are those of Okabe and Ito (2008), which colour-blind people can tell apart; times are in seconds.
"""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fustal.annotations import Dataset
from fustal.files import atomic
from fustal.segments import tiou_matrix

BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY = (
    *("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"),
    *("#000000", "#999999"),
)
COLOURS = [BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK]
MARKERS = "osD^vP*"
MOST_CLASSES = 40
"""A figure with one row a class shows so many, the first of its order."""


def show(figure: Figure) -> None:
    """Displays a figure in a notebook, as an image with alt text."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90, format="png")
    source = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img alt="{html.escape(figure.alt_text)}" src="data:image/png;base64,{source}">'
    display({"text/html": image, "text/plain": figure.alt_text}, raw=True)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, its alt text in the metadata (Description)."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Description": figure.alt_text})


def training_curves(log: pd.DataFrame) -> Figure:
    """One panel a loss: each step in grey, the running mean in blue.

    Args:
        log: of `training.fit`: step and any number of losses.
    """
    names = [name for name in log.columns if name != "step"]
    ends = ", ".join(f"{name} from {v.iloc[0]:.3g} to {v.iloc[-1]:.3g}" for name, v in log[names].items() if len(v))
    figure, axes = _figure(f"Losses over {len(log)} training steps: {ends or 'none'}.", columns=max(len(names), 1))
    for axis, name in zip(axes, names or ["loss"], strict=True):
        values = log.get(name, pd.Series(dtype=float))
        if len(values):
            axis.plot(log.step, values, color=GREY, linewidth=0.6, alpha=0.7)
            axis.plot(log.step, values.rolling(len(log) // 20 + 1, min_periods=1, center=True).mean(), color=BLUE)
        _finish(axis, "step", name, empty=not len(values))
    return figure


def activation(
    cas: np.ndarray,
    actionness: np.ndarray,
    times: np.ndarray,
    thresholds: Sequence[float],
    proposals: pd.DataFrame,
    truth: pd.DataFrame,
) -> Figure:
    """CAS of one class and actionness of one video over time; below, what the thresholds make of them, and the truth.

    Args:
        cas: (T,) of the class, normalised.
        actionness: (T,), normalised.
        times: (T,) centres of the snippets, s.
        thresholds: drawn as fine lines.
        proposals: start, end, perhaps score.
        truth: start, end.
    """
    alt = (
        f"Class activation and actionness of one video over {len(times)} snippets; below, {len(proposals)} proposals "
        f"and {len(truth)} true segments."
    )
    figure, (top, bottom) = _figure(alt, rows=2, height=4.2, sharex=True, height_ratios=[3, 1.4])
    top.hlines(thresholds, 0, 1, transform=top.get_yaxis_transform(), color=GREY, linewidth=0.4, alpha=0.6)
    top.plot(times, actionness, color=ORANGE, label="actionness")
    top.plot(times, cas, color=BLUE, label="CAS of the class")
    _legend_above(top)
    _finish(top, "", "activation (normalised)", empty=not len(times))
    _bar_row(bottom, 0, proposals, BLUE)
    _bar_row(bottom, 1, truth, BLACK)
    _row_names(bottom, ["proposals", "truth"])
    _finish(bottom, "time (s)", "segments")
    return figure


def timeline(rows: Mapping[str, pd.DataFrame], duration: float) -> Figure:
    """What every stage says about one video: a row each, a lane and a colour a class, paler at lower scores.

    Args:
        rows: name of the row (truth, proposals, pseudo labels, student, …) -> start, end, label, perhaps score.
        duration: s.
    """
    counts = ", ".join(f"{name} {len(frame)}" for name, frame in rows.items())
    figure, (axis,) = _figure(
        f"Segments of one video of {duration:.0f} s by stage: {counts}.", height=1.2 + 0.6 * len(rows)
    )
    labels = list(dict.fromkeys(label for frame in rows.values() for label in frame.get("label", [])))
    colours = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(labels)}
    lane = 0.8 / max(len(labels), 1)
    for y, frame in enumerate(rows.values()):
        for i, label in enumerate(labels):
            part = frame[frame["label"] == label] if len(frame) else frame
            _bar_row(axis, y + (i + 0.5) * lane - 0.4, part, colours[label], 0.9 * lane)
    axis.hlines(np.arange(1, len(rows)) - 0.5, 0, duration, color=GREY, linewidth=0.6)
    if labels:
        handles = [Patch(color=colours[label], label=label) for label in labels]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(labels), 5), frameon=False)
    axis.set_xlim(0, duration)
    _row_names(axis, rows)
    _finish(axis, "time (s)", "stage", empty=not labels)
    return figure


def iou_matrix(segments: np.ndarray, score: np.ndarray) -> Figure:
    """How proposals overlap: their tIoU with each other, and its sum, the IoU score.

    Args:
        segments: (N, 2) of one video, s.
        score: (N,) their IoU scores.
    """
    order = np.lexsort((segments[:, 1], segments[:, 0]))
    segments, score = torch.as_tensor(segments[order]), np.asarray(score)[order]
    tiou = tiou_matrix(segments, segments).numpy()
    highest = f", highest IoU score {score.max():.2f}" if len(score) else ""
    alt = f"Matrix of the tIoU of {len(score)} proposals with each other, sorted by start{highest}."
    figure, (left, right) = _figure(alt, columns=2, height=3.8, sharey=True, width_ratios=[2, 1])
    if len(score):
        image = left.imshow(tiou, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        figure.colorbar(image, ax=left, label="tIoU")
    right.barh(np.arange(len(score)), score, height=1.0, color=BLUE)
    _finish(left, "proposal, by start", "proposal, by start", empty=not len(score), grid=False)
    _finish(right, "IoU score", "")
    return figure


def score_histogram(iou_scores: np.ndarray, is_true: np.ndarray, threshold: float) -> Figure:
    """The paper's histogram: how many true and false positives there are at each IoU score, but for the highest 1 %.

    Args:
        iou_scores: (N,) of proposals.
        is_true: (N,) booleans.
        threshold: gamma, drawn as a line.
    """
    iou_scores, is_true = np.asarray(iou_scores, float), np.asarray(is_true, bool)
    below = iou_scores < threshold
    alt = (
        f"Histogram of the IoU score of {is_true.sum()} true and {(~is_true).sum()} false positives; below the "
        f"threshold {threshold:g} lie {(below & is_true).sum()} true and {(below & ~is_true).sum()} false ones."
    )
    figure, (axis,) = _figure(alt)
    bins = np.linspace(0, max(np.quantile(iou_scores, 0.99), threshold) if len(iou_scores) else 1, 31)
    for part, colour, name in ((~is_true, ORANGE, "false positives"), (is_true, BLUE, "true positives")):
        counts = np.histogram(iou_scores[part], bins)[0]
        axis.stairs(counts, bins, color=colour, fill=True, alpha=0.3)
        axis.stairs(counts, bins, color=colour, linewidth=1.8, label=name)
    axis.axvline(threshold, color=BLACK, linestyle="--", label=f"threshold {threshold:g}")
    axis.legend()
    _finish(axis, "IoU score", "proposals", empty=not len(iou_scores))
    return figure


def selection_scatter(
    iou_score: np.ndarray, confidence: np.ndarray, is_true: np.ndarray, gamma: float, eta: float
) -> Figure:
    """Which proposals become pseudo labels: those above both thresholds.

    Args:
        iou_score: (N,).
        confidence: (N,).
        is_true: (N,) booleans.
        gamma: least IoU score.
        eta: the confidence must exceed it.
    """
    iou_score, confidence = np.asarray(iou_score, float), np.asarray(confidence, float)
    is_true = np.asarray(is_true, bool)
    kept = (iou_score >= gamma) & (confidence > eta)
    alt = (
        f"IoU score and confidence of {len(kept)} proposals. "
        f"Of {is_true.sum()} true positives {(kept & is_true).sum()} are kept, "
        f"of {(~is_true).sum()} false ones {(kept & ~is_true).sum()}."
    )
    figure, (axis,) = _figure(alt, height=3.8)
    for part, colour, marker, name in (
        (~is_true, ORANGE, "x", "false positive"),
        (is_true, BLUE, "o", "true positive"),
    ):
        axis.scatter(iou_score[part], confidence[part], s=14, c=colour, marker=marker, alpha=0.6, label=name)
    axis.axvline(gamma, color=BLACK, linestyle="--", linewidth=1)
    axis.axhline(eta, color=BLACK, linestyle="--", linewidth=1)
    axis.legend(loc="upper right")
    _finish(axis, "IoU score", "confidence", empty=not len(kept))
    return figure


def quality_bars(table: pd.DataFrame) -> Figure:
    """Grouped bars, e.g. of precision and recall of the labels after each stage.

    Args:
        table: index stage, a column for each measure in [0, 1].
    """
    facts = "; ".join(
        f"{stage}: " + ", ".join(f"{k} {v:.2f}" for k, v in row.items()) for stage, row in table.iterrows()
    )
    figure, (axis,) = _figure(f"Bars of the quality of labels. {facts or 'No stage'}.")
    width = 0.8 / max(table.shape[1], 1)
    for i, (name, values) in enumerate(table.items()):
        x = np.arange(len(table)) + (i - (table.shape[1] - 1) / 2) * width
        bars = axis.bar(x, values, width * 0.95, color=COLOURS[i % len(COLOURS)], label=name)
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    axis.set_xticks(range(len(table)), table.index)
    _legend_above(axis)
    _finish(axis, "stage", "share", empty=not table.size)
    return figure


def target_assignment(times: np.ndarray, level: np.ndarray, positive: np.ndarray, segments: np.ndarray) -> Figure:
    """Which points of which level of the pyramid have to find the segments of a video.

    Args:
        times: (P,) of the points, s.
        level: (P,).
        positive: (P,) booleans.
        segments: (N, 2), s.
    """
    times, level, positive = np.asarray(times), np.asarray(level), np.asarray(positive, bool)
    by_level = ", ".join(f"level {k}: {positive[level == k].sum()}" for k in np.unique(level))
    figure, (axis,) = _figure(f"Positive points for {len(segments)} segments. {by_level or 'No points'}.", height=3.4)
    for start, end in segments:
        axis.axvspan(start, end, color=SKY, alpha=0.35, linewidth=0)
    axis.scatter(times[~positive], level[~positive], s=5, c=GREY, label="background")
    axis.scatter(times[positive], level[positive], s=26, c=VERMILLION, marker="D", label="positive")
    axis.set_yticks(np.unique(level))
    _legend_above(axis)
    _finish(axis, "time (s)", "level of the pyramid", empty=not len(times))
    return figure


def trident(start_probs: np.ndarray, end_probs: np.ndarray, time: float, bin_seconds: float) -> Figure:
    """How one point finds its boundaries: the probability of each bin, and the expectation that is the boundary.

    Args:
        start_probs: (bins + 1,) of the bins to the left, in order of time: the last one is the point itself.
        end_probs: (bins + 1,) of the bins to the right: the first one is the point itself.
        time: of the point, s.
        bin_seconds: from one bin to the next, s.
    """
    figure, (axis,) = _figure("")
    boundaries = []
    for probs, side, colour, name in ((start_probs, -1, BLUE, "start"), (end_probs, 1, ORANGE, "end")):
        steps = np.arange(len(probs))[::side]
        at = time + side * bin_seconds * steps
        boundaries.append(time + side * bin_seconds * float(np.dot(probs, steps)))
        axis.bar(at, probs, 0.4 * bin_seconds, color=colour, alpha=0.7, label=f"bins of the {name}")
        axis.axvline(boundaries[-1], color=colour, linewidth=2, label=f"{name} {boundaries[-1]:.2f} s")
    axis.axvline(time, color=BLACK, linestyle=":", label=f"point {time:.2f} s")
    axis.legend()
    figure.alt_text = (
        f"Probabilities of the bins around the point at {time:.2f} s; their expectations put the start at "
        f"{boundaries[0]:.2f} s and the end at {boundaries[1]:.2f} s."
    )
    _finish(axis, "time (s)", "probability", empty=not len(start_probs))
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
    figure, (axis,) = _figure(f"{ylabel} by {xlabel} of the student and its moving average. {ends or 'No values'}.")
    size = 4 if len(raw) <= 50 else 0  # markers for epochs, a line for steps
    axis.plot(raw.index, raw, color=ORANGE, marker="o", markersize=size, label="student")
    axis.plot(ema.index, ema, color=BLUE, marker="s", markersize=size, label="moving average of its weights (EMA)")
    axis.legend()
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(axis, xlabel, ylabel, empty=not len(raw) + len(ema))
    return figure


def average_precision(table: pd.DataFrame) -> Figure:
    """The mAP of each stage at each tIoU.

    Args:
        table: of `evaluation.summary`: index stage, columns tIoU, percent; its averages over ranges are left out.
    """
    table = table[[name for name in table.columns if ":" not in str(name)]]
    means = ", ".join(f"{stage} {row.mean():.1f}" for stage, row in table.iterrows())
    figure, (axis,) = _figure(f"mAP in percent at each tIoU threshold. Averages: {means or 'none'}.")
    for i, (stage, row) in enumerate(table.iterrows()):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        axis.plot(row.index.astype(float), row, label=stage, markersize=5, **style)
    if len(table):
        axis.legend()
    axis.set_ylim(bottom=0)
    _finish(axis, "tIoU", "mAP (%)", empty=not table.size)
    return figure


def class_ap(table: pd.DataFrame) -> Figure:
    """The average precision of each class in each stage, one line a class.

    Args:
        table: index class, a column for each stage, percent; sorted by the last stage.
    """
    table = (table.sort_values(table.columns[-1], ascending=False) if table.size else table)[:MOST_CLASSES]
    ends = f" Best {table.index[0]}, worst {table.index[-1]}." if table.size else ""
    alt = f"Average precision of {len(table)} classes in the stages {', '.join(map(str, table.columns))}.{ends}"
    figure, (axis,) = _figure(alt, height=1.3 + 0.22 * len(table))
    y = np.arange(len(table))
    if table.size:
        axis.hlines(y, table.min(axis=1), table.max(axis=1), color=GREY, linewidth=1.2)
    for i, (stage, values) in enumerate(table.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        axis.plot(values, y, linestyle="none", markersize=5, label=stage, **style)
    _row_names(axis, table.index)
    _legend_above(axis)
    _finish(axis, "average precision (%)", "class", empty=not table.size)
    return figure


def precision_recall(precision: np.ndarray, recall: np.ndarray) -> Figure:
    """Precision over recall, as more and more detections count.

    Args:
        precision: (N,) in [0, 1], in the order of the ranking.
        recall: (N,) in [0, 1].
    """
    precision, recall = np.asarray(precision), np.asarray(recall)
    last = f"ends at recall {recall[-1]:.2f} with precision {precision[-1]:.2f}" if len(recall) else "is empty"
    figure, (axis,) = _figure(f"Curve of precision over recall; it {last}.", height=3.4)
    axis.step(recall, precision, where="post", color=BLUE)
    axis.set(xlim=(0, 1), ylim=(0, 1.05))
    _finish(axis, "recall", "precision", empty=not len(recall))
    return figure


def class_balance(dataset: Dataset) -> Figure:
    """How many segments every class has in training and in test videos."""
    subset = dataset.segments.video.map(dataset.videos.subset)
    table = pd.crosstab(dataset.segments.label, subset).reindex(columns=["train", "test"], fill_value=0)
    table = table.loc[table.sum(axis=1).sort_values(ascending=False).index][:MOST_CLASSES]
    ends = f", most {table.index[0]}, fewest {table.index[-1]}" if len(table) else ""
    figure, (axis,) = _figure(
        f"Segments of {len(table)} classes of {dataset.name}{ends}.", height=1.3 + 0.22 * len(table)
    )
    for shift, (name, values), colour in zip((-0.2, 0.2), table.items(), (BLUE, ORANGE), strict=True):
        axis.barh(np.arange(len(table)) + shift, values, 0.38, color=colour, label=name)
    _row_names(axis, table.index)
    _legend_above(axis)
    _finish(axis, "segments", "class", empty=not len(table))
    return figure


def _figure(
    alt_text: str, rows: int = 1, columns: int = 1, height: float = 3.0, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure outside of pyplot, so that none stays open, and its axes, row by row."""
    figure = Figure(figsize=(max(6.8, 2.6 * columns), height), layout="constrained")
    figure.alt_text = alt_text
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def _finish(axis: Axes, xlabel: str, ylabel: str, *, empty: bool = False, grid: bool = True) -> None:
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    if grid:
        axis.grid(color="#dddddd", linewidth=0.6)
    if empty:
        axis.text(0.5, 0.5, "nothing to show", transform=axis.transAxes, ha="center", va="center", color=GREY)


def _legend_above(axis: Axes) -> None:
    if names := axis.get_legend_handles_labels()[1]:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(len(names), 4), frameon=False)


def _row_names(axis: Axes, names: Iterable[str]) -> None:
    """Names on the y axis, the first on top."""
    names = list(names)
    axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))


def _bar_row(axis: Axes, y: float, frame: pd.DataFrame, colour: str, height: float = 0.7) -> None:
    """Segments as bars around y; those of lower score are paler."""
    score = frame["score"].to_numpy(float) if "score" in frame else np.ones(len(frame))
    alpha = 0.15 + 0.75 * np.clip(score / max(score.max(initial=0), 1e-9), 0, 1)
    spans = np.stack([frame.start, frame.end - frame.start], axis=1) if len(frame) else []
    paint = {"facecolors": [(colour, a) for a in alpha], "edgecolors": colour, "linewidth": 0.5}
    axis.broken_barh(spans, (y - height / 2, height), **paint)
