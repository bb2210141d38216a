"""When the snippets of one's own features happen: guessed by `fustal init` from durations and numbers of snippets.

A video of n snippets lasts about (n - 1) * stride + window frames. So a straight line of duration over n rises by
stride / fps from snippet to snippet, and begins at (window - stride) / fps. It is drawn by Theil and Sen's rule, the
median of the slopes between all pairs of videos, which a few wrong durations do not bend.

Where durations are exact, more is known: what a video has more than n strides, its rest, is at least window - stride
and less than window. So only slopes are possible at which the rests of all videos lie within a stride, and the least
rest says the window.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import linprog
from scipy.stats import theilslopes

from fustal.exceptions import InputError
from fustal.tools.own_data.layout import Features, ratio

FPS, MORE_FPS = (25, 30), (29.97, 24, 23.976, 50, 60, 59.94)
"""Usual frames per second; the second row where the first does not fit."""

STRIDES, WINDOWS = (1, 2, 4, 8, 16, 32, 64), (8, 16, 32, 64)
"""Usual numbers of frames."""

SECONDS = (1, 0.5)
"""Usual times from snippet to snippet, whatever the frames."""

NEAR = 0.02
"""Where durations cannot tell, a stride in frames is taken for a usual one that is so near."""

CLEAR, PERHAPS = 0.1, 0.25
"""The slope must be known as exactly as this share of it; or as the second, if without a beginning it were unusual."""

LOOSE = (0, 0.1, 0.25)
"""Rests may spread over so many strides more than one, the least that is possible: durations are never quite exact."""

OUTLIERS = 0.1
"""So large a share of the videos may have durations that are wrong by more than 3 strides."""

PAIRED = 1000
"""So many videos at most are compared in pairs."""

LONGEST_WINDOW = 2.6
"""Seconds that a window may last, or 8 strides; at a usual rate of videos 2.5. What is longer is a tail of it."""


@dataclass
class Given:
    """What the user says of the grid: frames per second, frames from snippet to snippet, frames that a snippet sees."""

    fps: float | None = None
    stride: int | None = None
    window: int | None = None


class Step(NamedTuple):
    """A grid as the card says it, and how it was found."""

    fps: float | str
    stride: int
    window: int
    how: str


class Line(NamedTuple):
    """Durations, in seconds or frames, over numbers of snippets.

    Attributes:
        slope: from snippet to snippet.
        low: it is hardly less than this,
        high: nor more than this.
        mean: median of duration by number of snippets: the slope, if the line began at 0.
        exact: low and high are limits beyond which the rests of the videos do not lie within a stride.
        lengths: snippets of each video (N,).
        extents: durations (N,).
    """

    slope: float
    low: float
    high: float
    mean: float
    exact: bool
    lengths: np.ndarray
    extents: np.ndarray

    def rest(self, slope: float) -> np.ndarray:
        """What of each duration is left when each snippet lasts `slope` (N,)."""
        return self.extents - slope * self.lengths

    def regular(self, slope: float, unit: float) -> np.ndarray:
        """Which videos count where limits are sought (N,): those of one snippet may be too short for their window."""
        rest = self.rest(slope)
        return (np.abs(rest - np.median(rest)) <= 3 * slope + unit) & (self.lengths > 1)


def find_grids(features: list[Features], videos: pd.DataFrame, given: Given) -> list[Step]:
    """When the snippets of each grid happen.

    Args:
        features: of one grid, or of two, the shorter first; a given stride is that of the first.
        videos: frame of the annotations, with duration (s) and fps, NaN where unknown.
        given: what the user says.

    Raises:
        InputError: durations are unknown and fps or stride is not given.
    """
    first = features[0]
    stored = videos.loc[videos.index.isin(first.lengths)]
    annotated = given.fps is None and stored.fps.notna().all() and len(stored) == len(first.lengths)
    if stored.duration.isna().all():
        if not (given.stride and (given.fps or annotated)):
            what = "durations of the videos are not annotated, so that the time of a snippet is unknown"
            advice = "give --fps F and --stride S (frames from one snippet to the next), or write durations (s) there"
            raise InputError(f"{what}: {advice}")
        return [_as_given("annotation" if annotated else given.fps, found, given, features) for found in features]
    unit = _rounding(stored.duration.dropna().to_numpy())
    seconds = [line_of(found.lengths, videos.duration, unit) for found in features]
    if annotated:
        rate = float(stored.fps.median())
        frames = [line_of(found.lengths, videos.duration * videos.fps, unit * stored.fps.max()) for found in features]
        steps = [
            _in_frames(rate, line, found, given, features, unit) for line, found in zip(frames, features, strict=True)
        ]
        if given.stride or all(map(_fits, steps, frames, seconds)):
            return steps
    fps = given.fps or _likely_fps(seconds[0], given.stride)
    steps = [
        _in_seconds(fps, line, found, given, features, unit) for line, found in zip(seconds, features, strict=True)
    ]
    return [s._replace(how=f"{s.how}; the annotated fps do not fit") for s in steps] if annotated else steps


def line_of(lengths: dict[str, int], extents: pd.Series, unit: float = 0) -> Line:
    """Draws the line.

    Args:
        lengths: video -> snippets.
        extents: duration of each video, in seconds or frames; NaN where unknown.
        unit: to which they are rounded.
    """
    table = pd.DataFrame({"n": pd.Series(lengths, dtype=float), "d": extents}).dropna().sort_values("n")
    table = table[table.n > 0]
    some = table.iloc[np.unique(np.linspace(0, len(table) - 1, min(PAIRED, len(table))).astype(int))]
    n, d = some.n.to_numpy(), some.d.to_numpy()
    mean = float(np.median(d / n))
    slope, low, high = mean, -np.inf, np.inf
    if len(np.unique(n)) > 2:
        slope, _, low, high = theilslopes(d, n)
        drift = slope / n.max()  # a snippet more or less in the longest video
        low, high = slope - max(1.5 * (slope - low), drift), slope + max(1.5 * (high - slope), drift)
    line = Line(float(slope), float(low), float(high), mean, False, n, d)
    return _limited(line, unit) if np.isfinite(low) and slope > 0 else line


def _limited(line: Line, unit: float) -> Line:
    """The line with the limits of its slope, where the rests of all regular videos lie within a stride at some slope.

    Args:
        line: as Theil and Sen draw it.
        unit: to which its extents are rounded.
    """
    regular = line.regular(line.slope, unit)
    if regular.mean() < 1 - OUTLIERS:
        return line
    n, d = line.lengths[regular], line.extents[regular]
    one = np.ones_like(n)
    coarse = unit > line.slope / 4  # the middle of many durations is more exact than each of them
    within = (line.low, line.high) if coarse else (0, None)
    for loose in LOOSE:
        # of slope and least rest: least <= d - n * slope, and d - n * slope <= least + (1 + loose) * slope + unit
        limits = np.vstack([np.column_stack([n, one]), np.column_stack([-n - 1 - loose, -one])])
        values = np.concatenate([d, unit - d])
        ends = [linprog([sign, 0], limits, values, bounds=[within, (None, None)]) for sign in (1, -1)]
        if all(end.success for end in ends):
            low, high = (float(end.x[0]) for end in ends)
            slope = line.slope if coarse and low <= line.slope <= high else (low + high) / 2
            slack = 0.05 * slope / n.max()
            return line._replace(slope=slope, low=low - slack, high=high + slack, exact=True)
    return line


def settled(line: Line, usual: list[float]) -> tuple[float, bool]:
    """The slope, and whether the line is clear enough to tell it from where it begins.

    Args:
        line: of durations over snippets.
        usual: slopes of which one is taken if it alone is on the line.
    """
    doubt = (line.high - line.low) / 2
    if line.exact and doubt <= CLEAR * line.slope:
        return _usual_or_round(line, usual), True
    near = sorted({round(slope, 9) for slope in usual if line.low <= slope <= line.high})
    expected = any(abs(slope / line.mean - 1) < NEAR for slope in usual)
    if line.slope <= 0:
        return line.mean, False
    if len(near) == 1 and doubt <= (CLEAR if expected else PERHAPS) * line.slope:
        return near[0], True
    if not near and doubt <= min(CLEAR, 1 / np.median(line.lengths)) * line.slope:
        return line.slope, True
    return line.mean, False


def _usual_or_round(line: Line, usual: list[float]) -> float:
    """The usual slope that is nearest to the line's, if it is possible; else the roundest of those that are."""
    nearest = min(usual, key=lambda slope: abs(slope - line.slope))
    return nearest if line.low <= nearest <= line.high else _roundest(line.slope, line.low, line.high)


def _likely_fps(line: Line, stride: int | None) -> float:
    """25 or 30 where that makes a usual stride, else others, else milliseconds taken as frames."""
    strides = [stride] if stride else STRIDES
    usual = [frames / fps for fps in FPS for frames in strides]
    slope, clear = settled(line, usual if stride else [*usual, *SECONDS])
    far = slope / line.lengths.max() if clear else (NEAR + 0.5 / np.median(line.lengths)) * slope
    if clear and line.exact:
        more = [frames / fps for fps in MORE_FPS for frames in strides]
        slope = slope if slope in (*usual, *SECONDS) else settled(line, more)[0]
        far = 1e-9
    for rates in (FPS, MORE_FPS) if clear else (FPS,):
        gap, fps = min((abs(frames / fps - slope), fps) for fps in rates for frames in strides)
        if gap <= far:
            return fps
    if stride:
        return round(stride / slope, 3)
    drift = abs(max(1, round(1000 * slope)) / 1000 - slope) * line.lengths.max()
    return 1000 if drift <= slope / 4 else float(round(1000 * slope) / slope)


def _roundest(value: float, low: float, high: float) -> float:
    """The value with as few decimals as keep it between low and high; three at most, else the value itself."""
    rounded = (round(value, decimals) for decimals in range(4))
    return next((short for short in rounded if low <= short <= high), value)


def _in_seconds(fps: float, line: Line, found: Features, given: Given, features: list[Features], unit: float) -> Step:
    slope, clear = settled(line, [*(frames / fps for frames in STRIDES), *SECONDS])
    stride = _given_stride(found, given, features) or max(1, round(slope * fps))
    framed = line._replace(slope=line.slope * fps, low=line.low * fps, high=line.high * fps)
    framed = framed._replace(mean=line.mean * fps, extents=line.extents * fps)
    return _step(float(fps), stride, framed, clear or bool(given.stride and given.fps), given, fps, unit * fps)


def _in_frames(rate: float, line: Line, found: Features, given: Given, features: list[Features], unit: float) -> Step:
    slope, clear = settled(line, list(map(float, STRIDES)))
    stride = _given_stride(found, given, features) or max(1, round(slope))
    return _step("annotation", stride, line, clear or bool(given.stride), given, rate, unit * rate)


def _as_given(fps: float | str, found: Features, given: Given, features: list[Features]) -> Step:
    stride = _given_stride(found, given, features)
    how = f"every {stride} frames at {_rate(fps)} fps, as given"
    how += "" if given.window else "; window: taken as the stride, as nothing tells how many frames a snippet sees"
    return Step(fps if fps == "annotation" else float(fps), stride, given.window or stride, how)


def _given_stride(found: Features, given: Given, features: list[Features]) -> int | None:
    return max(1, round(given.stride * ratio(features[0], found))) if given.stride else None


def _fits(step: Step, frames: Line, seconds: Line) -> bool:
    """Whether annotated frames are as good as seconds: a whole stride is near enough, and the line as narrow."""
    exact = frames.low <= step.stride <= frames.high if np.isfinite(frames.low) else True
    in_frames, in_seconds = (_range(line.rest(line.slope)) / line.mean for line in (frames, seconds))
    return exact and in_frames <= 1.5 * in_seconds + 0.5


def _range(values: np.ndarray) -> float:
    """From the lowest to the highest of the middle four fifths."""
    low, high = np.quantile(values, [0.1, 0.9])
    return float(high - low)


def _step(fps: float | str, stride: int, line: Line, clear: bool, given: Given, rate: float, unit: float) -> Step:
    """The grid, with a sentence on how it was found.

    Args:
        fps: of the card.
        stride: frames.
        line: of frames over snippets.
        clear: its slope and beginning can be told apart.
        given: by the user.
        rate: frames per second, about.
        unit: frames to which durations are rounded, about.
    """
    rest = line.rest(stride)
    how = f"every {stride} frames at {_rate(fps)} fps"
    how += " (a frame is a millisecond here)" if fps == 1000 and not given.fps else ""
    if given.stride:
        how += ", as given"
    else:
        slope = f"{line.slope:.3g} frames" if fps == "annotation" else f"{line.slope / rate:.3g} s"
        begin, spread = np.median(rest) / rate, _range(rest) / 2 / rate
        how += (
            f": duration over snippets of {len(rest)} videos has slope {slope}, intercept {begin:.2f} ± {spread:.2f} s"
        )
    known = line.exact and clear and unit <= stride / 2 and line.low <= stride <= line.high
    apart = line.high - line.low
    if known and not given.stride and apart > 0.01 * stride and apart * np.ptp(line.lengths) > stride / 4:
        how += f"; {line.low / rate:.3g} to {line.high / rate:.3g} s a snippet fit as well"
    if known:
        window, why = _least_window(stride, rest[line.regular(stride, unit)], rate, unit)
    else:
        window, why = _window(stride, rest, clear, rate, unit)
    how += "; window: as given" if given.window else f"; window: {why}"
    if line.mean / rate > 5 and not given.fps:
        how += f"; ODD: {line.mean / rate:.3g} s a snippet is long: are durations in frames or milliseconds?"
    if _range(rest) > max(0.25 * np.median(line.extents), 4 * stride):
        low, high = np.quantile(line.extents / line.lengths, [0.1, 0.9])
        how += f"; ODD: it differs, {low:.3g} to {high:.3g} frames; features stretched to one length fit no grid"
    return Step(fps, stride, given.window or window, how)


def _window(stride: int, rest: np.ndarray, clear: bool, rate: float, unit: float) -> tuple[int, str]:
    """Frames that a snippet sees, and why.

    Args:
        stride: frames.
        rest: frames of each video that snippets side by side would leave (N,).
        clear: the line's slope and beginning can be told apart.
        rate: frames per second, about.
        unit: frames to which durations are rounded, about.
    """
    if not clear:
        return (
            stride,
            "taken as the stride, as durations and lengths are too few or too equal to tell; --window W says it",
        )
    middle, spread = float(np.median(rest)), _range(rest)
    if spread > 1.2 * stride + unit:  # tails of different lengths
        more = float(np.quantile(rest, 0.05)) + 0.45 * unit
    else:  # less than a stride is left over at the end of each video, half of one on average
        more = middle - (stride / 2 if spread > stride / 2 else 0)
    if min(abs(middle), abs(more)) <= 0.75 * stride:
        if unit > stride / 2:
            what = f"the window cannot be known from durations rounded to {unit / rate:.1g} s"
            return stride, f"taken as the stride, as {what}; --window W says it"
        return stride, "the stride, snippets side by side"
    if more < 0:
        return stride, f"taken as the stride; ODD: features end {-middle / rate:.2f} s after the videos"
    longer = f"durations are {middle / rate:.2f} s longer than snippets side by side"
    low = stride + middle - stride - unit / 4 if more == middle else stride + more - stride / 2 - unit / 4
    high = stride + more + stride / 2 + unit / 4
    usual = [frames for frames in WINDOWS if frames > stride and low <= frames <= high]
    window = min(usual, key=lambda frames: abs(frames - stride - more)) if usual else round(stride + more)
    if unit > stride / 2:
        longer += f" (known to about {unit / rate:.1g} s, to which they are rounded)"
    return _plausible(window, stride, rate, longer)


def _least_window(stride: int, rest: np.ndarray, rate: float, unit: float) -> tuple[int, str]:
    """Frames that a snippet sees, and why, where rests lie between window - stride and window.

    Args:
        stride: frames.
        rest: frames of each regular video that snippets side by side would leave (N,).
        rate: frames per second, about.
        unit: frames to which durations are rounded, about.
    """
    ends = float(rest.max()) - unit / 2, float(rest.min()) + stride + unit / 2
    low, high = min(ends), max(ends)
    if low <= 1.05 * stride + 1:
        if high > 1.5 * stride + 1:
            what = f"the window cannot be known from these durations, up to {high:.0f} frames fit"
            return stride, f"taken as the stride, as {what}; --window W says it"
        if high < -0.5 * stride:
            return stride, f"taken as the stride; ODD: features end {-np.median(rest) / rate:.2f} s after the videos"
        return stride, "the stride, snippets side by side"
    middle = (low + high) / 2
    frame = 1.5 if rate in FPS + MORE_FPS else 0
    usual = [frames for frames in WINDOWS if frames > stride and low - frame <= frames <= high + frame]
    window = min(usual, key=lambda frames: abs(frames - middle)) if usual else round(middle)
    longer = f"durations are {np.median(rest) / rate:.2f} s longer than snippets side by side"
    return _plausible(window, stride, rate, longer)


def _plausible(window: int, stride: int, rate: float, longer: str) -> tuple[int, str]:
    """The window, unless it is too long for one.

    Args:
        window: frames.
        stride: frames.
        rate: frames per second, about.
        longer: what says the window.
    """
    strides = 2.5 if rate in FPS + MORE_FPS else 8
    if window > max(LONGEST_WINDOW * rate, strides * stride):
        return stride, f"taken as the stride; ODD: {longer}, too much for a window; --window W if it is one"
    return window, f"{window} frames, as {longer}"


def _rounding(durations: np.ndarray) -> float:
    """The part of a second to which durations are rounded: 1, 0.1, 0.01, 0.001, or 0 for none."""
    for unit in (1.0, 0.1, 0.01, 0.001):
        if np.allclose(durations / unit, np.round(durations / unit), rtol=0, atol=1e-6):
            return unit
    return 0.0


def _rate(fps: float | str) -> str:
    return "the annotated" if fps == "annotation" else f"{fps:g}"
