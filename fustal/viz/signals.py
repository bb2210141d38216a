"""Figures of one video, or of one piece of the method: what a stage sees and what it makes of it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fustal.segments import tiou_matrix
from fustal.viz.common import (
    BLACK,
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    SKY,
    VERMILLION,
    bar_row,
    drawn,
    finish,
    legend_above,
    new_figure,
    row_names,
)

LINE, NAMED_LINES = 90, 6
"""Letters in a line of a timeline's legend, and its lines."""


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
        thresholds: drawn as lines, fine ones when there are many.
        proposals: start, end, perhaps score.
        truth: start, end.
    """
    alt = (
        f"Class activation and actionness of one video over {len(times)} snippets; below, {len(proposals)} proposals "
        f"and {len(truth)} true segments."
    )
    figure, (top, bottom) = new_figure(alt, rows=2, height=4.2, sharex=True, height_ratios=[3, 1.4])
    fine = {"color": GREY, "linewidth": 0.4, "alpha": 0.6}
    line = fine if len(thresholds) > 3 else {"color": BLACK, "linestyle": "--"}
    top.hlines(thresholds, 0, 1, transform=top.get_yaxis_transform(), **line)
    top.plot(times, actionness, color=ORANGE, label="actionness")
    top.plot(times, cas, color=BLUE, label="CAS of the class")
    legend_above(top)
    finish(top, "", "activation (normalised)", empty=not len(times))
    bar_row(bottom, 0, proposals, BLUE)
    bar_row(bottom, 1, truth, BLACK)
    row_names(bottom, ["proposals", "truth"])
    finish(bottom, "time (s)", "segments")
    return figure


def threshold_runs(curve: np.ndarray, times: np.ndarray, runs: pd.DataFrame) -> Figure:
    """A curve, and the run that each threshold cuts out of it, at the threshold's height; its contrast beside it.

    Args:
        curve: (T,) in [0, 1].
        times: (T,) centres of the snippets, s.
        runs: threshold, start, end (s), score.
    """
    counts = ", ".join(
        f"{count} at {threshold:g}" for threshold, count in runs.threshold.value_counts(sort=False).items()
    )
    figure, (axis,) = new_figure(f"A curve of {len(times)} snippets, cut at thresholds; runs: {counts or 'none'}.")
    axis.plot(times, curve, color=BLUE, marker="o", markersize=4, label="CAS of the class")
    axis.hlines(runs.threshold, runs.start, runs.end, color=ORANGE, linewidth=4, label="runs, with their contrast")
    for run in runs.itertuples():
        axis.annotate(f"{run.score:.2f}", (run.end, run.threshold), (4, -3), textcoords="offset points", fontsize=8)
    if len(times):
        legend_above(axis)
    finish(axis, "time (s)", "activation", empty=not len(times))
    return figure


def embeddings(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Where mined snippets lie, by the two principal directions of their own: a panel a network.

    Args:
        panels: name -> kind of snippet -> embeddings (N, E), of which only the direction counts; easy action and easy
            background first, then the hard ones.
    """
    units = {
        name: {kind: rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12) for kind, rows in kinds.items()}
        for name, kinds in panels.items()
    }
    facts = "; ".join(
        f"{name}, {hard}: mean cosine {(rows @ easy_rows.T).mean():.2f} with {easy}"
        for name, kinds in units.items()
        for hard, rows in list(kinds.items())[2:]
        for easy, easy_rows in list(kinds.items())[:2]
    )
    alt = f"Embeddings of snippets in two dimensions: {', '.join(panels) or 'none'}. {facts}"
    figure, axes = new_figure(alt, columns=max(len(panels), 1), height=3.4)
    looks = [(SKY, "o", 12, "none"), (ORANGE, "s", 12, "none"), (BLUE, "^", 30, BLACK), (VERMILLION, "v", 30, BLACK)]
    for axis, (name, kinds) in zip(axes, units.items(), strict=False):
        together = np.concatenate(list(kinds.values()))
        middle = together.mean(axis=0)
        plane = (
            np.eye(1, 2) if together.shape[1] == 1 else np.linalg.svd(together - middle, full_matrices=False)[2][:2].T
        )
        for (kind, rows), (colour, mark, size, edge) in zip(kinds.items(), looks, strict=False):
            x, y = ((rows - middle) @ plane).T
            axis.scatter(x, y, s=size, color=colour, marker=mark, label=kind, edgecolors=edge, linewidths=0.5)
        axis.set_title(name)
    for axis in axes:
        second = "second direction" if axis is axes[0] else ""
        finish(axis, "first direction", second, empty=not panels)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def timeline(rows: Mapping[str, pd.DataFrame], duration: float | None = None) -> Figure:
    """What every stage says about one video: a row each, a lane and a colour a class, paler at lower scores.

    Args:
        rows: name of the row (truth, proposals, pseudo labels, student, …) -> start, end, label, perhaps score.
        duration: s; None: to the end of the last segment.
    """
    ends = [frame["end"].max() for frame in rows.values() if len(frame)]
    duration = max(ends, default=1.0) if duration is None else duration
    counts = ", ".join(f"{name} {len(frame)}" for name, frame in rows.items())
    figure, (axis,) = new_figure(
        f"Segments of one video of {duration:.0f} s by stage: {counts}.", height=1.2 + 0.6 * len(rows)
    )
    labels = list(dict.fromkeys(label for frame in rows.values() for label in frame.get("label", [])))
    colours = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(labels)}
    lane = 0.8 / max(len(labels), 1)
    for y, frame in enumerate(rows.values()):
        for i, label in enumerate(labels):
            part = frame[frame["label"] == label] if len(frame) else frame
            bar_row(axis, y + (i + 0.5) * lane - 0.4, part, colours[label], 0.9 * lane)
    axis.hlines(np.arange(1, len(rows)) - 0.5, 0, duration, color=GREY, linewidth=0.6)
    if labels:
        _legend(figure, colours)
    axis.set_xlim(0, duration)
    row_names(axis, rows)
    finish(axis, "time (s)", "stage", empty=not labels)
    return figure


def _legend(figure: Figure, colours: Mapping[str, str]) -> None:
    """The names of classes above a timeline, as many as there is room for."""
    names, patches = [drawn(name) for name in colours], [Patch(color=colour) for colour in colours.values()]
    columns = max(1, min(len(names), 5, LINE // (max(map(len, names)) + 6)))
    room = columns * NAMED_LINES
    if len(names) > room:
        patches, names = (
            [*patches[: room - 1], Patch(alpha=0)],
            [*names[: room - 1], f"and {len(names) - room + 1} more"],
        )
    lines = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * (lines - 1))
    figure.legend(patches, names, loc="outside upper center", ncols=columns, frameon=False)


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
    figure, (left, right) = new_figure(alt, columns=2, height=3.8, sharey=True, width_ratios=[2, 1])
    if len(score):
        image = left.imshow(tiou, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        figure.colorbar(image, ax=left, label="tIoU")
    right.barh(np.arange(len(score)), score, height=1.0, color=BLUE)
    finish(left, "proposal, by start", "proposal, by start", empty=not len(score), grid=False)
    finish(right, "IoU score", "")
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
    figure, (axis,) = new_figure(alt)
    bins = np.linspace(0, max(np.quantile(iou_scores, 0.99), threshold) if len(iou_scores) else 1, 31)
    for part, colour, name in ((~is_true, ORANGE, "false positives"), (is_true, BLUE, "true positives")):
        counts = np.histogram(iou_scores[part], bins)[0]
        axis.stairs(counts, bins, color=colour, fill=True, alpha=0.3)
        axis.stairs(counts, bins, color=colour, linewidth=1.8, label=name)
    axis.axvline(threshold, color=BLACK, linestyle="--", label=f"threshold {threshold:g}")
    axis.legend()
    finish(axis, "IoU score", "proposals", empty=not len(iou_scores))
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
    figure, (axis,) = new_figure(alt, height=3.8)
    for part, colour, marker, name in (
        (~is_true, ORANGE, "x", "false positive"),
        (is_true, BLUE, "o", "true positive"),
    ):
        axis.scatter(iou_score[part], confidence[part], s=14, c=colour, marker=marker, alpha=0.6, label=name)
    axis.axvline(gamma, color=BLACK, linestyle="--", linewidth=1)
    axis.axhline(eta, color=BLACK, linestyle="--", linewidth=1)
    axis.legend(loc="upper right")
    finish(axis, "IoU score", "confidence", empty=not len(kept))
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
    alt = f"Positive points for {len(segments)} segments. {by_level or 'No points'}."
    figure, (axis,) = new_figure(alt, height=3.4)
    for start, end in segments:
        axis.axvspan(start, end, color=SKY, alpha=0.35, linewidth=0)
    axis.scatter(times[~positive], level[~positive], s=5, c=GREY, label="background")
    axis.scatter(times[positive], level[positive], s=26, c=VERMILLION, marker="D", label="positive")
    axis.set_yticks(np.unique(level))
    legend_above(axis)
    finish(axis, "time (s)", "level of the pyramid", empty=not len(times))
    return figure


def trident(start_probs: np.ndarray, end_probs: np.ndarray, time: float, bin_seconds: float) -> Figure:
    """How one point finds its boundaries: the probability of each bin, and the expectation that is the boundary.

    Args:
        start_probs: (bins + 1,) of the bins to the left, in order of time: the last one is the point itself.
        end_probs: (bins + 1,) of the bins to the right: the first one is the point itself.
        time: of the point, s.
        bin_seconds: from one bin to the next, s.
    """
    figure, (axis,) = new_figure("")
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
    finish(axis, "time (s)", "probability", empty=not len(start_probs))
    return figure
