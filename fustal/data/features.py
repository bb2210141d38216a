"""Feature files on their grids: memory-mapped, checked, and sampled.

Taught in notebook 00, section "Snippets and features".
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fustal.data.cards import Dataset
from fustal.data.files import one_line, printable
from fustal.exceptions import InputError, Problem

ALL = slice(None)

MAX_FEATURE = 1e6
"""The maximum absolute value of a feature: squares and products of larger ones overflow in training."""


@dataclass(frozen=True)
class VideoGrid:
    """The grid of one video: the times of its snippets (docs/method.md section 1).

    Attributes:
        fps: frames per second.
        stride: frames from one snippet to the next.
        window: frames that a snippet is computed from.

    >>> grid = VideoGrid(fps=25.0, stride=16, window=16)
    >>> grid.to_seconds(0), grid.to_snippets(0.32)
    (0.32, 0.0)
    """

    fps: float
    stride: int
    window: int

    def to_seconds(self, snippets: Any) -> Any:
        """Seconds of snippet positions (a number, an array or a tensor); snippet i is centred on its window."""
        return (snippets * self.stride + self.window / 2) / self.fps

    def to_snippets(self, seconds: Any) -> Any:
        """Snippet positions, with fractions, of times in seconds (a number, an array or a tensor)."""
        return (seconds * self.fps - self.window / 2) / self.stride


class MemmapArguments(NamedTuple):
    """The arguments of `np.memmap` for the numbers in a `.npy` file; `offset` is in bytes."""

    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    order: str


class FeatureStore:
    """The features of a data set on one grid: `store[video]` is a float32 array (T, D).

    The files are opened memory-mapped for each call, and checked at the first call. No features stay in memory.

    Args:
        dataset: the data set.
        stage: "generator" or "student": which of its grids.

    Attributes:
        dataset: the data set: a function that has a store needs no second argument for it.
        grid: the grid of the stage.
    """

    def __init__(self, dataset: Dataset, stage: str) -> None:
        self.dataset = dataset
        self.grid = dataset.grids[stage]
        self._subsets = dataset.videos.get("stored_as", dataset.videos.subset).to_dict()
        self._fps = dataset.videos.fps.to_dict()
        self._memmaps: dict[str, list[MemmapArguments]] = {}
        self._checked: set[str] = set()

    def paths(self, video: str) -> list[Path]:
        """The files with a video's features, one per modality."""
        paths = []
        for modality in self.grid.modalities or [""]:
            name = self.grid.pattern.format(video=video, subset=self._subsets[video], modality=modality)
            paths.append(self.dataset.root / name)
        return paths

    def open(self, video: str) -> list[np.ndarray]:
        """Memory-mapped (T, D) arrays of a video, one per modality, of equal length T."""
        arrays: list[np.ndarray] = []
        for path, arguments in zip(self.paths(video), self._memmaps_of(video), strict=True):
            arrays.append(np.memmap(str(path), mode="r", **arguments._asdict()))
        return arrays

    def read(self, video: str, index: slice | np.ndarray = ALL, out: Tensor | None = None) -> Tensor:
        """Reads some snippets of a video. Only these are read from the disk, after the first call for a video.

        Args:
            video: its name.
            index: which snippets, a slice or positions (n,).
            out: float32 (n, D), filled instead of a new tensor: a part of a batch.

        Returns:
            Float32 (n, D).

        Raises:
            InputError: a file is unreadable, its D is not that of `out`, or a value is not finite or too large. All
                values of a video are checked at the first call.
        """
        if video not in self._checked:
            self._check_values(video)
        return self._rows(video, index, out)

    def __getitem__(self, video: str) -> np.ndarray:
        return self.read(video).numpy()

    def length(self, video: str) -> int:
        """The number of snippets T of a video."""
        return self._memmaps_of(video)[0].shape[0]

    @property
    def dim(self) -> int:
        """The number of features D of the first video, all modalities together."""
        first = self.dataset.videos.index[0]
        return sum(arguments.shape[1] for arguments in self._memmaps_of(first))

    def grid_of(self, video: str) -> VideoGrid:
        """The grid of a video; fps comes from its annotation if the card has `fps: annotation`.

        Raises:
            InputError: the annotation has no fps.
        """
        fps = self._fps[video] if self.grid.fps == "annotation" else float(self.grid.fps)
        if math.isnan(fps):
            what = "has no fps, and the card takes it from there"
            fix = "write it there, or a number as fps in the card"
            raise InputError(Problem(self.dataset.annotations, what, video, fix))
        return VideoGrid(fps, self.grid.stride, self.grid.window)

    def seconds_per_sample(self, video: str, count: int) -> float:
        """Seconds that each of `count` evenly sampled snippets stands for: those of the video over their number."""
        grid = self.grid_of(video)
        return grid.stride * self.length(video) / (count * grid.fps)

    def sample_starts(self, video: str, count: int) -> np.ndarray:
        """Seconds of the snippets that `sample_test` takes, the first at 0, and of the end of the video, (count + 1,).

        They differ from multiples of `seconds_per_sample` by less than a snippet: whole snippets are not quite even.
        """
        grid = self.grid_of(video)
        length = self.length(video)
        positions = [*sample_test(length, count).tolist(), length]
        return np.array(positions) * grid.stride / grid.fps

    def duration(self, video: str) -> float:
        """The duration of a video in seconds: from its annotation, or else the end of its last snippet."""
        annotated = float(self.dataset.videos.duration[video])
        return self.covered(video) if math.isnan(annotated) else annotated

    def covered(self, video: str) -> float:
        """The end of a video's last snippet, in seconds."""
        half_a_window = self.grid.window / self.grid.stride / 2  # in snippets
        return float(self.grid_of(video).to_seconds(self.length(video) - 1 + half_a_window))

    def _memmaps_of(self, video: str) -> list[MemmapArguments]:
        """The arguments to open a video's files, one per modality; the form of the files is checked the first time."""
        if video not in self._memmaps:
            arrays = [open_features(path) for path in self.paths(video)]
            self._check_lengths(video, arrays)
            arguments = []
            for array in arrays:
                order = "F" if array.flags.fnc else "C"
                arguments.append(MemmapArguments(array.dtype, array.offset, array.shape, order))
            self._memmaps[video] = arguments
        return self._memmaps[video]

    def _check_lengths(self, video: str, arrays: list[np.memmap]) -> None:
        if all(len(array) == len(arrays[0]) for array in arrays):
            return
        paths = self.paths(video)
        lengths = [f"{path.parent.name} {len(array)}" for path, array in zip(paths, arrays, strict=True)]
        what = f"modalities differ in length: {', '.join(lengths)}"
        fix = "make them on the same frames, or cut them to the shortest"
        raise InputError(Problem(paths[0], what, video, fix))

    def _check_values(self, video: str) -> None:
        rows = self._rows(video)
        finite = np.isfinite(rows.numpy())
        if not finite.all():
            snippet = int(np.flatnonzero(~finite.all(axis=1))[0])
            fix = "make the features of this video again"
            raise InputError(Problem(self.paths(video)[0], f"NaN or infinity in snippet {snippet}", video, fix))
        largest = rows.abs().max().item()
        if largest > MAX_FEATURE:
            what = f"numbers up to {largest:.3g}: too large to compute with"
            raise InputError(Problem(self.paths(video)[0], what, video, "standardise the features"))
        self._checked.add(video)

    def _rows(self, video: str, index: slice | np.ndarray = ALL, out: Tensor | None = None) -> Tensor:
        """See `read`; without the check of the values."""
        # torch warns about arrays that it may not write to, as slices of a memory-mapped file are: "W" copies these
        parts = [np.require(array[index], requirements="W") for array in self.open(video)]
        widths = [part.shape[1] for part in parts]
        if out is None:
            out = torch.empty(len(parts[0]), sum(widths))
        if sum(widths) != out.shape[1]:
            numbers = f"{sum(widths)} numbers a snippet where others have {out.shape[1]}"
            raise InputError(f"{self.paths(video)[0]}: video {video!r}: {numbers}")
        for part, place in zip(parts, out.split(widths, dim=1), strict=True):
            place.copy_(torch.from_numpy(part))
        return out


def open_features(path: Path) -> np.memmap:
    """Opens one feature file memory-mapped.

    Args:
        path: a `.npy` file of (T, D) float16 or float32; pickles in it are never loaded.

    Raises:
        InputError: the file is missing, truncated, not a `.npy` file, of another type or shape, or has no snippets.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no regular file")  # reading from a pipe could wait for ever
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        fix = "put it there, correct the card's pattern, or take the video out of annotations or split"
        raise InputError(Problem(path, "no such feature file", fix=fix)) from None
    except Exception as error:  # a broken file can raise any exception
        reason = printable(one_line(error))[:200]
        if "allow_pickle" in reason:  # numpy treats every file with an unknown beginning as a pickle
            reason = "it does not begin as one"
        what = f"is not a readable .npy file: {reason}"
        raise InputError(Problem(path, what, fix="copy it again, or write numbers by numpy.save")) from None
    form = ""
    if not isinstance(array, np.memmap):
        array.close()
        form = "an archive"
    elif array.ndim != 2 or array.dtype not in (np.float16, np.float32):
        form = f"{array.dtype} of shape {array.shape}"
    if form:
        what = f"features must be float16 or float32 of shape (T, D), not {form}"
        fix = "write it again: a row for each snippet, array.astype(numpy.float32)"
        raise InputError(Problem(path, what, fix=fix))
    if not array.size:
        raise InputError(Problem(path, f"has no snippets: shape {array.shape}", fix="take the video out"))
    return array


def sample_train(length: int, count: int, generator: torch.Generator) -> Tensor:
    """Positions of a training sample: one drawn at random from each of `count` equal bins (docs/method.md section 2).

    Args:
        length: the number of snippets of the video, T.
        count: the number of bins; snippets of a shorter video are repeated.
        generator: of random numbers.

    Returns:
        Ascending positions, int64 (count,).
    """
    width = length / count
    edges = torch.arange(count) * width
    positions = edges + torch.rand(count, generator=generator) * width
    # Rounding in float32 can reach the end of the last bin
    return positions.long().clamp_(max=length - 1)


def sample_test(length: int, count: int) -> Tensor:
    """Positions of a test sample: the snippets in which `count` equal bins begin; a shorter video is taken whole.

    Args:
        length: the number of snippets of the video, T.
        count: the maximum number of positions.

    Returns:
        Ascending positions, int64 (min(T, count),) (docs/method.md section 2).

    >>> sample_test(3, 5), sample_test(8, 5)
    (tensor([0, 1, 2]), tensor([0, 1, 3, 4, 6]))
    """
    count = min(count, length)
    return torch.arange(count) * length // count  # in whole numbers: a rounded one could be the snippet before
