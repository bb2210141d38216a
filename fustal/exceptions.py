"""The exception for wrong input, and problems of files, each of which is reported in one line."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """An error or a warning about a file. Its text is one line that names file, video and value.

    Attributes:
        file: the file.
        what: a description of the problem.
        video: the video whose entry or features are meant; None: the problem is not one of a single video.
        fix: what to do about it.
        warning: the data can be used as they are.
        subset: the subset of the video in the annotations, if it is known.
    """

    file: Path
    what: str
    video: str | None = None
    fix: str = ""
    warning: bool = False
    subset: str | None = None

    def __str__(self) -> str:
        video = "" if self.video is None else f"video {self.video!r:.80}: "
        return f"{self.file}: {video}{self.what}"


class InputError(ValueError):
    """Something given by the user is wrong: a file, a parameter, a label. The message is one line, or a `Problem`."""
