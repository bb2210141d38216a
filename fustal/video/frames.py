"""Single frames of a video at given times, for figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fustal.data.files import one_line
from fustal.exceptions import InputError
from fustal.video import needed
from fustal.video.decode import beginning, open_video

HEIGHT = 120
"""Pixels, maximum height of a frame; figures are smaller than videos."""


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
    av = needed("av")
    with open_video(file) as (container, stream):
        try:
            return [_picture(_frame_at(container, stream, time)) for time in times]
        except (av.FFmpegError, EOFError) as error:
            raise InputError(f"{file}: cannot be decoded: {one_line(error)}") from None


def _frame_at(container: Any, stream: Any, time: float) -> Any:
    """The last frame that begins at or before a time (s)."""
    start = beginning(container)
    container.seek(int((time + start) / float(stream.time_base)), stream=stream)  # to the key frame before
    found = None
    for frame in container.decode(stream):
        if found is not None and frame.time is not None and frame.time - start > time:
            break
        found = frame
    if found is None:
        raise EOFError(f"no frame at {time:.2f} s")
    return found


def _picture(frame: Any) -> np.ndarray:
    """A frame as a small upright picture (height, width, 3)."""
    small = frame
    if frame.height > HEIGHT:
        small = frame.reformat(max(round(frame.width * HEIGHT / frame.height), 1), HEIGHT)
    return np.rot90(small.to_ndarray(format="rgb24"), frame.rotation // 90)
