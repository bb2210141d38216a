"""A trained run on new videos: the EMA weights of the distilled student, as for `distilled/detections_test.json`.

Everything needed is in the run's folder; its data set may be gone. In Python:

    from fustal.tools.localize import load

    detections = load("demo").localize({"holiday": features})
"""

import math
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape, glob
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from pydantic import BaseModel, Field

from fustal.data.annotations import SEGMENT_COLUMNS
from fustal.data.cards import Dataset, Grid
from fustal.data.extraction import VIDEOS, Extraction, find_videos, videos_in
from fustal.data.features import FeatureStore
from fustal.data.files import digest, one_line, printable, read_json, validated
from fustal.data.names import find_run
from fustal.data.values import check_name
from fustal.engine.average import start_average
from fustal.engine.checkpoint import load_module
from fustal.exceptions import InputError, Problem
from fustal.params import Params
from fustal.runs.chain import CHAIN
from fustal.runs.identity import RECORD
from fustal.student import Student, detect_videos
from fustal.tools.localize_output import Output, known_of

WEIGHTS = "distilled/ema.safetensors"
MODALITY = "{modality}"


class LocalizerTask(BaseModel):
    """What a run was trained for, as `OpenStage.finish` records it.

    Attributes:
        classes: names, in the order of their indices.
        grid: of the student's features.
        dim: features of a snippet, D.
        extraction: how the features were made from videos; None: not by `fustal extract`.
    """

    classes: list[str] = Field(min_length=1, max_length=10_000)
    grid: Grid
    dim: int = Field(ge=1, le=65_536)
    extraction: Extraction | None = None


class LocalizerRecord(BaseModel):
    """The entries of the distilled stage's record that are needed here."""

    parameters: dict[str, Any]
    outputs: dict[str, str]
    task: LocalizerTask


class NewVideos(FeatureStore):
    """Features of videos that belong to no data set, each in files of its own.

    Args:
        dataset: a data set of only these videos.
        files: name of a video -> its files, whose features are put side by side.
    """

    def __init__(self, dataset: Dataset, files: Mapping[str, Sequence[Path]]) -> None:
        super().__init__(dataset, "student")
        self._files = files

    def paths(self, video: str) -> list[Path]:
        """The files with a video's features."""
        return list(self._files[video])


@dataclass(frozen=True)
class Trained:
    """A finished run, see `load`.

    Attributes:
        folder: of the run.
        params: the run's parameters.
        task: its classes, and the features that it needs.
        model: the distilled student with the average of its weights.
    """

    folder: Path
    params: Params
    task: LocalizerTask
    model: Student

    def localize(self, features: Mapping[str, ArrayLike], fps: float | None = None) -> pd.DataFrame:
        """Detects the actions of all given videos.

        Args:
            features: name of a video -> numbers (T, D) on the student's grid, modalities side by side in its order.
            fps: frames per second of the videos; needed if the run's grid takes it from annotations.

        Returns:
            Frame with video, label, score, start (s), end (s), best first within a video. A video ends with its last
            snippet.

        Raises:
            InputError: features of another form or width, or not finite; or fps is missing.
        """
        # Written to files, because a FeatureStore reads and checks files
        with tempfile.TemporaryDirectory(prefix="fustal-") as folder:
            files = {video: [_written(Path(folder), video, array)] for video, array in features.items()}
            try:
                return self.detect(self.store(files, fps))
            except InputError as error:
                # The user gave arrays: the temporary folder is not theirs
                raise InputError(str(error).replace(folder + os.sep, "")) from None

    def store(self, files: Mapping[str, Sequence[Path]], fps: float | None = None) -> NewVideos:
        """Features of new videos; names and widths are checked.

        Args:
            files: name of a video -> its files.
            fps: see `localize`.

        Raises:
            InputError: see `localize`.
        """
        grid = self.task.grid
        # A data set of these videos only: what a run reads from its own, but without labels.
        unlabelled = pd.DataFrame(columns=SEGMENT_COLUMNS)
        dataset = Dataset(
            name=self.folder.name,
            about="",
            root=self.folder,
            annotations=self.folder / WEIGHTS,
            classes=self.task.classes,
            videos=pd.DataFrame(
                {"subset": "test", "duration": math.nan, "fps": _checked_fps(grid, fps)}, index=list(files)
            ),
            video_labels=unlabelled[["video", "label"]],
            segments=unlabelled,
            grids={"student": grid},
        )
        store = NewVideos(dataset, files)
        for video, paths in files.items():
            _check_video(video, paths[0])
            width = sum(part.shape[1] for part in store.open(video))
            if width != self.task.dim:
                parts = f" ({', '.join(grid.modalities)} side by side)" if grid.modalities else ""
                what = f"{width} numbers a snippet, and run {self.folder.name!r} needs {self.task.dim}{parts}"
                raise InputError(Problem(paths[0], what, video))
        return store

    def detect(self, store: NewVideos) -> pd.DataFrame:
        """Detects the actions of the videos of a store, see `localize`."""
        return detect_videos(self.model, store, list(store.dataset.videos.index), self.params)


def load(run: str, device: str | None = None) -> Trained:
    """Reads a finished run, and sets its number of PyTorch threads: the last bits of results depend on it.

    Args:
        run: its name, a folder below outputs/; or see `names.find_run`.
        device: "auto", "cpu" or "cuda"; None: the run's.

    Raises:
        InputError: no such run, its notebook 04 has not finished, or its weights are not those that the notebook wrote.
    """
    folder = find_run(run, f"distilled/{RECORD}")
    notebook = CHAIN["distilled"].notebook
    path = folder / "distilled" / RECORD
    if not path.exists():
        raise InputError(f"{path.parent}: has not finished: run notebook {notebook} first, with run = {folder.name!r}")
    try:
        record = validated(LocalizerRecord, read_json(path), path)
        params = validated(Params, record.parameters, path)
    except InputError as error:
        raise InputError(f"{error}: run notebook {notebook} again") from None
    if device:
        params = params.model_copy(update={"device": device})
    weights = folder / WEIGHTS
    if not weights.exists():
        raise InputError(f"{weights}: no such file of weights: run notebook {notebook} again")
    if digest(weights) != record.outputs.get(WEIGHTS):
        raise InputError(f"{weights}: has changed since it was written: run notebook {notebook} again")
    torch.set_num_threads(params.threads or os.cpu_count() or 1)
    model = start_average(Student.from_params(params, record.task.dim, len(record.task.classes)))
    load_module(model, weights)
    return Trained(folder, params, record.task, model)


def find_files(features: Sequence[str], modalities: Sequence[str]) -> dict[str, list[Path]]:
    """The videos that some paths name, and the files of each.

    Args:
        features: paths of `.npy` files, whose stems are the names of the videos. `{modality}` stands for each modality.
            A `*` that no shell has replaced stands for all files of the first modality that match.
        modalities: of the run's grid.

    Returns:
        Name of a video -> its files.

    Raises:
        InputError: a path that matches no file, or two files for the same video.
    """
    texts = []
    for given in features:
        texts += _expanded(given, modalities)
    found: dict[str, list[Path]] = {}
    for text in texts:
        # The name of the modality, and one mark beside it, is no part of the video's name: v_{modality}.npy is video v.
        video = re.sub(r"[-_.]\{modality\}|\{modality\}[-_.]?", "", Path(text).stem)
        paths = [Path(text.replace(MODALITY, name)) for name in modalities] if MODALITY in text else [Path(text)]
        _check_video(video, paths[0])
        if video in found:
            raise InputError(f"{paths[0]}: video {video!r} is given twice, also as {found[video][0]}")
        found[video] = paths
    return found


def localize_files(
    run: str,
    features: Sequence[str],
    output: Output,
    fps: float | None = None,
    device: str | None = None,
    weights: Path | None = None,
) -> list[str]:
    """The command `fustal localize`: detects, and writes or prints. After an error nothing is written.

    Args:
        run: see `load`.
        features: files of features, see `find_files`; or videos or folders of them, from which they are extracted.
        output: where the detections go.
        fps: see `Trained.localize`.
        device: see `load`.
        weights: of the backbone, for videos; None: the file that the run's features were made with.

    Returns:
        The lines to print.

    Raises:
        InputError: an argument is wrong, see there.
    """
    output.check()
    trained = load(run, device)
    with tempfile.TemporaryDirectory(prefix="fustal-") as folder:
        if _are_videos(features, output, weights):
            _checked_fps(trained.task.grid, fps)  # before hours of extraction
            pictures = find_videos(features)
            output.check_apart({video: [path] for video, path in pictures.items()})
            files = _extracted(trained, pictures, weights, Path(folder))
        else:
            files = find_files(features, trained.task.grid.modalities)
            output.check_apart(files)
            pictures = {video: output.video for video in files if output.video}
        store = trained.store(files, fps)
        durations = {video: store.duration(video) for video in files}
        stages = known_of(run, durations) if output.page else {}
        found = trained.detect(store)
        return output.write(found, durations, pictures, stages, trained.folder.name)


def _are_videos(features: Sequence[str], output: Output, weights: Path | None) -> bool:
    """Whether videos are given, or folders of videos, and not features.

    Raises:
        InputError: both are given, or an option that has no effect.
    """
    videos = [text for text in features if _is_video(Path(text))]
    if videos and len(videos) < len(features):
        other = next(text for text in features if text not in videos)
        raise InputError(f"{other}: is no video, as {videos[0]} is: give videos or features, not both")
    if videos and output.video:
        raise InputError(f"--video {output.video}: is for features, and {videos[0]} is shown itself")
    if weights and not videos:
        raise InputError(f"--weights {weights}: is for videos, and {features[0]} holds features")
    return bool(videos)


def _is_video(path: Path) -> bool:
    """Whether a path names a video, or a folder of videos."""
    return path.suffix.lower() in VIDEOS or (path.is_dir() and bool(videos_in(path)))


def _extracted(
    trained: Trained, videos: Mapping[str, Path], weights: Path | None, folder: Path
) -> dict[str, list[Path]]:
    """Extracts videos as the run's features were, into a folder; returns name of a video -> its files."""
    made = trained.task.extraction
    if made is None:
        what = f"run {trained.folder.name!r} was not trained on features of fustal extract"
        raise InputError(f"{next(iter(videos.values()))}: {what}: give the features of the videos, .npy files")
    from fustal.video.extract import again  # slow to import

    extractor = again(made, weights, trained.params.device, f"run {trained.folder.name!r}")
    files = {}
    for video, path in videos.items():
        features = extractor.extract(path, [made.stride], lambda line: print(printable(line), file=sys.stderr))
        files[video] = [folder / f"{video}.npy"]
        np.save(files[video][0], features[made.stride])
    return files


def _expanded(text: str, modalities: Sequence[str]) -> list[str]:
    """The paths that a text with at most one `*` matches; a `{modality}` in it stays."""
    if MODALITY in text and not modalities:
        raise InputError(f"{text}: holds {MODALITY}, and the run's features have none")
    if "*" not in text or Path(text).exists():
        return [text]
    pattern = text.replace(MODALITY, modalities[0]) if modalities else text
    before, star, after = pattern.partition("*")
    if "*" in after:
        raise InputError(f"{text}: holds more than one *")
    matches = sorted(glob(f"{escape(before)}{star}{escape(after)}"))
    if not matches:
        raise InputError(f"{text}: there is no such file")
    # The part of each match that stands for the *
    stems = [match[len(before) : len(match) - len(after)] for match in matches]
    return [text.replace("*", stem) for stem in stems]


def _written(folder: Path, video: str, array: ArrayLike) -> Path:
    """Writes an array as a feature file; returns its path."""
    path = folder / f"{video}.npy"
    _check_video(video)
    try:
        np.save(path, np.asarray(array, np.float32))
    except (TypeError, ValueError) as error:
        raise InputError(f"video {video!r}: features must be an array of numbers (T, D): {one_line(error)}") from None
    return path


def _checked_fps(grid: Grid, given: float | None) -> float:
    """The frames per second of new videos; NaN where the grid has the number, and no other may be given."""
    if grid.fps != "annotation":
        if given is not None:
            raise InputError(f"fps {given:g}: the run's features are of {grid.fps:g} frames per second: leave it out")
        return math.nan
    if given is None:
        raise InputError("fps: the run takes it from each video's annotation: give that of the new videos (--fps)")
    if not 0 < given < math.inf:
        raise InputError(f"fps {given:g}: must be a positive number")
    return given


def _check_video(video: str, path: Path | None = None) -> None:
    try:
        check_name(video)
    except ValueError as error:
        where = "" if path is None else f"{str(path)!r}: "
        raise InputError(f"{where}video {video!r}: {error}") from None
