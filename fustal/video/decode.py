"""The frames of a video file, by their time stamps, on a regular grid.

Frame k of the grid stands for the time from k / fps to (k + 1) / fps. It is the picture that a player shows in the
middle of this time. So the snippet of frames i * stride to i * stride + window - 1 is centred at
(i * stride + window / 2) / fps seconds (docs/method.md section 1), and an event is at most half a frame of the grid
away from its true time. A video with the frame rate of the grid gives its own frames, even if its time stamps are
rounded. Time 0 is the beginning of the file, as in a player.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fustal.data.files import open_regular
from fustal.exceptions import InputError
from fustal.video import needed

ROUNDING = 1e-3
"""Seconds by which a time stamp may be wrong: Matroska and WebM round them to milliseconds."""

JUMP_BACK = 1.0
"""Seconds by which a time stamp is earlier than those before if recordings were joined: one then follows the other."""

JUMP_AHEAD = 10.0
"""Seconds without a frame after which a time stamp is wrong, or recordings were joined, unless it may be a pause."""

BROADCAST = ("mpegts", "mpeg", "flv")
"""Formats in which recordings are joined whose time stamps begin anywhere. They are taken to have no pauses."""

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
        for following in pictures(path, container, stream, note):
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
        if stream is None or is_cover(stream):
            kinds = sorted({stream.type for stream in container.streams if stream.type != "video"})
            raise InputError(f"{path}: has no video stream, only {', '.join(kinds) or 'a picture'}")
        if stream.codec_context is None:
            raise InputError(f"{path}: no decoder is known for its video stream")
        yield container, stream


def is_cover(stream: Any) -> bool:
    """Whether a stream is only a picture, such as the cover of an album."""
    return bool(stream.disposition & needed("av").stream.Disposition.attached_pic)


def pictures(path: Path, container: Any, stream: Any, note: Callable[[str], None]) -> Iterator[Picture]:
    """All frames of a stream in the order in which they are shown."""
    count = sum(not is_cover(other) for other in container.streams.video)
    if count > 1:
        note(f"{path}: has {count} video streams; number {stream.index} is used")
    usual = 1 / float(stream.average_rate or 25)  # seconds of a frame
    # MPEG-TS and MPEG have no header with it: that is a guess, from the last time stamp
    declared = None if container.format.name.startswith("mpeg") else _declared(container, stream)
    clock = _Clock(container, stream, declared)
    start = end = 0.0
    broken = 0
    for frame in _decoded(container, stream):
        if frame is None:
            broken += 1
            continue
        broken += frame.is_corrupt
        start = clock.start(frame, start, end)
        # In a file with frames in another order this is the time to the next one that is decoded, not shown
        end = start + (float((frame.duration or 0) * frame.time_base) or usual)
        if declared and start < declared:
            end = min(end, declared)
        yield Picture(frame, start, end)
    if broken:
        note(f"{path}: {broken} broken frames; the frame before, or what is left of them, is used")
    if declared and end and end < declared - CUT:
        what = f"its frames end at {end:.2f} s, and its header tells {declared:.2f} s"
        raise InputError(f"{path}: is cut off or damaged: {what}")


class _Clock:
    """When frames are shown, by their time stamps; stamps without sense are replaced.

    Args:
        container: the file.
        stream: of its frames.
        declared: see `_declared`.
    """

    def __init__(self, container: Any, stream: Any, declared: float | None) -> None:
        self._zero = beginning(container, stream)
        self._limit = declared + CUT if declared else inf
        if container.format.name in BROADCAST:
            self._limit = 0.0
        # AVI has no times for showing: frames are shown one after the other, in steps of the times of decoding
        self._decoding = container.format.name == "avi" and stream.codec_context.has_b_frames
        self._recent = (0.0, 0.0)  # times of the last two frames: one wrong stamp is not taken for a joint
        self._moved = 0.0  # what is added to the stamps after a jump

    def start(self, frame: Any, last: float, end: float) -> float:
        """When a frame is shown.

        Args:
            frame: the next one.
            last: when the last one began.
            end: when the last one ends, if its duration is right.
        """
        stamp = frame.dts if self._decoding else frame.pts
        time = end
        if stamp is not None:
            seconds = float(stamp * frame.time_base)
            if self._decoding and not end:
                self._zero = seconds
            time = seconds - self._zero + self._moved
        back = time < min(self._recent) - JUMP_BACK
        ahead = time > max(end + JUMP_AHEAD, self._limit)
        if back or ahead:
            self._moved += end - time
            time = end
        self._recent = (self._recent[1], time)
        # A wrong stamp holds the picture until the right ones come after it
        return max(last, time)


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


def beginning(container: Any, stream: Any) -> float:
    """The time stamp, in seconds, at which a player begins. Sound with a negative one is not played, pictures are."""
    first = float((stream.start_time or 0) * stream.time_base)
    return max((container.start_time or 0) / 1e6, min(first, 0.0))


def _declared(container: Any, stream: Any) -> float | None:
    """When the video stream ends, s, as the header tells; None if it does not."""
    zero = beginning(container, stream)
    if stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - zero
    written = stream.metadata.get("DURATION")  # Matroska's last time, such as 00:01:30.040000000
    if written:
        try:
            hours, minutes, seconds = written.split(":")
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds) - zero
        except ValueError:
            return None
    if container.duration and len(container.streams) == 1:
        return container.duration / 1e6 - zero
    return None


def upright(frame: Any, width: int | None = None, height: int | None = None) -> np.ndarray:
    """RGB, uint8 (H, W, 3), turned as the file tells: phones write pictures as they hold the camera.

    Args:
        frame: a decoded frame.
        width: pixels to which it is scaled before it is turned; None: its own.
        height: pixels.
    """
    picture = frame.to_ndarray(format="rgb24", width=width, height=height)
    turns = round(frame.rotation / 90)
    return np.ascontiguousarray(np.rot90(picture, turns))


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
