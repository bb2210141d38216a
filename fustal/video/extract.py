"""Features of videos: each frame is decoded and prepared once, and each window is read once for both grids.

`fustal extract VIDEOS... --out FOLDER`
"""

import math
import os
import shlex
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fustal.data.extraction import (
    EXTRACTION,
    PATTERNS,
    SOURCES,
    Extraction,
    find_videos,
    read_extraction,
    read_sources,
)
from fustal.data.files import digest, kind_of, one_line
from fustal.data.writing import atomic, write_json
from fustal.engine.device import pick_device
from fustal.exceptions import InputError
from fustal.params import Params
from fustal.video import needed
from fustal.video.backbones import Backbone, load_backbone
from fustal.video.decode import duration, grid_frames

WAYS = {"backbone": "--backbone", "weights": "--weights", "fps": "--fps", "stride": "--stride", "window": "--window"}
"""Setting in the record -> the option of the command that gives it."""


class BackboneError(InputError):
    """A backbone cannot compute the features of a video."""


@dataclass(frozen=True)
class Extractor:
    """A backbone on a device, with the grid on which it is used.

    Attributes:
        backbone: transform and network.
        made: what the record tells.
        device: where the network computes.
        batch: windows at a time.
        dim: features of a snippet, D; None: not known before the first ones.
    """

    backbone: Backbone
    made: Extraction
    device: torch.device
    batch: int = 8
    dim: int | None = None

    def features(self, frames: Iterable[np.ndarray], strides: Collection[int]) -> dict[int, np.ndarray]:
        """The features of one video. Besides them, only a window of frames and a batch of windows are in memory.

        Snippet i of a stride sees the frames from i * stride on, as many as a window has. A video that is shorter than
        a window has one snippet, in which its last frame is repeated.

        Args:
            frames: uint8 (H, W, 3), of the grid's frame rate.
            strides: frames between snippets, one for each grid.

        Returns:
            Stride -> float16 (T, D).

        Raises:
            BackboneError: the backbone raises an error, or returns something else than finite features.
        """
        rows: dict[int, list[np.ndarray]] = {stride: [] for stride in strides}
        clips: list[Tensor] = []
        starts: list[int] = []
        for start, clip in self._windows(frames, strides):
            clips.append(clip)
            starts.append(start)
            if len(clips) == self.batch:
                self._compute(clips, starts, rows)
        if clips:
            self._compute(clips, starts, rows)
        return {stride: np.stack(parts) for stride, parts in rows.items()}

    def extract(
        self,
        path: Path,
        strides: Collection[int],
        report: Callable[[str], None] = print,
        step: Callable[[], object] | None = None,
    ) -> dict[int, np.ndarray]:
        """The features of a video file, see `features`.

        Args:
            path: the file.
            strides: frames between snippets, one for each grid.
            report: is called with a line about each peculiarity of the file.
            step: is called after each frame.

        Raises:
            InputError: see `grid_frames` and `features`.
        """
        frames = grid_frames(path, self.made.fps, report)
        try:
            return self.features(_counted(frames, step) if step else frames, strides)
        except BackboneError as error:
            raise InputError(f"{path}: {error}") from None

    def _windows(self, frames: Iterable[np.ndarray], strides: Collection[int]) -> Iterator[tuple[int, Tensor]]:
        """The first frame of each window that a grid has, and the window (C, window, h, w)."""
        window = self.made.window
        recent: deque[Tensor] = deque(maxlen=window)
        before: np.ndarray | None = None
        for count, frame in enumerate(frames, 1):
            # The same picture is prepared once, however long it is shown
            recent.append(recent[-1] if frame is before else self._prepared(frame))
            before = frame
            start = count - window
            if start >= 0 and any(start % stride == 0 for stride in strides):
                yield start, self._window(recent)
        if len(recent) < window:
            missing = window - len(recent)
            yield 0, self._window([*recent, *[recent[-1]] * missing])

    def _prepared(self, frame: np.ndarray) -> Tensor:
        with self._named():
            return self.backbone.transform(torch.from_numpy(frame).permute(2, 0, 1))

    def _window(self, frames: Iterable[Tensor]) -> Tensor:
        with self._named():  # a transform of one's own may keep the sizes of frames, which can differ
            return torch.stack(tuple(frames), dim=1)

    def _compute(self, clips: list[Tensor], starts: list[int], rows: dict[int, list[np.ndarray]]) -> None:
        """Appends the features of a batch of windows to the rows of each grid that has them, and empties the batch."""
        with self._named():
            values = self.run(torch.stack(clips))
        expected = (len(clips), self.dim or values.shape[-1])
        if values.shape != expected:
            raise BackboneError(
                f"backbone {self.made.backbone}: returns features of shape {values.shape}, not {expected}"
            )
        if not np.isfinite(values).all():
            raise BackboneError(f"backbone {self.made.backbone}: its features are not finite numbers in float16")
        for start, value in zip(starts, values, strict=True):
            for stride, parts in rows.items():
                if start % stride == 0:
                    parts.append(value)
        clips.clear()
        starts.clear()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turns an error of the transform or the network into one line."""
        try:
            yield
        except Exception as error:  # both may be the user's code
            what = f"{type(error).__name__}: {one_line(error)[:200]}"
            raise BackboneError(f"backbone {self.made.backbone}: {what}") from None

    def run(self, clips: Tensor) -> np.ndarray:
        """Features of windows (B, C, window, h, w): float16 (B, D). Only a GPU computes in lower precision."""
        gpu = self.device.type == "cuda"
        with torch.inference_mode(), torch.autocast("cuda") if gpu else nullcontext():
            values = self.backbone.network(clips.to(self.device))
        return values.to(torch.float16).cpu().numpy()


def make_extractor(
    backbone: str, weights: Path | None, fps: float, stride: int, window: int, device: str = "auto", batch: int = 8
) -> Extractor:
    """Loads a backbone, and checks by one window of zeros that it takes such windows.

    Args:
        backbone: see `load_backbone`.
        weights: see `load_backbone`.
        fps: frames per second of the grids.
        stride: frames between the student's snippets.
        window: frames of a snippet.
        device: "auto", "cpu" or "cuda".
        batch: windows at a time.

    Raises:
        InputError: the backbone cannot be loaded, or does not take such windows.
    """
    needed("av")  # without it, no video can be read: one line, before the network is loaded
    if stride > window:
        raise InputError(f"--stride {stride}: is longer than the window, {window} frames: frames between would be lost")
    loaded = load_backbone(backbone, weights)
    chosen = pick_device(Params(device=device))
    loaded = replace(loaded, network=loaded.network.to(chosen))
    made = Extraction(
        backbone=backbone,
        weights=digest(loaded.weights) if loaded.weights else None,
        weights_file=str(loaded.weights.resolve()) if loaded.weights else None,
        fps=fps,
        stride=stride,
        window=window,
        versions=_versions(),
    )
    extractor = Extractor(loaded, made, chosen, batch)
    try:
        black = loaded.transform(torch.zeros(3, 240, 320, dtype=torch.uint8))
        shape = extractor.run(black[None, :, None].repeat(1, 1, window, 1, 1)).shape
    except Exception as error:  # networks raise all kinds of exceptions
        what = f"does not take windows of {window} frames: {one_line(error)[:200]}"
        raise InputError(f"--backbone {backbone}: {what}") from None
    if len(shape) != 2 or shape[0] != 1 or shape[1] == 0:
        raise InputError(f"--backbone {backbone}: returns features of shape {shape} for one window, not (1, D)")
    return replace(extractor, dim=shape[1])


def again(made: Extraction, weights: Path | None, device: str, whose: str) -> Extractor:
    """The extractor that made the features of a run, for new videos.

    Args:
        made: the run's record of it.
        weights: their file; None: where they were then, or in PyTorch's cache.
        device: "auto", "cpu" or "cuda".
        whose: the run, for messages.

    Raises:
        InputError: the backbone cannot be loaded, or its weights are others.
    """
    if weights is None and made.weights_file and Path(made.weights_file).exists():
        weights = Path(made.weights_file)
    extractor = make_extractor(made.backbone, weights, made.fps, made.stride, made.window, device)
    check_same(made, extractor.made, whose, "give the file of the former ones")
    return extractor


def extract(
    videos: Sequence[str], out: Path, extractor: Extractor, report: Callable[[str], None] = print
) -> tuple[list[str], list[str]]:
    """The command `fustal extract`: writes the features of videos, and the record of how they were made.

    Features that are there are not made again. A video that cannot be read is left out, also one with features of
    a file of another size.

    Args:
        videos: see `find_videos`.
        out: the folder of the data set.
        extractor: the network and its grid.
        report: is called with a line about each peculiarity of a video.

    Returns:
        Lines to print, and a line for each video that could not be read.

    Raises:
        InputError: see `find_videos`, or the folder holds features that were made differently.
    """
    found = find_videos(videos)
    made = extractor.made
    check_folder(out, made)
    wrong = []
    missing = {}
    sources = read_sources(out)
    for video, path in found.items():
        targets = _targets(out, video, made)
        if all(target.exists() for target in targets):
            size = path.stat().st_size
            if sources.get(video, size) != size:
                what = f"has {size} bytes, and its features were made of a file of {sources[video]}"
                wrong.append(f"{path}: {what}: remove {targets[0]} to make them again, or give another --out")
            continue
        try:
            missing[video] = duration(path)
        except InputError as error:
            wrong.append(str(error))
    written = 0
    silent = bool(os.environ.get("TQDM_DISABLE")) or not missing
    frames = math.ceil(sum(missing.values()) * made.fps)
    with tqdm(total=frames, unit="s", unit_scale=1 / made.fps, desc="extract", disable=silent) as bar:
        for video in missing:
            bar.set_postfix_str(video)
            try:
                features = extractor.extract(found[video], made.strides().values(), report, bar.update)
            except InputError as error:
                wrong.append(str(error))
                continue
            _write(out, video, found[video], features, made)
            written += 1
    lines = [f"{written} of {len(found)} videos extracted, {len(found) - written - len(wrong)} were there: {out}"]
    if written and not (out / "card.yaml").exists():
        lines.append(
            f"next: write {out / 'labels.csv'} with the columns video (no ending) and label (docs/own_data.md), then:"
        )
        lines.append(f"  fustal init {shlex.quote(str(out))}")
    return lines, wrong


def _targets(out: Path, video: str, made: Extraction) -> list[Path]:
    """The files of a video's features, one for each grid."""
    return [out / PATTERNS[stage].format(video=video) for stage in made.strides()]


def _write(out: Path, video: str, path: Path, features: dict[int, np.ndarray], made: Extraction) -> None:
    """Writes the features of a video; before the first ones, the record of how they are made."""
    check_folder(out, made)  # another process may have begun meanwhile
    if not (out / EXTRACTION).exists():
        write_json(made.model_dump(), out / EXTRACTION)
    write_json(read_sources(out) | {video: path.stat().st_size}, out / SOURCES)
    for target, stride in zip(_targets(out, video, made), made.strides().values(), strict=True):
        try:
            with atomic(target) as temporary:
                np.save(temporary, features[stride])
        except OSError as error:  # such as a full disk
            raise InputError(f"{target}: cannot be written: {one_line(error)}") from None


def _counted(frames: Iterable[np.ndarray], step: Callable[[], object]) -> Iterator[np.ndarray]:
    for frame in frames:
        yield frame
        step()


def check_folder(out: Path, made: Extraction) -> None:
    """Checks that a folder holds no features that were made differently.

    Raises:
        InputError: its features were made differently, or not by `fustal extract`; or it is no folder.
    """
    for folder in (out, out / "features", *(out / Path(pattern).parent for pattern in PATTERNS.values())):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: {kind_of(folder)}: give another --out")
    before = read_extraction(out)
    if before:
        check_same(before, made, f"{out / EXTRACTION}", "give another --out")
        return
    for pattern in PATTERNS.values():
        folder = out / Path(pattern).parent
        for file in folder.glob("*.npy"):
            raise InputError(f"{file}: was not made by fustal extract, as there is no {EXTRACTION}: give another --out")


def check_same(before: Extraction, now: Extraction, where: str, fix: str) -> None:
    """Compares the settings of two extractions.

    Raises:
        InputError: names the first setting that differs, with both values.
    """
    new = now.settings()
    for name, value in before.settings().items():
        if value != new[name]:
            old_text, new_text = (_short(item) for item in (value, new[name]))
            raise InputError(f"{where}: the features were made with {WAYS[name]} {old_text}, not {new_text}: {fix}")


def _short(value: object) -> str:
    """A setting in a message; of a hash its beginning."""
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)[:12] if len(str(value)) == 64 else str(value)


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("fustal", "torch", "torchvision", "av", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # torchvision is not needed for one's own backbones
            continue
    return versions
