"""Single frames of a video at given times, for figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fustal.data.files import one_line, open_regular
from fustal.exceptions import InputError

if TYPE_CHECKING:
    import av

HEIGHT = 120
"""Pixels, maximum height of a frame; figures are smaller than videos."""


def frames_at(file: Path, times: Sequence[float]) -> list[np.ndarray]:
    """The frames that a player shows at some times.

    Args:
        file: the video; its first stream of pictures is read.
        times: s from the first frame, in any order. After the end of the video its last frame is taken.

    Returns:
        A picture (height, width, 3) of 0 to 255 for each time, upright, at most `HEIGHT` high.

    Raises:
        InputError: the file has no pictures, or cannot be decoded.
    """
    import av  # late: the module can be imported without the extra

    open_regular(file).close()  # a pipe or a device may never end
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise InputError(f"{file}: holds no pictures")
            return [_picture(_frame_at(container, time)) for time in times]
    except (av.FFmpegError, EOFError) as error:
        raise InputError(f"{file}: cannot be decoded: {one_line(error)}") from None


def _frame_at(container: av.container.InputContainer, time: float) -> av.VideoFrame:
    """The last frame that begins at or before a time (s)."""
    stream = container.streams.video[0]
    unit = float(stream.time_base or 1)
    start = (stream.start_time or 0) * unit
    container.seek(int((time + start) / unit), stream=stream)  # to the key frame before
    found = None
    for frame in container.decode(stream):
        if found is not None and frame.time is not None and frame.time - start > time:
            break
        found = frame
    if found is None:
        raise EOFError(f"no frame at {time:.2f} s")
    return found


def _picture(frame: av.VideoFrame) -> np.ndarray:
    """A frame as a small upright picture (height, width, 3)."""
    small = frame
    if frame.height > HEIGHT:
        small = frame.reformat(max(round(frame.width * HEIGHT / frame.height), 1), HEIGHT)
    return np.rot90(small.to_ndarray(format="rgb24"), frame.rotation // 90)
