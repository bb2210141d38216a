"""Where the borders of labels are: where their curve has them, or where the features change.

Taught in notebook 02. Source: docs/method.md section 9.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from fustal.data.features import FeatureStore
from fustal.params import Params

SIDE = 0.5
"""Length of the stretch on each side of a border that is compared, as a share of the label's length."""

CLEAR = 0.7
"""A change is clear if at least this share of its squared size is not noise."""

ROUNDS = 4
"""Borders that have moved give a better direction of change, so that they move again; after four rounds few move."""

GROUPS = 4
"""Groups of labels of similar length, whose borders are compared."""

FEWEST = 10
"""Labels that a group needs, so that its mean is meaningful."""

LONGER = 1.5
"""The longest group must have so many times the length of the shortest one, so that growth can be seen."""

GROWTH = 0.5
"""Borders move if their width grows with less than this power of the length, and does not fall as fast."""


class Border(NamedTuple):
    """One border of a label; positions in snippets."""

    row: int  # of the label
    label: str
    features: np.ndarray  # (T, D) of its video
    at: float
    other: float  # the label's other border
    inward: int  # 1 if the label lies behind the border, -1 if it lies before it

    @property
    def length(self) -> float:
        """Length of the label in snippets."""
        return (self.other - self.at) * self.inward

    @property
    def middle(self) -> int:
        """The snippet of the border itself, which is on neither side."""
        return int(np.clip(round(self.at), 0, len(self.features) - 1))

    @property
    def stretch(self) -> slice:
        """The snippets of both sides and of the border itself. Sides end with the video."""
        side = max(2, math.ceil(SIDE * self.length))
        return slice(max(0, self.middle - side), min(len(self.features), self.middle + 1 + side))

    @property
    def before(self) -> int:
        """Number of snippets before the border in its stretch."""
        return self.middle - self.stretch.start

    def change(self) -> np.ndarray | None:
        """The mean of the features inside minus that outside, (D,); None if a side has less than two snippets."""
        stretch = self.features[self.stretch]
        before, behind = stretch[: self.before], stretch[self.before + 1 :]
        if min(len(before), len(behind)) < 2:
            return None
        return (behind.mean(axis=0) - before.mean(axis=0)) * self.inward


def borders_of(labels: pd.DataFrame, store: FeatureStore) -> Iterator[Border]:
    """The two borders of each label, video by video: the start, then the end."""
    starts = labels.start.to_numpy(float)
    ends = labels.end.to_numpy(float)
    for video, rows in labels.groupby("video").indices.items():
        features = store[video].astype(float)
        grid = store.grid_of(video)
        for row in rows:
            start, end = grid.to_snippets(np.array([starts[row], ends[row]]))
            name = labels.label.iat[row]
            yield Border(row, name, features, start, end, 1)
            yield Border(row, name, features, end, start, -1)


class Changes:
    """How the features change from outside to inside the actions of each class.

    A single border shows noise and what is special about its place as much as the change of its class. The mean over
    all other borders of the class does not.

    Args:
        labels: frame with video, label, start (s), end (s).
        store: features on the student's grid.
    """

    def __init__(self, labels: pd.DataFrame, store: FeatureStore) -> None:
        self.totals: dict[str, np.ndarray] = {}
        self.counts: dict[str, int] = {}
        for border in borders_of(labels, store):
            change = border.change()
            if change is not None:
                self.totals[border.label] = self.totals.get(border.label, 0) + change
                self.counts[border.label] = self.counts.get(border.label, 0) + 1

    def of_others(self, border: Border) -> np.ndarray | None:
        """The mean change at the other borders of its class, (D,); None if it has no change itself, or no other does.

        The border's own change is left out: it would confirm itself, whether it is noise or not.
        """
        own = border.change()
        others = self.counts.get(border.label, 0) - 1
        if own is None or others < 1:
            return None
        mean = (self.totals[border.label] - own) / others
        return mean if mean.any() else None


def move_borders(labels: pd.DataFrame, store: FeatureStore) -> pd.DataFrame:
    """Moves the borders of labels to where the features change, if they change clearly there.

    Windows and convolutions blur the curves from which labels are cut, so that labels of short actions are too long.
    Features do not depend on what the network has learned (docs/method.md section 9).

    Args:
        labels: frame with video, label, start (s), end (s).
        store: features on the student's grid.

    Returns:
        The labels with other starts and ends. Labels of a class in a video that did not overlap still do not.
    """
    moved = labels
    for _ in range(ROUNDS):
        changes = Changes(moved, store)
        places = np.full((len(labels), 2), np.nan)
        for border in borders_of(moved, store):
            direction = changes.of_others(border)
            if direction is not None:
                places[border.row, (1 - border.inward) // 2] = change_point(border, direction)
        moved = _with_borders(moved, places, store)
    return _apart(moved, labels)


def _with_borders(labels: pd.DataFrame, places: np.ndarray, store: FeatureStore) -> pd.DataFrame:
    """Labels with other borders (N, 2), in snippets.

    Borders that are NaN stay as they were, and both borders of a label that would be shorter than a snippet.
    """
    times = labels[["start", "end"]].to_numpy(float, copy=True)
    for video, rows in labels.groupby("video").indices.items():
        grid = store.grid_of(video)
        snippet = grid.to_seconds(1) - grid.to_seconds(0)
        seconds = grid.to_seconds(places[rows]).clip(0, store.duration(video))
        seconds = np.where(np.isnan(seconds), times[rows], seconds)
        lasting = seconds[:, 1] - seconds[:, 0] >= snippet
        times[rows[lasting]] = seconds[lasting]
    return labels.assign(start=times[:, 0], end=times[:, 1])


def _apart(moved: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Moved labels that overlap, unlike before, and their neighbours: they get their old borders back."""
    old = labels[["start", "end"]].to_numpy(float)
    new = moved[["start", "end"]].to_numpy(float, copy=True)
    for rows in labels.groupby(["video", "label"]).indices.values():
        order = rows[np.argsort(old[rows, 0], kind="stable")]
        crossed = (new[order[1:], 0] < new[order[:-1], 1]) & (old[order[1:], 0] >= old[order[:-1], 1])
        if crossed.any():
            # All labels of the class in this video, as an old border can overlap another moved one.
            new[order] = old[order]
    return moved.assign(start=new[:, 0], end=new[:, 1])


def change_point(border: Border, direction: np.ndarray) -> float:
    """Where the features change from their mean before a border to their mean behind it.

    A window that lies half before and half behind the border has features about in the middle, so that the border is
    where the features, projected on the direction of the change, cross the middle.

    Args:
        border: of a label, with at least two snippets on each side.
        direction: (D,) from outside to inside, see `Changes`; its length has no effect.

    Returns:
        Position of the crossing nearest to the border, in snippets; NaN if there is none, or if the change is not
        `CLEAR`.

    >>> features = np.array([[0.0], [0], [0], [0], [1], [4], [4], [4]])
    >>> change_point(Border(0, "jump", features, at=3.0, other=8.0, inward=1), np.ones(1))
    4.166666666666667
    """
    curve = border.features[border.stretch] @ (direction * border.inward)
    before, behind = curve[: border.before], curve[border.before + 1 :]
    change = behind.mean() - before.mean()
    spread = ((before - before.mean()) ** 2).sum() + ((behind - behind.mean()) ** 2).sum()
    # What the squared change would be on average without any change.
    noise = spread / (len(before) + len(behind) - 2) * (1 / len(before) + 1 / len(behind))
    if change <= 0 or noise > (1 - CLEAR) * change**2:
        return math.nan
    first = border.stretch.start
    return first + nearest_crossing((curve - before.mean()) / change, 0.5, border.at - first)


def nearest_crossing(curve: np.ndarray, height: float, position: float) -> float:
    """Of the positions at which a curve rises through a height the nearest one to another position; NaN if none."""
    crossings = crossings_of(curve, height)
    if not len(crossings):
        return math.nan
    return float(crossings[np.abs(crossings - position).argmin()])


def crossings_of(curve: np.ndarray, height: float) -> np.ndarray:
    """Positions, with fractions, at which a curve (N,) rises through a height.

    >>> crossings_of(np.array([0.0, 1.0, 0.0, 0.25, 1.25]), 0.5)
    array([0.5 , 3.25])
    """
    rises = np.flatnonzero((curve[1:] >= height) & (curve[:-1] < height)) + 1
    low = curve[rises - 1]
    return rises - 1 + (height - low) / (curve[rises] - low)


def border_growth(labels: pd.DataFrame, store: FeatureStore) -> float:
    """How the width of borders grows with the length of labels: the power of the length.

    What windows blur has one width, whatever the length of the action: the power is near 0. Where an action itself
    begins and ends gradually, the width grows with its length: the power is near 1. There the middle of the change is
    inside of the action.

    Args:
        labels: as the curve has them, frame with video, label, start (s), end (s).
        store: features on the student's grid.

    Returns:
        NaN if there are too few labels with enough of the video around them, if their lengths are too similar, or if
        the features do not change at their borders.
    """
    changes = Changes(labels, store)
    place = np.linspace(-SIDE, SIDE, 41)  # in lengths of the label, from outside to inside
    lengths = []
    profiles = []
    for border in borders_of(labels, store):
        direction = changes.of_others(border)
        positions = border.at + border.inward * border.length * place
        inside_video = positions.min() >= 0 and positions.max() <= len(border.features) - 1
        if direction is not None and inside_video:
            curve = border.features @ direction / (direction @ direction)
            lengths.append(border.length)
            profiles.append(np.interp(positions, np.arange(len(curve)), curve))
    if len(lengths) < 2 * FEWEST * GROUPS:
        return math.nan
    points = []
    for rows in np.array_split(np.argsort(lengths, kind="stable"), GROUPS):
        length = float(np.median(np.array(lengths)[rows]))
        width = _width(np.array(profiles)[rows].mean(axis=0)) * (place[1] - place[0])
        points.append((length, length * width))
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(np.array(points))
    if not np.isfinite(logs).all() or logs[-1, 0] - logs[0, 0] < math.log(LONGER):
        return math.nan
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def _width(profile: np.ndarray) -> float:
    """In how many steps a profile (N,) rises from a quarter to three quarters, next to its middle; NaN if nowhere."""
    quarter = len(profile) // 4
    outside = profile[:quarter].mean()
    inside = profile[-quarter:].mean()
    if not inside > outside:
        return math.nan
    rise = (profile - outside) / (inside - outside)
    middle = len(profile) // 2
    return nearest_crossing(rise, 0.75, middle) - nearest_crossing(rise, 0.25, middle)


def choose_borders(labels: pd.DataFrame, store: FeatureStore, params: Params) -> tuple[str, str]:
    """Which borders the labels get, "curve" or "features", and why (docs/method.md section 9).

    Args:
        labels: as the curve has them.
        store: features on the student's grid.
        params: `label_borders`; "auto" is replaced.
    """
    if params.label_borders != "auto":
        return params.label_borders, "as given"
    power = border_growth(labels, store)
    if math.isnan(power):
        return "curve", f"{len(labels)} labels do not show how the width of borders depends on the length"
    kind = "features" if -GROWTH < power < GROWTH else "curve"
    why = f"the width of borders grows with the power {power:.2f} of the length of labels"
    return kind, f"{why}; they move between -{GROWTH} and {GROWTH}"
