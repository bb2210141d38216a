"""How many frames a snippet sees, derived from the rests of the videos: their durations minus n strides each."""

from typing import NamedTuple

import numpy as np

from fustal.tools.own_data.line import Line, spread

FPS = (25, 30)
"""The most common frame rates of videos."""

MORE_FPS = (29.97, 24, 23.976, 50, 60, 59.94)
"""Other common frame rates."""

WINDOWS = (8, 16, 32, 64)
"""Common windows in frames."""

LONGEST = 2.6
"""Maximum window in seconds, unless it is at most `STRIDES_SEEN` strides. A longer one is a tail without features."""

STRIDES_SEEN = 8
"""Maximum number of strides in a window that is longer than `LONGEST`; 2.5 at a common frame rate."""


class Fit(NamedTuple):
    """A line in frames, and the stride that was chosen from it.

    Attributes:
        line: durations in frames over numbers of snippets.
        stride: frames.
        clear: whether the slope of the line can be distinguished from its intercept.
        rate: frames per second, the median where videos differ.
        unit: frames that durations are rounded to, about.
    """

    line: Line
    stride: int
    clear: bool
    rate: float
    unit: float

    @property
    def rest(self) -> np.ndarray:
        """Frames of each video beyond its strides (N,)."""
        return self.line.rest(self.stride)

    @property
    def exact(self) -> bool:
        """Whether durations are exact enough for the limits of the line, and the stride lies between them."""
        line = self.line
        return line.exact and self.clear and self.unit <= self.stride / 2 and line.low <= self.stride <= line.high


class Window(NamedTuple):
    """Frames that a snippet sees, and why, for a message."""

    frames: int
    why: str


def window_of(fit: Fit) -> Window:
    """Chooses a window: the stride, unless durations show that it is longer.

    Args:
        fit: line and stride.

    Returns:
        The window and its reason.
    """
    if fit.exact:
        return _by_limits(fit)
    if not fit.clear:
        return _unknown(fit.stride, "too few durations and lengths differ")
    return _by_median(fit)


def _by_limits(fit: Fit) -> Window:
    """For exact durations: the rest of each video is at least window - stride and less than window."""
    stride, unit = fit.stride, fit.unit
    rest = fit.rest[fit.line.regular(stride, unit)]
    ends = float(rest.max()) - unit / 2, float(rest.min()) + stride + unit / 2
    low, high = min(ends), max(ends)
    if low <= 1.05 * stride + 1:
        if high > 1.5 * stride + 1:
            return _unknown(stride, f"these durations allow up to {high:.0f} frames")
        if high < -0.5 * stride:
            return _too_short(stride, float(np.median(rest)) / fit.rate)
        return _side_by_side(stride)
    middle = (low + high) / 2
    # At a common frame rate a common window is preferred, even if it lies a frame and a half beyond the limits.
    slack = 1.5 if fit.rate in FPS + MORE_FPS else 0
    window = _usual(stride, low - slack, high + slack, middle) or round(middle)
    return _plausible(window, fit, _longer(float(np.median(rest)) / fit.rate))


def _by_median(fit: Fit) -> Window:
    """For inexact durations: the intercept of the line, the median rest, is window - stride if it is long enough."""
    stride, unit = fit.stride, fit.unit
    rest = fit.rest
    middle = float(np.median(rest))
    width = spread(rest)
    if width > 1.2 * stride + unit:
        # Videos have tails of different lengths, so the shortest rests are nearest to window - stride.
        more = float(np.quantile(rest, 0.05)) + 0.45 * unit
    elif width > stride / 2:
        # Less than a stride is left over at the end of each video, half of one on average.
        more = middle - stride / 2
    else:
        more = middle
    if min(abs(middle), abs(more)) <= 0.75 * stride:
        if unit > stride / 2:
            return _unknown(stride, f"durations are rounded to {unit / fit.rate:.1g} s")
        return _side_by_side(stride)
    if more < 0:
        return _too_short(stride, middle / fit.rate)
    longer = _longer(middle / fit.rate)
    if unit > stride / 2:
        longer += f" (to about {unit / fit.rate:.1g} s, as they are rounded)"
    best = stride + more
    low = best - (stride if more == middle else stride / 2) - unit / 4
    high = best + stride / 2 + unit / 4
    # A common window is preferred to the best number, if durations allow it.
    window = _usual(stride, low, high, best) or round(best)
    return _plausible(window, fit, longer)


def _usual(stride: int, low: float, high: float, best: float) -> int | None:
    """The common window that is longer than the stride, lies between two limits, and is nearest to a number of frames.

    None if there is none.
    """
    usual = [frames for frames in WINDOWS if frames > stride and low <= frames <= high]
    return min(usual, key=lambda frames: abs(frames - best)) if usual else None


def _plausible(window: int, fit: Fit, longer: str) -> Window:
    """The window, or the stride if the window is too long.

    Args:
        window: frames.
        fit: line and stride.
        longer: the reason for the window.
    """
    strides = 2.5 if fit.rate in FPS + MORE_FPS else STRIDES_SEEN
    if window > max(LONGEST * fit.rate, strides * fit.stride):
        why = f"assumed to be the stride; WARNING: {longer}, too long for a window; if it is one, give --window W"
        return Window(fit.stride, why)
    return Window(window, f"{window} frames, as {longer}")


def _unknown(stride: int, why: str) -> Window:
    return Window(stride, f"assumed to be the stride, as it cannot be determined: {why}; else give --window W")


def _side_by_side(stride: int) -> Window:
    return Window(stride, "the stride, snippets side by side")


def _too_short(stride: int, seconds: float) -> Window:
    return Window(stride, f"assumed to be the stride; WARNING: features end {-seconds:.2f} s after the videos")


def _longer(seconds: float) -> str:
    return f"durations are {seconds:.2f} s longer than snippets side by side"
