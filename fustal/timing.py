"""When the snippets of one's own features happen: guessed by `fustal init` from durations and numbers of snippets.

A video of n snippets lasts about (n - 1) * stride + window frames. So a straight line of duration over n rises by
stride / fps from snippet to snippet, and begins at (window - stride) / fps. It is drawn by Theil and Sen's rule, the
median of the slopes between all pairs of videos, which a few wrong durations do not bend.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import theilslopes

from fustal import InputError
from fustal.layout import Features, ratio

FPS, MORE_FPS = (25, 30), (29.97, 24, 23.976, 50, 60, 59.94)
"""Usual frames per second; the second row where the first does not fit."""

STRIDES, WINDOWS = (1, 2, 4, 8, 16, 32, 64), (8, 16, 32, 64)
"""Usual numbers of frames."""

NEAR = 0.02
"""Where durations cannot tell, a stride in frames is taken for a usual one that is so near."""

CLEAR, PERHAPS = 0.1, 0.25
"""The slope must be known as exactly as this share of it; or as the second, if without a beginning it were unusual."""

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
        lengths: snippets of each video (N,).
        extents: durations (N,).
    """

    slope: float
    low: float
    high: float
    mean: float
    lengths: np.ndarray
    extents: np.ndarray

    def rest(self, slope: float) -> np.ndarray:
        """What of each duration is left when each snippet lasts `slope` (N,)."""
        return self.extents - slope * self.lengths


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
    seconds = [line_of(found.lengths, videos.duration) for found in features]
    unit = _rounding(stored.duration.dropna().to_numpy())
    if annotated:
        frames = [line_of(found.lengths, videos.duration * videos.fps) for found in features]
        steps = [_in_frames(line, found, given, features, unit) for line, found in zip(frames, features, strict=True)]
        if given.stride or all(map(_fits, steps, frames, seconds)):
            return steps
    fps = given.fps or _likely_fps(seconds[0], given.stride)
    steps = [
        _in_seconds(fps, line, found, given, features, unit) for line, found in zip(seconds, features, strict=True)
    ]
    return [s._replace(how=f"{s.how}; the annotated fps do not fit") for s in steps] if annotated else steps


def line_of(lengths: dict[str, int], extents: pd.Series) -> Line:
    """Draws the line.

    Args:
        lengths: video -> snippets.
        extents: duration of each video, in seconds or frames; NaN where unknown.
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
    return Line(float(slope), float(low), float(high), mean, n, d)


def settled(line: Line, usual: list[float]) -> tuple[float, bool]:
    """The slope, and whether the line is clear enough to tell it from where it begins.

    Args:
        line: of durations over snippets.
        usual: slopes of which one is taken if it alone is on the line.
    """
    doubt = (line.high - line.low) / 2
    near = sorted({round(slope, 9) for slope in usual if line.low <= slope <= line.high})
    expected = any(abs(slope / line.mean - 1) < NEAR for slope in usual)
    if line.slope <= 0:
        return line.mean, False
    if len(near) == 1 and doubt <= (CLEAR if expected else PERHAPS) * line.slope:
        return near[0], True
    if not near and doubt <= min(CLEAR, 1 / np.median(line.lengths)) * line.slope:
        return line.slope, True
    return line.mean, False


def _likely_fps(line: Line, stride: int | None) -> float:
    """25 or 30 where that makes a usual stride, else others, else milliseconds taken as frames."""
    strides = [stride] if stride else STRIDES
    slope, clear = settled(line, [frames / fps for fps in FPS for frames in strides])
    far = slope / line.lengths.max() if clear else (NEAR + 0.5 / np.median(line.lengths)) * slope
    for rates in (FPS, MORE_FPS) if clear else (FPS,):
        gap, fps = min((abs(frames / fps - slope), fps) for fps in rates for frames in strides)
        if gap <= far:
            return fps
    if stride:
        return round(stride / slope, 3)
    drift = abs(max(1, round(1000 * slope)) / 1000 - slope) * line.lengths.max()
    return 1000 if drift <= slope / 4 else float(round(1000 * slope) / slope)


def _in_seconds(fps: float, line: Line, found: Features, given: Given, features: list[Features], unit: float) -> Step:
    slope, clear = settled(line, [frames / fps for frames in STRIDES])
    stride = _given_stride(found, given, features) or max(1, round(slope * fps))
    framed = line._replace(slope=line.slope * fps, mean=line.mean * fps, extents=line.extents * fps)
    return _step(float(fps), stride, framed, clear or bool(given.stride and given.fps), given, fps, unit * fps)


def _in_frames(line: Line, found: Features, given: Given, features: list[Features], unit: float) -> Step:
    slope, clear = settled(line, list(map(float, STRIDES)))
    stride = _given_stride(found, given, features) or max(1, round(slope))
    return _step("annotation", stride, line, clear or bool(given.stride), given, 25, unit * 25)


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
        return stride, "the stride, snippets side by side"
    if more < 0:
        return stride, f"taken as the stride; ODD: features end {-middle / rate:.2f} s after the videos"
    longer = f"durations are {middle / rate:.2f} s longer than snippets side by side"
    low = stride + middle - stride - unit / 4 if more == middle else stride + more - stride / 2 - unit / 4
    high = stride + more + stride / 2 + unit / 4
    usual = [frames for frames in WINDOWS if frames > stride and low <= frames <= high]
    window = min(usual, key=lambda frames: abs(frames - stride - more)) if usual else round(stride + more)
    strides = 2.5 if rate in FPS + MORE_FPS else 8
    if window > max(LONGEST_WINDOW * rate, strides * stride):
        return stride, f"taken as the stride; ODD: {longer}, too much for a window; --window W if it is one"
    return window, f"{window} frames, as {longer}"


def _rounding(durations: np.ndarray) -> float:
    """The part of a second to which durations are rounded: 1, 0.1, or 0 for none."""
    for unit in (1.0, 0.1):
        if np.allclose(durations / unit, np.round(durations / unit), rtol=0, atol=1e-6):
            return unit
    return 0.0


def _rate(fps: float | str) -> str:
    return "the annotated" if fps == "annotation" else f"{fps:g}"
