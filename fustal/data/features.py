"""Feature files on their grids: opened memory-mapped, checked, and sampled.

Taught in notebook 01, section "Snippets".
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fustal.data.cards import Dataset
from fustal.data.files import one_line, printable
from fustal.exceptions import InputError, Problem

ALL = slice(None)

LARGEST = 1e6
"""Features beyond it are refused: squares and products of such overflow in a training."""


@dataclass(frozen=True)
class VideoGrid:
    """The grid of one video: when its snippets happen (docs/method.md section 1).

    >>> grid = VideoGrid(fps=25.0, stride=16, window=16)
    >>> grid.to_seconds(0), grid.to_snippets(0.32)
    (0.32, 0.0)
    """

    fps: float
    stride: int
    window: int

    def to_seconds(self, snippets):
        """Seconds of snippet positions (any array or number); snippet i is centred on its window."""
        return (snippets * self.stride + self.window / 2) / self.fps

    def to_snippets(self, seconds):
        """Snippet positions, with fractions, of times in seconds."""
        return (seconds * self.fps - self.window / 2) / self.stride


class Layout(NamedTuple):
    """Where the numbers of a `.npy` file are: what `np.memmap` needs to know."""

    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    order: str


class FeatureStore:
    """The features of a data set on one grid: `store[video]` is a float32 array (T, D).

    Nothing is held in memory but where each file's numbers begin: files are opened memory-mapped each time, checked the
    first time.

    Args:
        dataset: whose videos.
        stage: "generator" or "student", the grid.
    """

    def __init__(self, dataset: Dataset, stage: str) -> None:
        self.dataset, self.grid = dataset, dataset.grids[stage]
        self._subsets = dataset.videos.get("stored_as", dataset.videos.subset).to_dict()
        self._fps = dataset.videos.fps.to_dict()
        self._layouts: dict[str, list[Layout]] = {}
        self._finite: set[str] = set()

    def paths(self, video: str) -> list[Path]:
        """The files that hold a video's features, one per modality."""
        subset, modalities = self._subsets[video], self.grid.modalities or [""]
        return [
            self.dataset.root / self.grid.pattern.format(video=video, subset=subset, modality=modality)
            for modality in modalities
        ]

    def open(self, video: str) -> list[np.ndarray]:
        """Memory-mapped (T, D) arrays, one per modality, of equal length."""
        layouts, paths = self._layouts_of(video), self.paths(video)
        return [np.memmap(str(path), mode="r", **layout._asdict()) for path, layout in zip(paths, layouts, strict=True)]

    def read(self, video: str, index: slice | np.ndarray = ALL, out: Tensor | None = None) -> Tensor:
        """Some snippets of a video; of a memory-mapped file only these are read.

        Args:
            video: its name.
            index: which snippets, a slice or positions (n,).
            out: float32 (n, D), filled instead of a new tensor: a part of a batch.

        Returns:
            Float32 (n, D).

        Raises:
            InputError: a file is unreadable, its form is not that of `out`, or a value is not finite (looked for once).
        """
        if video not in self._finite:
            self._check_values(video)
        return self._rows(video, index, out)

    def __getitem__(self, video: str) -> np.ndarray:
        return self.read(video).numpy()

    def length(self, video: str) -> int:
        """Number of snippets T of a video."""
        return self._layouts_of(video)[0].shape[0]

    @property
    def dim(self) -> int:
        """Number of features D, as the first video has it."""
        return sum(layout.shape[1] for layout in self._layouts_of(self.dataset.videos.index[0]))

    def grid_of(self, video: str) -> VideoGrid:
        """The grid of a video; fps from its annotation where the card says so."""
        fps = self._fps[video] if self.grid.fps == "annotation" else float(self.grid.fps)
        if math.isnan(fps):
            fix = "write it there, or a number as fps in the card"
            raise InputError(
                Problem(self.dataset.annotations, "has no fps, and the card takes it from there", video, fix)
            )
        return VideoGrid(fps, self.grid.stride, self.grid.window)

    def seconds_per_sample(self, video: str, count: int) -> float:
        """Seconds from one to the next of `count` snippets that are sampled evenly from a video."""
        grid = self.grid_of(video)
        return grid.stride * self.length(video) / (count * grid.fps)

    def duration(self, video: str) -> float:
        """Seconds of a video: from its annotation, else to the end of its last snippet."""
        annotated = float(self.dataset.videos.duration[video])
        return self.covered(video) if math.isnan(annotated) else annotated

    def covered(self, video: str) -> float:
        """Seconds to the end of a video's last snippet."""
        return float(self.grid_of(video).to_seconds(self.length(video) - 1 + self.grid.window / self.grid.stride / 2))

    def _layouts_of(self, video: str) -> list[Layout]:
        """Where a video's numbers are, one layout per modality; the files' form is checked the first time."""
        if video not in self._layouts:
            arrays = [open_features(path) for path in self.paths(video)]
            if len({len(array) for array in arrays}) > 1:
                lengths = ", ".join(
                    f"{path.parent.name} {len(a)}" for path, a in zip(self.paths(video), arrays, strict=True)
                )
                fix = "make them on the same frames, or cut them to the shortest"
                raise InputError(Problem(self.paths(video)[0], f"modalities differ in length: {lengths}", video, fix))
            self._layouts[video] = [Layout(a.dtype, a.offset, a.shape, "F" if a.flags.fnc else "C") for a in arrays]
        return self._layouts[video]

    def _check_values(self, video: str) -> None:
        rows = self._rows(video)
        finite = np.isfinite(rows.numpy())
        if not finite.all():
            snippet = int(np.flatnonzero(~finite.all(axis=1))[0])
            fix = "make the features of this video again"
            raise InputError(Problem(self.paths(video)[0], f"NaN or infinity in snippet {snippet}", video, fix))
        largest = rows.abs().max().item()
        if largest > LARGEST:
            what, fix = f"numbers up to {largest:.3g}: too large to compute with", "standardise the features"
            raise InputError(Problem(self.paths(video)[0], what, video, fix))
        self._finite.add(video)

    def _rows(self, video: str, index: slice | np.ndarray = ALL, out: Tensor | None = None) -> Tensor:
        parts = [np.require(array[index], requirements="W") for array in self.open(video)]
        widths = [part.shape[1] for part in parts]
        out = torch.empty(len(parts[0]), sum(widths)) if out is None else out
        if sum(widths) != out.shape[1]:
            numbers = f"{sum(widths)} numbers a snippet where others have {out.shape[1]}"
            raise InputError(f"{self.paths(video)[0]}: video {video!r}: {numbers}")
        for part, place in zip(parts, out.split(widths, dim=1), strict=True):
            place.copy_(torch.from_numpy(part))
        return out


def open_features(path: Path) -> np.ndarray:
    """Opens one feature file memory-mapped.

    Args:
        path: a `.npy` of (T, D) float16 or float32; never unpickled.

    Raises:
        InputError: missing, truncated, not numpy, of another type or shape, or without a snippet.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no regular file")  # a pipe would let the reader wait for ever
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        fix = "put it there, correct the card's pattern, or take the video out of annotations or split"
        raise InputError(Problem(path, "no such feature file", fix=fix)) from None
    except Exception as error:  # a broken file can raise anything
        reason = printable(one_line(error))[:200]
        reason = "it does not begin as one" if "allow_pickle" in reason else reason  # numpy takes anything for a pickle
        what = f"is not a readable .npy file: {reason}"
        raise InputError(Problem(path, what, fix="copy it again, or write numbers by numpy.save")) from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype not in (np.float16, np.float32):
        if isinstance(array, np.ndarray):
            form = f"{array.dtype} of shape {array.shape}"
        else:
            array.close()
            form = "an archive"
        fix = "write it anew: a row for each snippet, array.astype(numpy.float32)"
        raise InputError(Problem(path, f"features must be float16 or float32 of shape (T, D), not {form}", fix=fix))
    if not array.size:
        raise InputError(Problem(path, f"has no snippets: shape {array.shape}", fix="take the video out"))
    return array


def sample_train(length: int, count: int, generator: torch.Generator) -> Tensor:
    """Positions of a training sample: one drawn at random from each of `count` equal bins (docs/method.md section 2).

    Args:
        length: snippets of the video, T.
        count: bins; a video shorter than that repeats snippets.
        generator: of random numbers.

    Returns:
        Ascending positions (count,).
    """
    edges = torch.arange(count) * (length / count)
    return (edges + torch.rand(count, generator=generator) * (length / count)).long().clamp_(max=length - 1)


def sample_test(length: int, count: int) -> Tensor:
    """Positions of a test sample: at most `count`, evenly spaced; shorter videos whole.

    >>> sample_test(3, 5), sample_test(10, 5)
    (tensor([0, 1, 2]), tensor([0, 2, 4, 6, 9]))
    """
    if length <= count:
        return torch.arange(length)
    return torch.linspace(0, length - 1, count).long()
