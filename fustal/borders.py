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
"""Labels that a group needs, so that its mean says something."""

LONGER = 1.5
"""The longest group must have so many times the length of the shortest one, so that growth can be seen."""

GROWTH = 0.4
"""The power of the length from which on borders grow with it rather than have one width."""


class Border(NamedTuple):
    """One border of a label; positions in snippets."""

    row: int  # of the label
    label: str
    features: np.ndarray  # (T, D) of its video
    at: float
    other: float  # the label's other border
    inward: int  # 1 if the label lies behind the border, -1 if it lies before it

    @property
    def side(self) -> int:
        """Number of snippets on each side that are compared, at least 2."""
        return max(2, math.ceil(SIDE * (self.other - self.at) * self.inward))


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


def sides_of(border: Border) -> tuple[np.ndarray, np.ndarray] | None:
    """The features before and behind a border, without its own snippet; None if a side has less than two snippets."""
    middle = int(np.clip(round(border.at), 0, len(border.features) - 1))
    before = border.features[max(0, middle - border.side) : middle]
    behind = border.features[middle + 1 : middle + 1 + border.side]
    return (before, behind) if min(len(before), len(behind)) >= 2 else None


def directions_of(labels: pd.DataFrame, store: FeatureStore) -> dict[str, np.ndarray]:
    """How the features change from outside to inside an action: the sum over all borders of a class, (D,).

    A single border shows as much noise as change, and what is special about its place. The sum over all of them shows
    what is special about the class. Its length has no effect.
    """
    totals: dict[str, np.ndarray] = {}
    for border in borders_of(labels, store):
        sides = sides_of(border)
        if sides is not None:
            change = (sides[1].mean(axis=0) - sides[0].mean(axis=0)) * border.inward
            totals[border.label] = totals.get(border.label, 0) + change
    # A class without any change has no direction.
    return {label: total for label, total in totals.items() if total.any()}


def move_borders(labels: pd.DataFrame, store: FeatureStore) -> pd.DataFrame:
    """Moves the borders of labels to where the features change, if they change clearly there.

    Windows and convolutions blur the curves from which labels are cut, so that labels of short actions are too long.
    Features do not depend on what the network has learned (docs/method.md section 9).

    Args:
        labels: frame with video, label, start (s), end (s).
        store: features on the student's grid.

    Returns:
        The labels with other starts and ends.
    """
    for _ in range(ROUNDS):
        directions = directions_of(labels, store)
        moved = np.full((len(labels), 2), np.nan)
        for border in borders_of(labels, store):
            if border.label in directions:
                moved[border.row, (1 - border.inward) // 2] = change_point(border, directions[border.label])
        labels = _with_borders(labels, moved, store)
    return labels


def _with_borders(labels: pd.DataFrame, moved: np.ndarray, store: FeatureStore) -> pd.DataFrame:
    """Labels with other borders (N, 2), in snippets; those that are NaN, or without a duration, stay as they were."""
    times = labels[["start", "end"]].to_numpy(float, copy=True)
    for video, rows in labels.groupby("video").indices.items():
        seconds = store.grid_of(video).to_seconds(moved[rows]).clip(0, store.duration(video))
        seconds = np.where(np.isnan(seconds), times[rows], seconds)
        lasting = seconds[:, 0] < seconds[:, 1]
        times[rows[lasting]] = seconds[lasting]
    return labels.assign(start=times[:, 0], end=times[:, 1])


def change_point(border: Border, direction: np.ndarray) -> float:
    """Where the features change from their mean before a border to their mean behind it.

    A window that lies half before and half behind the border has features about in the middle, so that the border is
    where the features, projected on the direction of the change, cross the middle.

    Args:
        border: of a label.
        direction: (D,) from outside to inside, see `directions_of`; its length has no effect.

    Returns:
        Position of the crossing nearest to the border, in snippets; NaN if there is none, if the change is not `CLEAR`,
        or if one of the sides has less than two snippets.

    >>> features = np.array([[0.0], [0], [0], [0], [1], [4], [4], [4]])
    >>> change_point(Border(0, "jump", features, at=3.0, other=8.0, inward=1), np.ones(1))
    4.166666666666667
    """
    sides = sides_of(border)
    if sides is None:
        return math.nan
    toward = direction * border.inward
    before, behind = (side @ toward for side in sides)
    change = behind.mean() - before.mean()
    spread = ((before - before.mean()) ** 2).sum() + ((behind - behind.mean()) ** 2).sum()
    # What the squared change would be on average without any change.
    noise = spread / (len(before) + len(behind) - 2) * (1 / len(before) + 1 / len(behind))
    if change <= 0 or noise > (1 - CLEAR) * change**2:
        return math.nan
    first = int(np.clip(round(border.at), 0, len(border.features) - 1)) - len(before)
    stretch = border.features[first : first + len(before) + 1 + len(behind)]
    crossings = first + crossings_of((stretch @ toward - before.mean()) / change, 0.5)
    if not len(crossings):
        return math.nan
    return float(crossings[np.abs(crossings - border.at).argmin()])


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
        NaN if there are too few labels, if their lengths are too similar, or if the features do not change at them.
    """
    directions = directions_of(labels, store)
    place = np.linspace(-SIDE, SIDE, 41)  # in lengths of the label, from outside to inside
    lengths = []
    profiles = []
    for border in borders_of(labels, store):
        if border.label in directions:
            direction = directions[border.label]
            length = (border.other - border.at) * border.inward
            curve = border.features @ direction / (direction @ direction)
            positions = border.at + border.inward * length * place
            if positions.min() >= 0 and positions.max() <= len(curve) - 1:
                lengths.append(length)
                profiles.append(np.interp(positions, np.arange(len(curve)), curve))
    if len(lengths) < 2 * FEWEST * GROUPS:
        return math.nan
    points = []
    for rows in np.array_split(np.argsort(lengths, kind="stable"), GROUPS):
        length = float(np.median(np.array(lengths)[rows]))
        points.append((length, length * _width(np.array(profiles)[rows].mean(axis=0), place)))
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(np.array(points))
    if not np.isfinite(logs).all() or logs[-1, 0] - logs[0, 0] < math.log(LONGER):
        return math.nan
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def _width(profile: np.ndarray, place: np.ndarray) -> float:
    """The distance in which a profile (N,) rises from a quarter to three quarters, next to the border at 0; or NaN."""
    quarter = len(profile) // 4
    outside = profile[:quarter].mean()
    inside = profile[-quarter:].mean()
    if not inside > outside:
        return math.nan
    found = []
    for height in (0.25, 0.75):
        crossings = crossings_of((profile - outside) / (inside - outside), height)
        if not len(crossings):
            return math.nan
        at = np.interp(crossings, np.arange(len(place)), place)
        found.append(at[np.abs(at).argmin()])
    return float(found[1] - found[0])


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
        return "curve", f"{len(labels)} labels are too few or too similar in length to compare borders"
    kind = "features" if power < GROWTH else "curve"
    return kind, f"the width of borders grows with the power {power:.2f} of the length of labels"
