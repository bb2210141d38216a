"""The frames of a video file, by their time stamps, on a regular grid.

Frame k of the grid stands for the time from k / fps to (k + 1) / fps. It is the picture that a player shows in the
middle of this time. So the snippet of frames i * stride to i * stride + window - 1 is centred at
(i * stride + window / 2) / fps seconds (docs/method.md section 1), and an event is at most half a frame of the grid
away from its true time. A video with the frame rate of the grid gives its own frames, even if its time stamps are
rounded. Time 0 is the beginning of the file, as in a player.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fustal.data.files import open_regular
from fustal.exceptions import InputError
from fustal.video import needed

ROUNDING = 1e-3
"""Seconds by which a time stamp may be wrong: Matroska and WebM round them to milliseconds."""

CUT = 0.5
"""Seconds of the duration in the header that may be missing at the end; more means that the file is cut off."""


class Picture(NamedTuple):
    """A decoded frame, and when it is shown: its start and its end in seconds. The end may be a guess."""

    frame: Any
    start: float
    end: float


def grid_frames(path: Path, fps: float, note: Callable[[str], None] = print) -> Iterator[np.ndarray]:
    """Decodes a video once, from its beginning to its end. At any time only two decoded frames are in memory.

    A frame that cannot be decoded is replaced by the one before. Before the first frame, the first one is shown.

    Args:
        path: the video file.
        fps: frames per second of the grid.
        note: is called with a line about each peculiarity of the file: several video streams, broken frames.

    Yields:
        RGB pictures, uint8 (H, W, 3), upright; the same object again while the same picture is shown.

    Raises:
        InputError: the file cannot be read, has no video, or is cut off. The last is only known at the end.
    """
    shown: Picture | None = None
    array = np.empty(0)
    count = 0  # grid frames so far
    with open_video(path) as (container, stream):
        pictures = _pictures(path, container, stream, note)
        for following in pictures:
            while shown and (count + 0.5) / fps + ROUNDING < following.start:
                array = array if array.size else upright(shown.frame)
                yield array
                count += 1
            shown = following
            array = np.empty(0)  # converted when it is needed: a fast video has more frames than the grid
        if shown is None:
            raise InputError(f"{path}: no frame of the video can be decoded")
        while count == 0 or (count + 0.5) / fps + ROUNDING < shown.end:
            array = array if array.size else upright(shown.frame)
            yield array
            count += 1


def duration(path: Path) -> float:
    """Seconds that the header of a video file tells, 0 if it tells nothing. Nothing is decoded.

    Raises:
        InputError: see `grid_frames`.
    """
    with open_video(path) as (container, stream):
        return _declared(container, stream) or 0.0


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container and its best video stream; pictures of covers in audio files are no video."""
    av = needed("av")
    with open_regular(path) as file:
        if not file.read(1):
            raise InputError(f"{path}: is empty")
    try:
        # Only files: a playlist could name addresses in the network
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        what = "is cut off, or is no video" if isinstance(error, av.InvalidDataError) else "cannot be read as a video"
        raise InputError(f"{path}: {what}: {_reason(error)}") from None
    with container:
        stream = container.streams.best("video")
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            kinds = sorted({stream.type for stream in container.streams if stream.type != "video"})
            raise InputError(f"{path}: has no video stream, only {', '.join(kinds) or 'a picture'}")
        if stream.codec_context is None:
            raise InputError(f"{path}: no decoder is known for its video stream")
        yield container, stream


def _pictures(path: Path, container: Any, stream: Any, note: Callable[[str], None]) -> Iterator[Picture]:
    """All frames of a stream in the order in which they are shown."""
    count = len(container.streams.video)
    if count > 1:
        note(f"{path}: has {count} video streams; number {stream.index} is used")
    usual = 1 / float(stream.average_rate or 25)  # seconds of a frame
    zero = beginning(container)
    end = 0.0
    broken = 0
    for frame in _decoded(container, stream):
        if frame is None:
            broken += 1
            continue
        broken += frame.is_corrupt
        start = end if frame.time is None else frame.time - zero
        if end and start < end - usual:  # recordings joined without new time stamps: one after the other
            start = end
        length = float((frame.duration or 0) * frame.time_base) or usual
        end = start + length
        yield Picture(frame, start, end)
    if broken:
        note(f"{path}: {broken} broken frames; the frame before, or what is left of them, is used")
    declared = _declared(container, stream)
    if declared and end and end < declared - CUT:
        what = f"its frames end at {end:.2f} s, and its header tells {declared:.2f} s"
        raise InputError(f"{path}: is cut off or damaged: {what}")


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """The frames of a stream; None for each packet that cannot be decoded."""
    av = needed("av")
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError:  # the file cannot be read any further
            yield None
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            yield None
            continue
        yield from frames


def beginning(container: Any) -> float:
    """The time stamp, in seconds, at which a player begins. A negative one is that of sound that is not played."""
    return max(container.start_time or 0, 0) / 1e6


def _declared(container: Any, stream: Any) -> float | None:
    """Seconds of the video stream as the header tells them; None if it does not."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    written = stream.metadata.get("DURATION")  # Matroska's last time, such as 00:01:30.040000000
    if written:
        try:
            hours, minutes, seconds = written.split(":")
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds) - beginning(container)
        except ValueError:
            return None
    if container.duration and len(container.streams) == 1:
        return container.duration / 1e6 - beginning(container)
    return None


def upright(frame: Any) -> np.ndarray:
    """RGB, uint8 (H, W, 3), turned as the file tells: phones write pictures as they hold the camera."""
    picture = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90)
    return np.ascontiguousarray(np.rot90(picture, turns))


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
