"""Figures of one video, or of one part of the method: inputs and outputs of its stages."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
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
    DescribedFigure,
    bar_row,
    drawn,
    finish,
    legend_above,
    new_figure,
    row_names,
)
from fustal.viz.film import WIDTH, draw_film, film_height

LINE_LETTERS = 90
"""Maximum number of letters in a line of a timeline's legend."""

LEGEND_LINES = 6
"""Maximum number of lines of a timeline's legend."""


def activation(
    cas: np.ndarray,
    actionness: np.ndarray,
    times: np.ndarray,
    thresholds: Sequence[float],
    proposals: pd.DataFrame,
    truth: pd.DataFrame,
) -> DescribedFigure:
    """CAS of one class and actionness of one video over time; below them its proposals and its true segments.

    Args:
        cas: (T,) of the class, normalised.
        actionness: (T,), normalised.
        times: (T,) centres of the snippets, s.
        thresholds: drawn as lines; more than three as thin ones.
        proposals: start, end, perhaps score.
        truth: start, end.
    """
    alt = (
        f"Class activation and actionness of one video over {len(times)} snippets; below, {len(proposals)} proposals "
        f"and {len(truth)} true segments."
    )
    figure, (top, bottom) = new_figure(alt, rows=2, height=4.2, sharex=True, height_ratios=[3, 1.4])
    # From the left to the right end of the axes: x in shares of the axes, y in data.
    across = top.get_yaxis_transform()
    if len(thresholds) > 3:
        top.hlines(thresholds, 0, 1, transform=across, color=GREY, linewidth=0.4, alpha=0.6)
    else:
        top.hlines(thresholds, 0, 1, transform=across, color=BLACK, linestyle="--")
    top.plot(times, actionness, color=ORANGE, label="actionness")
    top.plot(times, cas, color=BLUE, label="CAS of the class")
    legend_above(top)
    finish(top, "", "activation (normalised)", empty=not len(times))
    bar_row(bottom, 0, proposals, BLUE)
    bar_row(bottom, 1, truth, BLACK)
    row_names(bottom, ["proposals", "truth"])
    finish(bottom, "time (s)", "segments")
    return figure


def threshold_runs(curve: np.ndarray, times: np.ndarray, runs: pd.DataFrame) -> DescribedFigure:
    """A curve and its runs above each threshold, drawn at the height of the threshold, with their contrast.

    Args:
        curve: (T,) in [0, 1].
        times: (T,) centres of the snippets, s.
        runs: threshold, start, end (s), score.
    """
    by_threshold = runs.threshold.value_counts(sort=False)
    counts = ", ".join(f"{count} at {threshold:g}" for threshold, count in by_threshold.items())
    figure, (axis,) = new_figure(f"A curve of {len(times)} snippets, cut at thresholds; runs: {counts or 'none'}.")
    axis.plot(times, curve, color=BLUE, marker="o", markersize=4, label="CAS of the class")
    axis.hlines(runs.threshold, runs.start, runs.end, color=ORANGE, linewidth=4, label="runs, with their contrast")
    for run in runs.itertuples():
        axis.annotate(f"{run.score:.2f}", (run.end, run.threshold), (4, -3), textcoords="offset points", fontsize=8)
    if len(times):
        legend_above(axis)
    finish(axis, "time (s)", "activation", empty=not len(times))
    return figure


def embeddings(panels: Mapping[str, Mapping[str, np.ndarray]]) -> DescribedFigure:
    """Mined snippets in the plane of their first two principal components; a panel per network.

    Args:
        panels: name -> kind of snippet -> embeddings (N, E); the kinds in the order easy action, easy background, hard
            action, hard background. Embeddings are scaled to length 1.
    """
    units: dict[str, dict[str, np.ndarray]] = {}
    facts: list[str] = []
    for name, kinds in panels.items():
        units[name] = {kind: _unit(rows) for kind, rows in kinds.items()}
        facts += _mean_cosines(name, units[name])
    alt = f"Embeddings of snippets in two dimensions: {', '.join(panels) or 'none'}. {'; '.join(facts)}"
    figure, axes = new_figure(alt, columns=max(len(panels), 1), height=3.4)
    styles = [(SKY, "o", 12, "none"), (ORANGE, "s", 12, "none"), (BLUE, "^", 30, BLACK), (VERMILLION, "v", 30, BLACK)]
    for axis, (name, kinds) in zip(axes, units.items(), strict=False):
        together = np.concatenate(list(kinds.values()))
        middle = together.mean(axis=0)
        if together.shape[1] == 1:
            plane = np.eye(1, 2)  # embeddings of one number have no second direction
        else:
            plane = np.linalg.svd(together - middle, full_matrices=False)[2][:2].T
        for (kind, rows), (colour, marker, size, edge) in zip(kinds.items(), styles, strict=False):
            points = (rows - middle) @ plane
            x, y = points[:, 0], points[:, 1]
            axis.scatter(x, y, s=size, color=colour, marker=marker, label=kind, edgecolors=edge, linewidths=0.5)
        axis.set_title(name)
    for axis in axes:
        second = "second direction" if axis is axes[0] else ""
        finish(axis, "first direction", second, empty=not panels)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows (N, E) scaled to length 1; rows of zeros stay zero."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)


def _mean_cosines(name: str, kinds: Mapping[str, np.ndarray]) -> list[str]:
    """The mean cosine of each hard kind of snippet with each easy one, in words."""
    easy, hard = list(kinds)[:2], list(kinds)[2:]
    facts = []
    for kind in hard:
        for other in easy:
            cosine = (kinds[kind] @ kinds[other].T).mean()
            facts.append(f"{name}, {kind}: mean cosine {cosine:.2f} with {other}")
    return facts


def timeline(
    rows: Mapping[str, pd.DataFrame], duration: float | None = None, frames: Sequence[np.ndarray] = ()
) -> DescribedFigure:
    """The segments of one video from every stage: a row per stage, a lane and a colour per class.

    Args:
        rows: name of the row (truth, proposals, pseudo labels, student, …) -> start, end, label, perhaps score; bars
            with a lower score are paler.
        duration: s; None: to the end of the last segment.
        frames: pictures of the video above the rows, see `film.draw_film`; empty: none.
    """
    ends = [frame["end"].max() for frame in rows.values() if len(frame)]
    if duration is None:
        duration = max(ends, default=1.0)
    counts = ", ".join(f"{name} {len(frame)}" for name, frame in rows.items())
    alt = f"Segments of one video of {duration:.0f} s by stage: {counts}."
    height = 1.2 + 0.6 * len(rows)
    if frames:
        film = film_height(frames)
        alt = f"{len(frames)} frames of a video, and below them: {alt}"
        figure, (top, axis) = new_figure(alt, rows=2, height=height + film, height_ratios=[film, height - 0.9])
        figure.set_figwidth(WIDTH)
        draw_film(top, frames, duration)
    else:
        figure, (axis,) = new_figure(alt, height=height)
    names: list[str] = []
    for frame in rows.values():
        names += list(frame.get("label", []))
    labels = list(dict.fromkeys(names))  # each once, in order of appearance
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


def _legend(figure: DescribedFigure, colours: Mapping[str, str]) -> None:
    """A legend of classes above a timeline; if there are too many, the last entry is the number of the others.

    Args:
        figure: of the timeline; becomes higher.
        colours: class -> colour; not empty.
    """
    names = [drawn(name) for name in colours]
    patches = [Patch(color=colour) for colour in colours.values()]
    longest = max(len(name) for name in names)
    columns = max(1, min(len(names), 5, LINE_LETTERS // (longest + 6)))  # 6 letters: patch and space
    room = columns * LEGEND_LINES
    if len(names) > room:
        more = len(names) - room + 1
        patches = [*patches[: room - 1], Patch(alpha=0)]
        names = [*names[: room - 1], f"and {more} more"]
    lines = math.ceil(len(names) / columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * (lines - 1))
    figure.legend(patches, names, loc="outside upper center", ncols=columns, frameon=False)


def iou_matrix(segments: np.ndarray, score: np.ndarray) -> DescribedFigure:
    """The tIoU of proposals with each other, and their IoU scores.

    Args:
        segments: (N, 2) of one video, s.
        score: (N,) IoU scores.
    """
    order = np.lexsort((segments[:, 1], segments[:, 0]))
    ordered = torch.as_tensor(segments[order])
    score = np.asarray(score)[order]
    tiou = tiou_matrix(ordered, ordered).numpy()
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


def score_histogram(iou_scores: np.ndarray, is_true: np.ndarray, threshold: float) -> DescribedFigure:
    """The paper's histogram: numbers of true and false positives over the IoU score, without the highest 1 %.

    Args:
        iou_scores: (N,) of proposals.
        is_true: (N,) booleans.
        threshold: gamma, drawn as a line.
    """
    iou_scores = np.asarray(iou_scores, float)
    is_true = np.asarray(is_true, bool)
    below = iou_scores < threshold
    alt = (
        f"Histogram of the IoU score of {is_true.sum()} true and {(~is_true).sum()} false positives; below the "
        f"threshold {threshold:g} lie {(below & is_true).sum()} true and {(below & ~is_true).sum()} false ones."
    )
    figure, (axis,) = new_figure(alt)
    # A few very high scores would leave no room for the rest.
    highest = max(np.quantile(iou_scores, 0.99), threshold) if len(iou_scores) else 1
    bins = np.linspace(0, highest, 31)
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
) -> DescribedFigure:
    """IoU score and confidence of proposals; those above both thresholds become pseudo labels.

    Args:
        iou_score: (N,).
        confidence: (N,).
        is_true: (N,) booleans.
        gamma: minimum IoU score.
        eta: threshold of the confidence, which must be greater.
    """
    iou_score = np.asarray(iou_score, float)
    confidence = np.asarray(confidence, float)
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


def target_assignment(
    times: np.ndarray, level: np.ndarray, positive: np.ndarray, segments: np.ndarray
) -> DescribedFigure:
    """The points of each pyramid level that are positive: the targets of the student for one video.

    Args:
        times: (P,) of the points, s.
        level: (P,).
        positive: (P,) booleans.
        segments: (N, 2), s.
    """
    times = np.asarray(times)
    level = np.asarray(level)
    positive = np.asarray(positive, bool)
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


def trident(start_probs: np.ndarray, end_probs: np.ndarray, time: float, bin_seconds: float) -> DescribedFigure:
    """The boundaries of one point: the probability of each bin, and the expectation, which is the boundary.

    Args:
        start_probs: (bins + 1,) of the bins to the left in order of time; the last bin is at the point.
        end_probs: (bins + 1,) of the bins to the right; the first bin is at the point.
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
