"""Figures of one video, or of one part of the method: inputs and outputs of its stages."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

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
    MARKERS,
    ORANGE,
    SKY,
    VERMILLION,
    DescribedFigure,
    bar_row,
    drawn,
    finish,
    lanes_of,
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
        proposals: start, end, perhaps score; those that overlap are drawn below each other.
        truth: start, end.
    """
    lane = lanes_of(proposals.start.to_numpy(), proposals.end.to_numpy())
    lanes = lane.max(initial=0) + 1
    alt = (
        f"Class activation and actionness of one video over {len(times)} snippets; below, {len(proposals)} proposals "
        f"and {len(truth)} true segments."
    )
    below = 1.3 + 0.1 * min(lanes, 24)  # height of the segments
    figure, (top, bottom) = new_figure(alt, rows=2, height=2.8 + below, sharex=True, height_ratios=[3, below])
    # From the left to the right end of the axes: x in shares of the axes, y in data.
    across = top.get_yaxis_transform()
    name = f"{len(thresholds)} thresholds on the CAS" if len(thresholds) > 1 else "threshold"
    if len(thresholds) > 3:
        top.hlines(thresholds, 0, 1, transform=across, color=GREY, linewidth=0.5, label=name)
    elif len(thresholds):
        top.hlines(thresholds, 0, 1, transform=across, color=BLACK, linestyle="--", label=name)
    top.plot(times, actionness, color=ORANGE, label="actionness")
    top.plot(times, cas, color=BLUE, label="CAS of the class")
    legend_above(top)
    finish(top, "", "activation (normalised)", empty=not len(times))
    for number in range(lanes):
        bar_row(bottom, (number + 0.5) / lanes - 0.5, proposals[lane == number], BLUE, 0.8 / lanes)
    bar_row(bottom, 1, truth, BLACK, 0.5)
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
        axis.annotate(f"{run.score:.2f}", (run.end, run.threshold), (4, -3), textcoords="offset points", fontsize=9)
    if len(times):
        legend_above(axis)
    finish(axis, "time (s)", "activation", empty=not len(times))
    return figure


def mining(actionness: np.ndarray, choices: Mapping[str, np.ndarray]) -> DescribedFigure:
    """The actionness of one video with its median, and below it which snippets are taken as what.

    Args:
        actionness: (T,).
        choices: name of a row -> (T,) booleans, true where a snippet is taken.
    """
    facts = ", ".join(f"{name} {int(np.sum(taken))}" for name, taken in choices.items())
    alt = f"Actionness of {len(actionness)} snippets with its median; below, the snippets taken: {facts or 'none'}."
    figure, (top, bottom) = new_figure(alt, rows=2, height=1.8 + 0.5 * len(choices), sharex=True)
    snippets = np.arange(len(actionness))
    top.step(snippets, actionness, where="mid", color=ORANGE, label="actionness")
    if len(actionness):
        median = float(np.median(actionness))
        top.axhline(median, color=BLACK, linestyle="--", label="median")
        legend_above(top)
    finish(top, "", "actionness", empty=not len(actionness))
    for row, (taken, colour) in enumerate(zip(choices.values(), cycle([GREY, SKY, ORANGE, BLUE, VERMILLION]))):
        bottom.bar(snippets[np.asarray(taken, bool)], 0.7, width=0.9, bottom=row - 0.35, color=colour)
    row_names(bottom, choices)
    finish(bottom, "snippet", "taken as")
    return figure


def embeddings(panels: Mapping[str, Mapping[str, np.ndarray]]) -> DescribedFigure:
    """Mined snippets of several networks in one plane, that of the first two principal components of all of them.

    Args:
        panels: a panel per network: name -> kind of snippet -> embeddings (N, E), the same E in all panels; the kinds
            in the order easy action, easy background, hard action, hard background. Embeddings are scaled to length 1.
    """
    units: dict[str, dict[str, np.ndarray]] = {}
    facts: list[str] = []
    for name, kinds in panels.items():
        units[name] = {kind: _unit(rows) for kind, rows in kinds.items()}
        facts += _mean_cosines(name, units[name])
    alt = f"Embeddings of snippets in two dimensions: {', '.join(panels) or 'none'}. {'; '.join(facts)}"
    figure, axes = new_figure(alt, columns=max(len(panels), 1), height=3.8, sharex=True, sharey=True)
    middle, plane = _common_plane(units)
    styles = [(SKY, "o", 12, "none"), (ORANGE, "s", 12, "none"), (BLUE, "^", 30, BLACK), (VERMILLION, "v", 30, BLACK)]
    for axis, (name, kinds) in zip(axes, units.items(), strict=False):
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


def _common_plane(panels: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean (E,) of all embeddings and their first two principal components (E, 2)."""
    parts = [rows for kinds in panels.values() for rows in kinds.values()]
    together = np.concatenate(parts or [np.zeros((1, 1))])
    middle = together.mean(axis=0)
    if together.shape[1] == 1:
        return middle, np.eye(1, 2)  # embeddings of one number have no second direction
    return middle, np.linalg.svd(together - middle, full_matrices=False)[2][:2].T


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
    finish(axis, "time (s)", "segments", empty=not labels)
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
    if len(kept):
        legend_above(axis)
    finish(axis, "IoU score", "confidence", empty=not len(kept))
    return figure


def pyramid(low: Sequence[float], high: Sequence[float], stem: str, heads: Sequence[str]) -> DescribedFigure:
    """The student as a drawing: input at the bottom, the levels of the pyramid above it, the heads at the right.

    Args:
        low: of each level, the shortest distance to a border that it learns, snippets.
        high: likewise the longest; infinite on the last level.
        stem: what comes before the pyramid, in words.
        heads: their names.
    """
    ranges = []
    for nearest, farthest in zip(low, high, strict=True):
        ranges.append(f"{nearest:g} to {farthest:g}" if math.isfinite(farthest) else f"{nearest:g} or more")
    facts = "; ".join(f"level {i}: stride {2**i}, borders {text} snippets away" for i, text in enumerate(ranges))
    alt = f"The pyramid from bottom to top. {facts or 'No level'}."
    figure, (axis,) = new_figure(alt, height=1.5 + 0.42 * len(low))
    width = 2 ** max(len(low) - 1, 4)  # snippets that are drawn
    finish(axis, "snippet", "level of the pyramid", empty=not len(low), grid=False)
    for level, text in enumerate(ranges):
        stride = 2**level
        centres = np.arange(0, width, stride)
        colours = [SKY, "#c7e6f7"] * (len(centres) // 2 + 1)
        axis.broken_barh([(x, stride) for x in centres], (level - 0.3, 0.6), facecolors=colours[: len(centres)])
        axis.plot(centres, np.full(len(centres), level), "o", color=BLACK, markersize=3)
        axis.text(1.02 * width, level, text, va="center")
        axis.annotate("", (-0.02 * width, level), (-0.02 * width, level - 0.95), arrowprops={"arrowstyle": "->"})
    axis.text(0.5 * width, -1.05, stem, ha="center", va="center", bbox={"facecolor": "#eeeeee", "edgecolor": GREY})
    axis.text(1.02 * width, len(low) - 0.45, "distance of\na border", va="bottom")
    head = "\n".join(["heads, at", "each point:", *heads])
    axis.text(1.55 * width, (len(low) - 1) / 2, head, ha="center", va="center", linespacing=1.5, bbox=_box(ORANGE))
    right = (1.4 * width, (len(low) - 1) / 2)
    axis.annotate("", right, (1.28 * width, right[1]), arrowprops={"arrowstyle": "->"})
    names = [f"{level}, stride {2**level}" for level in range(len(low))]
    axis.set(xlim=(-0.05 * width, 1.72 * width), ylim=(-1.6, len(low) + 0.4), xticks=range(0, width + 1, 4))
    axis.set(yticks=range(len(names)), yticklabels=names)
    axis.xaxis.set_label_coords(0.3, -0.09)  # below the bars
    axis.spines[["left", "bottom"]].set_visible(False)
    return figure


def _box(colour: str) -> dict[str, object]:
    """A round white box with a coloured edge."""
    return {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": colour, "linewidth": 2}


def target_assignment(
    positions: np.ndarray, level: np.ndarray, winner: np.ndarray, segments: np.ndarray
) -> DescribedFigure:
    """The points of each pyramid level that are positive: the targets of the student for one video.

    Args:
        positions: (P,) of the points, snippets.
        level: (P,).
        winner: (P,) row of the segment that each point learns, -1 for none.
        segments: (N, 2), snippets.
    """
    positions = np.asarray(positions)
    level = np.asarray(level)
    winner = np.asarray(winner)
    by_level = ", ".join(f"level {k}: {(winner[level == k] >= 0).sum()}" for k in np.unique(level))
    alt = f"Positive points for {len(segments)} segments. {by_level or 'No points'}."
    figure, (axis,) = new_figure(alt, height=3.6)
    axis.scatter(positions[winner < 0], level[winner < 0], s=5, c=GREY, label="background")
    for i, (start, end) in enumerate(segments):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        chosen = winner == i
        axis.axvspan(start, end, color=colour, alpha=0.18, linewidth=0)
        name = f"{start:g} to {end:g}"
        axis.scatter(positions[chosen], level[chosen], s=24, color=colour, marker=marker, label=name)
    axis.set_yticks(np.unique(level))
    legend_above(axis)
    finish(axis, "snippet", "level of the pyramid", empty=not len(positions))
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
    if len(start_probs):
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    figure.alt_text = (
        f"Probabilities of the bins around the point at {time:.2f} s; their expectations put the start at "
        f"{boundaries[0]:.2f} s and the end at {boundaries[1]:.2f} s."
    )
    finish(axis, "time (s)", "probability", empty=not len(start_probs))
    return figure
