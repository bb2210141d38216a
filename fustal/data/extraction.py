"""The record of how `fustal extract` made the features of a folder: `fustal init` and `fustal localize` read it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fustal.data.files import read_json, validated

EXTRACTION = "extraction.json"

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
