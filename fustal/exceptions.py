"""Exceptions, and problems of files that are reported as one line."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """What is wrong, or only odd, with a file; as text, one line that names file, video and value.

    Attributes:
        file: which.
        what: is wrong with it.
        video: whose entry or features.
        fix: what to do about it.
        warning: it may stay.
        subset: of the video in the annotations, where that is known.
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
    """Something the user gave is wrong: a file, a parameter, a label. One line names it, or a `Problem`."""
