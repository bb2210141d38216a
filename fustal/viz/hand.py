"""Figure of a hand through a sequence, from the joints that a HoloLens 2 tracks (data set shrec22)."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fustal.viz.common import (
    BLACK,
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    DescribedFigure,
    bar_row,
    drawn,
    finish,
    new_figure,
    row_names,
)

FINGERS = {
    (0, 2, 3, 4, 5): VERMILLION,
    (0, 6, 7, 8, 9, 10): BLUE,
    (0, 11, 12, 13, 14, 15): GREEN,
    (0, 16, 17, 18, 19, 20): ORANGE,
    (0, 21, 22, 23, 24, 25): PURPLE,
}
"""The joints of each finger from the wrist to the tip, thumb first, and its colour."""

PALM = [2, 7, 12, 17, 22]
"""The joints where the fingers begin."""

PITCH = np.radians(30)
"""The hand is seen by its owner, who looks down on it by this angle."""

COUNT = 10
"""So many hands have room in a figure."""

WIDTH = 2.2
"""Width that a drawn hand has, in distances of the wrist from the middle finger's knuckle."""


def hands(
    joints: np.ndarray, fps: float, rows: Mapping[str, pd.DataFrame], times: np.ndarray | None = None
) -> DescribedFigure:
    """A hand at some times of a sequence, and rows of segments below.

    A segment that lasts as long as the sequence is pale grey: it says nothing about times.

    Args:
        joints: (N, 26, 3) in any unit, y upwards: wrist, palm, four joints of the thumb, five of each other finger.
        fps: frames per second.
        rows: name of a row -> start, end, label; at least one. A hand outside of all segments of the first row is pale.
        times: at which the hand is drawn, s; None: the middle of each segment of the first row, and evenly between.
    """
    duration = len(joints) / fps
    if times is None:
        times = moments(next(iter(rows.values())), duration)
    described = []
    for name, frame in rows.items():
        segments = ", ".join(f"{row.label} {row.start:.1f} to {row.end:.1f} s" for row in frame.itertuples())
        described.append(f"{name}: {segments or 'none'}.")
    alt = f"A hand at {len(times)} times of {duration:.0f} s; below, segments. {' '.join(described)}"
    height = 1.5 + 0.4 * len(rows)
    figure, (top, bottom) = new_figure(alt, rows=2, height=height, sharex=True, height_ratios=[3, len(rows)])
    if len(joints):
        _draw_hands(top, joints.astype(float), fps, times, next(iter(rows.values())))
    top.set_yticks([])
    top.tick_params(bottom=False)
    finish(top, "", "hand", empty=not len(joints), grid=False)
    top.spines[["bottom", "left"]].set_visible(False)
    for y, frame in enumerate(rows.values()):
        whole = frame.end - frame.start > 0.99 * duration
        bar_row(bottom, y, frame[whole], GREY, 0.4)
        bar_row(bottom, y, frame[~whole], BLACK if y == 0 else COLOURS[(y - 1) % len(COLOURS)], 0.4)
        for row in frame.itertuples():
            place = (row.start + row.end) / 2, y - 0.25
            text = bottom.text(*place, drawn(row.label), ha="center", va="bottom", fontsize=9)
            text.set_in_layout(False)  # a long name takes no room from the axes
    row_names(bottom, rows)
    bottom.set_xlim(0, max(duration, 1e-3))
    finish(bottom, "time (s)", "")
    return figure


def moments(segments: pd.DataFrame, duration: float) -> np.ndarray:
    """Times at which a hand is drawn: the middle of each segment, and, where there is room, evenly between.

    Args:
        segments: start, end; may be empty.
        duration: s.

    >>> moments(pd.DataFrame({"start": [4.0], "end": [6.0]}), 10.0).tolist()
    [0.5, 1.625, 2.75, 3.875, 5.0, 6.125, 7.25, 8.375, 9.5]
    """
    room = max(duration / COUNT, 1e-3)
    times = sorted((segments.start + segments.end) / 2)
    for edge in (room / 2, duration - room / 2):  # the first and the last hand, unless a segment is near
        if all(abs(time - edge) > 0.8 * room for time in times):
            times.append(edge)
    times.sort()
    found = times[:1]
    for earlier, later in pairwise(times):
        parts = max(round((later - earlier) / room), 1)
        found += np.linspace(earlier, later, parts + 1)[1:].tolist()
    return np.array(found)


def _draw_hands(axis: Axes, joints: np.ndarray, fps: float, times: np.ndarray, segments: pd.DataFrame) -> None:
    """Draws the hand at each time, paler outside of the segments; joints (N, 26, 3) with N > 0."""
    size = max(float(np.median(np.linalg.norm(joints[:, 12] - joints[:, 0], axis=1))), 1e-6)
    seconds = len(joints) / fps / COUNT / WIDTH  # of the time axis, for one size of the hand
    for time in times:
        frame = min(int(time * fps), len(joints) - 1)
        hand = (joints[frame] - joints[frame, 1]) / size
        x = time + (hand[:, 0] - hand[:, 0].mean()) * seconds
        y = hand[:, 1] * np.cos(PITCH) + hand[:, 2] * np.sin(PITCH)
        inside = ((segments.start <= time) & (time < segments.end)).any()
        alpha = 1.0 if inside else 0.4
        axis.plot(x[PALM], y[PALM], color=GREY, linewidth=0.8, alpha=alpha)
        for finger, colour in FINGERS.items():
            axis.plot(x[list(finger)], y[list(finger)], color=colour, linewidth=1.2, alpha=alpha)
            axis.plot(x[finger[-1]], y[finger[-1]], "o", color=colour, markersize=2, alpha=alpha)
    axis.set_ylim(-1.2, 1.8)
