"""Feature files on their grids: opened memory-mapped, checked, and sampled.

Taught in notebook 01, section "Snippets".
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fustal import InputError
from fustal.annotations import Dataset


@dataclass(frozen=True)
class VideoGrid:
    """The grid of one video: when its snippets happen (METHOD.md section 1).

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


class FeatureStore:
    """The features of a data set on one grid: `store[video]` is a float32 array (T, D).

    Nothing is held in memory: files are opened memory-mapped each time.

    Args:
        dataset: whose videos.
        stage: "generator" or "student", the grid.
    """

    def __init__(self, dataset: Dataset, stage: str) -> None:
        self.dataset, self.grid = dataset, dataset.grids[stage]
        self._subsets, self._fps = dataset.videos.subset.to_dict(), dataset.videos.fps.to_dict()

    def paths(self, video: str) -> list[Path]:
        """The files that hold a video's features, one per modality."""
        subset, modalities = self._subsets[video], self.grid.modalities or [""]
        return [
            self.dataset.root / self.grid.pattern.format(video=video, subset=subset, modality=modality)
            for modality in modalities
        ]

    def open(self, video: str) -> list[np.ndarray]:
        """Memory-mapped (T, D) arrays, one per modality, of equal length."""
        arrays = [open_features(path) for path in self.paths(video)]
        if len({len(array) for array in arrays}) > 1:
            lengths = ", ".join(
                f"{path.parent.name} {len(a)}" for path, a in zip(self.paths(video), arrays, strict=True)
            )
            raise InputError(f"{self.paths(video)[0]}: video {video!r}: modalities differ in length: {lengths}")
        return arrays

    def __getitem__(self, video: str) -> np.ndarray:
        features = np.concatenate([np.asarray(array, np.float32) for array in self.open(video)], axis=1)
        if not np.isfinite(features).all():
            snippet = int(np.flatnonzero(~np.isfinite(features).all(1))[0])
            raise InputError(f"{self.paths(video)[0]}: video {video!r}: NaN or infinity in snippet {snippet}")
        return features

    def length(self, video: str) -> int:
        """Number of snippets T of a video."""
        return len(self.open(video)[0])

    @property
    def dim(self) -> int:
        """Number of features D, as the first video has it."""
        return sum(array.shape[1] for array in self.open(self.dataset.videos.index[0]))

    def grid_of(self, video: str) -> VideoGrid:
        """The grid of a video; fps from its annotation where the card says so."""
        fps = self._fps[video] if self.grid.fps == "annotation" else float(self.grid.fps)
        if math.isnan(fps):
            raise InputError(
                f"{self.dataset.annotations}: video {video!r}: has no fps, and the card takes it from there"
            )
        return VideoGrid(fps, self.grid.stride, self.grid.window)

    def duration(self, video: str) -> float:
        """Seconds of a video: from its annotation, else to the end of its last snippet."""
        annotated = float(self.dataset.videos.duration[video])
        if not math.isnan(annotated):
            return annotated
        return float(self.grid_of(video).to_seconds(self.length(video) - 1 + self.grid.window / self.grid.stride / 2))


def open_features(path: Path) -> np.ndarray:
    """Opens one feature file memory-mapped.

    Args:
        path: a `.npy` of (T, D) float16 or float32; never unpickled.

    Raises:
        InputError: missing, truncated, not numpy, of another type or shape, or without a snippet.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such feature file") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: is not a readable .npy file: {' '.join(str(error).split())}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype not in (np.float16, np.float32):
        form = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise InputError(f"{path}: features must be float16 or float32 of shape (T, D), not {form}")
    if not array.size:
        raise InputError(f"{path}: has no snippets: shape {array.shape}")
    return array


def sample_train(length: int, count: int) -> Tensor:
    """Positions of a training sample: one drawn at random from each of `count` equal bins (METHOD.md section 2).

    Args:
        length: snippets of the video, T.
        count: bins; a video shorter than that repeats snippets.

    Returns:
        Ascending positions (count,) from torch's random state.
    """
    edges = torch.arange(count) * (length / count)
    return (edges + torch.rand(count) * (length / count)).long().clamp_(max=length - 1)


def sample_test(length: int, count: int) -> Tensor:
    """Positions of a test sample: at most `count`, evenly spaced; shorter videos whole.

    >>> sample_test(3, 5), sample_test(10, 5)
    (tensor([0, 1, 2]), tensor([0, 2, 4, 6, 9]))
    """
    if length <= count:
        return torch.arange(length)
    return torch.linspace(0, length - 1, count).long()
