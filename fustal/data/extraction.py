"""Which files are videos, and the record of how `fustal extract` made the features of a folder.

`fustal init` and `fustal localize` read the record.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fustal.data.files import read_json, validated
from fustal.data.values import check_name
from fustal.exceptions import InputError

EXTRACTION = "extraction.json"

SOURCES = "sources.json"
"""Beside the record: name of a video -> bytes of the file of which its features were made."""

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv", ".3gp")
"""Endings of the names of video files, where a folder is searched for them."""

PATTERNS: dict[Literal["generator", "student"], str] = {
    "generator": "features/generator/{video}.npy",
    "student": "features/student/{video}.npy",
}
"""Stage -> path of its features in the folder."""


class Extraction(BaseModel):
    """How features were made from videos.

    Snippets of the generator lie side by side, a window after the other. Those of the student have their own stride; if
    it is the window, one set of features serves both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = Field(max_length=1000, description="name, or module:function")
    weights: str | None = Field(description="SHA-256 of the file of weights; null: the backbone has none")
    weights_file: str | None = Field(description="its path when the features were made")
    fps: float = Field(gt=0, le=1000, allow_inf_nan=False, description="frames per second")
    stride: int = Field(ge=1, le=100_000, description="frames between snippets of the student")
    window: int = Field(ge=1, le=100_000, description="frames of a snippet")
    versions: dict[str, str] = Field(default={}, description="of the packages that made them")

    def strides(self) -> dict[Literal["generator", "student"], int]:
        """Frames between snippets, for each stage that has features of its own."""
        if self.stride == self.window:
            return {"generator": self.window}
        return {"generator": self.window, "student": self.stride}

    def settings(self) -> dict[str, object]:
        """What must be equal, so that features can be compared."""
        return self.model_dump(include={"backbone", "weights", "fps", "stride", "window"})


def read_extraction(folder: Path) -> Extraction | None:
    """The record in a folder; None if there is none.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / EXTRACTION
    return validated(Extraction, read_json(path), path) if path.exists() else None


def read_sources(folder: Path) -> dict[str, int]:
    """Name of a video -> bytes of the file of which its features in a folder were made, where that is known.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / SOURCES
    return read_json(path) if path.exists() else {}


def find_videos(given: Sequence[str]) -> dict[str, Path]:
    """The videos that some paths name: files, or folders, of which all files with a video's ending are taken.

    Returns:
        Name of a video, that of its file without its ending -> file.

    Raises:
        InputError: there is no such file, or two have the same name.
    """
    found: dict[str, Path] = {}
    for text in given:
        path = Path(text)
        files = [path]
        if path.is_dir():
            files = videos_in(path)
            if not files:
                raise InputError(f"{path}: holds no video ({', '.join(VIDEOS)})")
        for file in files:
            video = file.stem
            try:
                check_name(video)
            except ValueError as error:
                raise InputError(f"{str(file)!r}: video {video!r}: {error}") from None
            if video in found and found[video].resolve() != file.resolve():
                raise InputError(f"{file}: video {video!r} is given twice, also as {found[video]}")
            if not file.exists():
                raise InputError(f"{file}: no such file")
            found[video] = file
    return found


def videos_in(folder: Path) -> list[Path]:
    """The files in a folder that have a video's ending, sorted."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in VIDEOS and file.is_file())
