"""Guesses when the snippets of a folder's features happen, from durations and numbers of snippets.

`fustal.tools.own_data.line` fits duration over number of snippets. Here its slope becomes frames per second and stride,
and `fustal.tools.own_data.window` derives the window. Used by `fustal init`.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from fustal.exceptions import InputError
from fustal.tools.own_data.layout import Features, ratio
from fustal.tools.own_data.line import NEAR, Line, line_of, rounding, settled, spread
from fustal.tools.own_data.window import FPS, MORE_FPS, Fit, window_of

STRIDES = (1, 2, 4, 8, 16, 32, 64)
"""Common strides in frames."""

SECONDS = (1, 0.5)
"""Common times from snippet to snippet (s), independent of the frame rate."""


@dataclass
class Given:
    """What the user gives of the grid; None: not given.

    Attributes:
        fps: frames per second.
        stride: frames from one snippet to the next.
        window: frames that a snippet sees.
    """

    fps: float | None = None
    stride: int | None = None
    window: int | None = None


class Step(NamedTuple):
    """A grid as a card describes it, and how it was found.

    Attributes:
        fps: frames per second, or "annotation".
        stride: frames.
        window: frames.
        how: for a message.
    """

    fps: float | str
    stride: int
    window: int
    how: str


def find_grids(features: list[Features], videos: pd.DataFrame, given: Given) -> list[Step]:
    """Guesses when the snippets of each grid happen.

    Args:
        features: of one grid, or of two, the shorter first.
        videos: frame of the annotations, with the columns duration (s) and fps, NaN where unknown.
        given: by the user; its stride is that of the first grid.

    Returns:
        A grid for each entry of `features`.

    Raises:
        InputError: no duration is annotated, and fps or stride is not given.
    """
    first = features[0]
    stored = videos.loc[videos.index.isin(first.lengths)]
    annotated = given.fps is None and bool(stored.fps.notna().all()) and len(stored) == len(first.lengths)
    givens = [_given_for(found, first, given) for found in features]
    if stored.duration.isna().all():
        return [_as_given(one, annotated) for one in givens]
    unit = rounding(stored.duration.dropna().to_numpy())
    seconds = [line_of(found.lengths, videos.duration, unit) for found in features]
    if annotated:
        # A constant stride in frames is a different time in each video, so the line is fitted in frames.
        rate = float(stored.fps.median())
        unit_frames = unit * stored.fps.max()
        frames = [line_of(found.lengths, videos.duration * videos.fps, unit_frames) for found in features]
        steps = [_in_frames(rate, line, one, unit) for line, one in zip(frames, givens, strict=True)]
        if given.stride or _all_fit(steps, frames, seconds):
            return steps
    fps = given.fps or _likely_fps(seconds[0], given.stride)
    steps = [_in_seconds(fps, line, one, unit) for line, one in zip(seconds, givens, strict=True)]
    if annotated:
        steps = [step._replace(how=f"{step.how}; the annotated fps do not fit") for step in steps]
    return steps


def _given_for(found: Features, first: Features, given: Given) -> Given:
    """What is given, with the stride of this grid: the given one times the ratio of the lengths."""
    if given.stride is None:
        return given
    times = ratio(first, found) or 1  # `find_features` returns grids with common videos only
    return replace(given, stride=max(1, round(given.stride * times)))


def _as_given(given: Given, annotated: bool) -> Step:
    """The grid without any duration.

    Args:
        given: by the user, for this grid.
        annotated: whether all videos have an annotated frame rate, and none is given.
    """
    fps: float | str | None = "annotation" if annotated else given.fps
    if not fps or not given.stride:
        what = "the annotations have no durations, so the time of a snippet is unknown"
        advice = "give --fps F and --stride S (frames from one snippet to the next), or annotate durations (s)"
        raise InputError(f"{what}: {advice}")
    how = f"every {given.stride} frames at {_rate(fps)} fps, as given"
    if not given.window:
        how += "; window: assumed to be the stride, as durations are unknown"
    return Step(fps if fps == "annotation" else float(fps), given.stride, given.window or given.stride, how)


def _in_frames(rate: float, line: Line, given: Given, unit: float) -> Step:
    """The grid in frames of the annotated rates.

    Args:
        rate: median of the rates.
        line: of durations in frames.
        given: by the user, for this grid.
        unit: what durations are rounded to, in seconds.
    """
    slope, clear = settled(line, [float(frames) for frames in STRIDES])
    stride = given.stride or max(1, round(slope))
    return _step("annotation", Fit(line, stride, clear or bool(given.stride), rate, unit * rate), given)


def _in_seconds(fps: float, line: Line, given: Given, unit: float) -> Step:
    """The grid in frames of one rate.

    Args:
        fps: frames per second.
        line: of durations in seconds.
        given: by the user, for this grid.
        unit: what durations are rounded to, in seconds.
    """
    slope, clear = settled(line, [*_slopes((fps,), STRIDES), *SECONDS])
    stride = given.stride or max(1, round(slope * fps))
    clear = clear or bool(given.stride and given.fps)
    return _step(float(fps), Fit(line.scaled(fps), stride, clear, fps, unit * fps), given)


def _slopes(rates: tuple[float, ...], strides: tuple[int, ...]) -> list[float]:
    """Seconds from snippet to snippet for each pair of a frame rate and a stride."""
    slopes = []
    for fps in rates:
        slopes += [frames / fps for frames in strides]
    return slopes


def _all_fit(steps: list[Step], frames: list[Line], seconds: list[Line]) -> bool:
    """Whether the annotated frame rates are those of the features, on all grids.

    This is so if a whole number of frames is possible as the stride, and rests in frames spread about as little as
    rests in seconds.
    """
    for step, line, other in zip(steps, frames, seconds, strict=True):
        if np.isfinite(line.low) and not line.low <= step.stride <= line.high:
            return False
        in_frames = spread(line.rest(line.slope)) / line.mean
        in_seconds = spread(other.rest(other.slope)) / other.mean
        if in_frames > 1.5 * in_seconds + 0.5:
            return False
    return True


def _likely_fps(line: Line, stride: int | None) -> float:
    """The frame rate for which the slope is a common stride: 25 or 30, else another common one.

    If there is none, a frame is a millisecond; with a given stride, the rate follows from the slope.

    Args:
        line: of durations in seconds.
        stride: the given one.
    """
    strides = (stride,) if stride else STRIDES
    usual = _slopes(FPS, strides)
    if not stride:
        usual += SECONDS
    slope, clear = settled(line, usual)
    # How far the slope may be from that of a common rate and stride.
    if clear and line.exact:
        if slope not in usual and slope not in SECONDS:
            slope, _ = settled(line, _slopes(MORE_FPS, strides))
        far = 1e-9
    elif clear:
        far = slope / line.lengths.max()  # less than a snippet at the end of the longest video
    else:
        far = (NEAR + 0.5 / np.median(line.lengths)) * slope
    for rates in (FPS, MORE_FPS) if clear else (FPS,):
        gap, fps = _nearest_rate(slope, rates, strides)
        if gap <= far:
            return fps
    if stride:
        return round(stride / slope, 3)
    # Whole milliseconds must not move the end of the longest video by more than a quarter of a snippet.
    drift = abs(max(1, round(1000 * slope)) / 1000 - slope) * line.lengths.max()
    return 1000 if drift <= slope / 4 else float(round(1000 * slope) / slope)


def _nearest_rate(slope: float, rates: tuple[float, ...], strides: tuple[int, ...]) -> tuple[float, float]:
    """The difference between a slope and the nearest one of a stride and a frame rate, and this rate."""
    nearest = (np.inf, 0.0)
    for fps in rates:
        for frames in strides:
            nearest = min(nearest, (abs(frames / fps - slope), fps))
    return nearest


def _step(fps: float | str, fit: Fit, given: Given) -> Step:
    """The grid, with a sentence on how it was found.

    Args:
        fps: as the card has it.
        fit: line and stride.
        given: by the user, for this grid.
    """
    window = window_of(fit)
    how = f"every {fit.stride} frames at {_rate(fps)} fps"
    if fps == 1000 and not given.fps:
        how += " (a frame is a millisecond here)"
    how += ", as given" if given.stride else _line_in_words(fps, fit)
    how += "; window: as given" if given.window else f"; window: {window.why}"
    how += _doubts(fit, given)
    return Step(fps, fit.stride, given.window or window.frames, how)


def _line_in_words(fps: float | str, fit: Fit) -> str:
    line, rest, rate = fit.line, fit.rest, fit.rate
    slope = f"{line.slope:.3g} frames" if fps == "annotation" else f"{line.slope / rate:.3g} s"
    intercept = f"{np.median(rest) / rate:.2f} ± {spread(rest) / 2 / rate:.2f} s"
    words = f": {len(rest)} videos last {slope} for each snippet (slope) and {intercept} more (intercept)"
    apart = line.high - line.low
    # Other slopes matter if they move the end of a video by more than a quarter of a stride.
    if fit.exact and apart > 0.01 * fit.stride and apart * np.ptp(line.lengths) > fit.stride / 4:
        words += f"; {line.low / rate:.3g} to {line.high / rate:.3g} s a snippet fit as well"
    return words


def _doubts(fit: Fit, given: Given) -> str:
    """What makes a grid unlikely."""
    line, rate = fit.line, fit.rate
    doubts = ""
    if line.mean / rate > 5 and not given.fps:
        doubts += f"; WARNING: {line.mean / rate:.3g} s a snippet is long: are durations in frames or milliseconds?"
    if spread(fit.rest) > max(0.25 * np.median(line.extents), 4 * fit.stride):
        low, high = np.quantile(line.extents / line.lengths, [0.1, 0.9])
        doubts += f"; WARNING: a snippet takes {low:.3g} to {high:.3g} frames: stretched features fit no grid"
    return doubts


def _rate(fps: float | str) -> str:
    return "the annotated" if fps == "annotation" else f"{fps:g}"
