"""The straight line of durations over numbers of snippets, and how certain its slope is.

A video of n snippets lasts about (n - 1) * stride + window frames. So the line has the slope stride / fps and the
intercept (window - stride) / fps. The rest of a video is its duration minus n strides.

The slope is first estimated as the median of the slopes between all pairs of videos (Theil 1950, Sen 1968), which a few
wrong durations hardly change. If durations are exact, more follows: the rest of each video is at least window - stride
and less than window. So only those slopes are possible for which the rests of all videos differ by less than a stride.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import linprog
from scipy.stats import theilslopes

NEAR = 0.02
"""Relative difference up to which a slope is taken for a usual one where durations are not exact."""

CLEAR = 0.1
"""Maximum relative uncertainty of a slope for which it can be distinguished from the intercept."""

PERHAPS = 0.25
"""The same, for a usual slope where the mean slope, that of a line through 0, is not a usual one."""

LOOSE = (0, 0.1, 0.25)
"""By how many strides rests may differ beyond one, as durations are not quite exact; the first that fits is used."""

OUTLIERS = 0.1
"""Maximum share of videos whose durations may be wrong by more than 3 strides."""

PAIRED = 1000
"""Maximum number of videos that are compared in pairs."""


class Line(NamedTuple):
    """Durations, in seconds or frames, over numbers of snippets.

    Attributes:
        slope: duration from snippet to snippet.
        low: lower limit of the slope.
        high: upper limit of the slope.
        mean: median of duration / number of snippets, the slope of a line through 0.
        exact: whether the rests of all videos differ by less than a stride exactly between the limits.
        lengths: snippets of each video (N,).
        extents: duration of each video (N,).
    """

    slope: float
    low: float
    high: float
    mean: float
    exact: bool
    lengths: np.ndarray
    extents: np.ndarray

    def rest(self, slope: float) -> np.ndarray:
        """Duration of each video minus `slope` for each of its snippets (N,)."""
        return self.extents - slope * self.lengths

    def regular(self, slope: float, unit: float) -> np.ndarray:
        """Which videos are used for limits (N,).

        Outliers are not. Neither are videos of one snippet, as they may be shorter than a window.
        """
        rest = self.rest(slope)
        return (np.abs(rest - np.median(rest)) <= 3 * slope + unit) & (self.lengths > 1)

    def scaled(self, factor: float) -> "Line":
        """The line in another unit: with the factor frames per second, from seconds to frames."""
        return self._replace(
            slope=self.slope * factor,
            low=self.low * factor,
            high=self.high * factor,
            mean=self.mean * factor,
            extents=self.extents * factor,
        )


def line_of(lengths: dict[str, int], extents: pd.Series, unit: float = 0) -> Line:
    """Fits the line.

    Args:
        lengths: video -> number of snippets.
        extents: duration of each video, in seconds or frames; NaN where unknown.
        unit: what they are rounded to, in the same unit; 0: not rounded.

    Returns:
        The line. Its limits are infinite if there are too few different lengths.
    """
    table = pd.DataFrame({"n": pd.Series(lengths, dtype=float), "d": extents}).dropna().sort_values("n")
    table = table[table.n > 0]
    rows = np.linspace(0, len(table) - 1, min(PAIRED, len(table))).astype(int)
    some = table.iloc[np.unique(rows)]
    n, d = some.n.to_numpy(), some.d.to_numpy()
    mean = float(np.median(d / n))
    if len(np.unique(n)) <= 2:
        return Line(mean, -np.inf, np.inf, mean, False, n, d)
    with np.errstate(invalid="ignore"):  # without limits, NaN, if nearly all videos are equally long
        slope, _, low, high = theilslopes(d, n)
    # The interval of 95 % is widened by half. It is at least as wide as a snippet more or less in the longest video.
    drift = slope / n.max()
    low = slope - max(1.5 * (slope - low), drift)
    high = slope + max(1.5 * (high - slope), drift)
    line = Line(float(slope), float(low), float(high), mean, False, n, d)
    return _limited(line, unit) if np.isfinite(low) and slope > 0 else line


def _limited(line: Line, unit: float) -> Line:
    """Sets exact limits of the slope, if the rests of all regular videos differ by less than a stride for some slope.

    Args:
        line: with the slope of the pairs.
        unit: what its extents are rounded to.
    """
    regular = line.regular(line.slope, unit)
    if regular.mean() < 1 - OUTLIERS:
        return line
    n, d = line.lengths[regular], line.extents[regular]
    coarse = unit > line.slope / 4
    within = (line.low, line.high) if coarse else (0, None)
    for loose in LOOSE:
        ends = _possible_slopes(n, d, loose, unit, within)
        if ends is None:
            continue
        low, high = ends
        # The median slope of many coarse durations is more exact than the middle of what each of them allows.
        keep = coarse and low <= line.slope <= high
        slope = line.slope if keep else (low + high) / 2
        slack = 0.05 * slope / n.max()
        return line._replace(slope=slope, low=low - slack, high=high + slack, exact=True)
    return line


def _possible_slopes(
    n: np.ndarray, d: np.ndarray, loose: float, unit: float, within: tuple[float, float | None]
) -> tuple[float, float] | None:
    """The lowest and the highest slope for which all rests lie in an interval of 1 + `loose` strides.

    Two linear programs in the slope and the minimum rest, with the limits
    minimum <= d - n * slope and d - n * slope <= minimum + (1 + loose) * slope + unit for each video.

    Args:
        n: snippets of each video (N,).
        d: their durations (N,).
        loose: what the interval is longer than a stride, in strides.
        unit: what durations are rounded to.
        within: lower and upper limit of the slope; None: no limit.

    Returns:
        None if no slope is possible.
    """
    one = np.ones_like(n)
    factors = np.vstack([np.column_stack([n, one]), np.column_stack([-n - 1 - loose, -one])])
    values = np.concatenate([d, unit - d])
    bounds = [within, (None, None)]
    lowest = linprog([1, 0], factors, values, bounds=bounds)
    highest = linprog([-1, 0], factors, values, bounds=bounds)
    if not (lowest.success and highest.success):
        return None
    return float(lowest.x[0]), float(highest.x[0])


def settled(line: Line, usual: list[float]) -> tuple[float, bool]:
    """Chooses a slope.

    Args:
        line: of durations over snippets.
        usual: slopes that are preferred, in the line's unit.

    Returns:
        The slope, and whether it can be distinguished from the intercept. If not, it is the mean slope.
    """
    doubt = (line.high - line.low) / 2
    if line.exact and doubt <= CLEAR * line.slope:
        return _usual_or_round(line, usual), True
    if line.slope <= 0:
        return line.mean, False
    near = sorted({round(slope, 9) for slope in usual if line.low <= slope <= line.high})
    mean_is_usual = any(abs(slope / line.mean - 1) < NEAR for slope in usual)
    if len(near) == 1 and doubt <= (CLEAR if mean_is_usual else PERHAPS) * line.slope:
        return near[0], True
    if not near and doubt <= min(CLEAR, 1 / np.median(line.lengths)) * line.slope:
        return line.slope, True
    return line.mean, False


def _usual_or_round(line: Line, usual: list[float]) -> float:
    """The usual slope nearest to the line's, if it is possible; else the roundest possible one."""
    nearest = min(usual, key=lambda slope: abs(slope - line.slope))
    if line.low <= nearest <= line.high:
        return nearest
    for decimals in range(4):
        short = round(line.slope, decimals)
        if line.low <= short <= line.high:
            return short
    return line.slope


def spread(values: np.ndarray) -> float:
    """Width of the interval that holds the middle four fifths of some values."""
    low, high = np.quantile(values, [0.1, 0.9])
    return float(high - low)


def rounding(durations: np.ndarray) -> float:
    """What durations are rounded to.

    >>> rounding(np.array([1.5, 20.25])), rounding(np.array([1.0, 20.0]))
    (0.01, 1.0)

    Args:
        durations: in seconds (N,).

    Returns:
        1, 0.1, 0.01 or 0.001 s; 0 if they are not rounded.
    """
    for unit in (1.0, 0.1, 0.01, 0.001):
        if np.allclose(durations / unit, np.round(durations / unit), rtol=0, atol=1e-6):
            return unit
    return 0.0
