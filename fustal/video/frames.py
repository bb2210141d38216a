"""Single frames of a video at given times, for figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fustal.exceptions import InputError
from fustal.video import needed
from fustal.video.decode import BROADCAST, beginning, open_video, pictures, upright

HEIGHT = 120
"""Pixels, maximum height of a frame; figures are smaller than videos."""

UNSEARCHABLE = (*BROADCAST, "avi")
"""Formats without an index of times: a search finds frames that are near, or none."""


def frames_at(file: Path, times: Sequence[float]) -> list[np.ndarray]:
    """The frames that a player shows at some times.

    Args:
        file: the video; its best stream of pictures is read.
        times: s, in any order; 0 is the beginning of the file. After the end of the video its last frame is taken.

    Returns:
        A picture (height, width, 3) of 0 to 255 for each time, upright, at most `HEIGHT` high.

    Raises:
        InputError: the file has no pictures, or cannot be decoded.
    """
    frames = _searched(file, times) or _read(file, times)
    return [_small(frame) for frame in frames]


def _searched(file: Path, times: Sequence[float]) -> list[Any]:
    """The frames at some times, by a search for each; none if the file cannot be searched."""
    av = needed("av")
    with open_video(file) as (container, stream):
        if container.format.name in UNSEARCHABLE:
            return []
        try:
            return [_frame_at(container, stream, time) for time in times]
        except (av.FFmpegError, LookupError):
            return []


def _frame_at(container: Any, stream: Any, time: float) -> Any:
    """The last frame that begins at or before a time (s).

    Raises:
        LookupError: the search leads behind it.
    """
    start = beginning(container, stream)
    container.seek(int((time + start) / float(stream.time_base)), stream=stream)  # to the key frame before
    found = None
    for frame in container.decode(stream):
        if frame.time is None or frame.time - start > time:
            break
        found = frame
    if found is None:
        raise LookupError
    return found


def _read(file: Path, times: Sequence[float]) -> list[Any]:
    """The frames at some times, from the beginning of the file on."""
    found: list[Any] = [None] * len(times)
    with open_video(file) as (container, stream):
        for picture in pictures(file, container, stream, lambda line: None):
            for place, time in enumerate(times):
                if found[place] is None or picture.start <= time:
                    found[place] = picture.frame
            if picture.start > max(times):
                break
    if None in found:
        raise InputError(f"{file}: no frame of the video can be decoded")
    return found


def _small(frame: Any) -> np.ndarray:
    """A frame as a small upright picture (height, width, 3)."""
    turned = round(frame.rotation / 90) % 2
    height = frame.width if turned else frame.height
    if height <= HEIGHT:
        return upright(frame)
    width = max(round((frame.height if turned else frame.width) * HEIGHT / height), 1)
    return upright(frame, *((HEIGHT, width) if turned else (width, HEIGHT)))
