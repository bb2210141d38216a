"""FuSTAL: full-stage pseudo label quality enhancement for weakly-supervised temporal action localization.

The package under the numbered notebooks. Read it in the order in which they use it: `params`, `annotations`, `dataset`,
`features`, `generator`, `proposals`, `student`, `distillation`, `evaluation`; `runs`, `training`, `parallel`, `batch`
carry them.
"""

import os
from dataclasses import dataclass
from pathlib import Path

# PyTorch's memory in large pages, where Linux has them: getting small ones costs more than the arithmetic on them.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

ROOT = Path(__file__).resolve().parents[1]
"""The repository: `notebooks/`, `params/` and `outputs/` lie here, whatever the working directory is."""


@dataclass(frozen=True)
class Problem:
    """What is wrong, or only odd, with a file; as text, one line that names file, video and value.

    Attributes:
        file: which.
        what: is wrong with it.
        video: whose entry or features.
        mend: what to do about it.
        warning: it may stay.
        subset: of the video in the annotations, where that is known.
    """

    file: Path
    what: str
    video: str | None = None
    mend: str = ""
    warning: bool = False
    subset: str | None = None

    def __str__(self) -> str:
        video = "" if self.video is None else f"video {self.video!r:.80}: "
        return f"{self.file}: {video}{self.what}"


class InputError(ValueError):
    """Something the user gave is wrong: a file, a parameter, a label. One line names it, or a `Problem`."""
