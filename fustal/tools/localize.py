"""A trained run on new videos: the distilled student's average, which wrote the run's `distilled/detections_test.json`.

All that is needed stands in the run's folder; its data set may be gone. In Python:

    from fustal.tools.localize import load

    detections = load("demo").localize({"holiday": features})
"""

import math
import os
import re
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

from fustal import viz
from fustal.data.annotations import SEGMENT_COLUMNS, check_name, write_results
from fustal.data.cards import Dataset, Grid
from fustal.data.features import FeatureStore
from fustal.data.files import digest, one_line, open_regular, read_json, validated
from fustal.data.names import find_run
from fustal.data.writing import check_output
from fustal.engine.average import start_average
from fustal.engine.checkpoint import load_module
from fustal.exceptions import InputError, Problem
from fustal.params import Params
from fustal.runs.chain import CHAIN
from fustal.student import Student, detect_videos
from fustal.tools.export import LEAST_SCORE, choose, write_csv

BEST = 10
"""Detections of a video that are printed."""

WEIGHTS = "distilled/ema.safetensors"
MODALITY = "{modality}"


class Task(BaseModel):
    """What a run was trained for, as `Run.finish` records it.

    Attributes:
        classes: names, in the order of their indices.
        grid: of the student's features.
        dim: features of a snippet, D.
    """

    classes: list[str] = Field(min_length=1, max_length=10_000)
    grid: Grid
    dim: int = Field(ge=1, le=65_536)


class Record(BaseModel):
    """What is needed of distilled/stage.json."""

    parameters: dict[str, Any]
    outputs: dict[str, str]
    task: Task


class NewVideos(FeatureStore):
    """Features of videos that belong to no data set, each in files of its own.

    Args:
        dataset: of these videos.
        files: name of a video -> its files, whose features are taken side by side.
    """

    def __init__(self, dataset: Dataset, files: Mapping[str, Sequence[Path]]) -> None:
        super().__init__(dataset, "student")
        self._files = files

    def paths(self, video: str) -> list[Path]:
        """The files that hold a video's features."""
        return list(self._files[video])


@dataclass(frozen=True)
class Trained:
    """A finished run, see `load`.

    Attributes:
        folder: of the run.
        params: with which it was made.
        task: its classes, and the features that it wants.
        model: the average of the distilled student's weights.
    """

    folder: Path
    params: Params
    task: Task
    model: Student

    def localize(self, features: Mapping[str, ArrayLike], fps: float | None = None) -> pd.DataFrame:
        """Detects the actions of videos, all together.

        Args:
            features: name of a video -> numbers (T, D) on the student's grid, modalities side by side in its order.
            fps: frames per second of the videos, where the run's grid takes it from annotations.

        Returns:
            Frame with video, label, score, start (s), end (s), best first within a video. A video ends with its last
            snippet.

        Raises:
            InputError: features of another form or width, or not finite; or fps is missing.
        """
        with tempfile.TemporaryDirectory(prefix="fustal-") as folder:
            files = {video: [_written(Path(folder), video, array)] for video, array in features.items()}
            try:
                return self.detect(self.store(files, fps))
            except InputError as error:
                raise InputError(str(error).replace(folder + os.sep, "")) from None

    def store(self, files: Mapping[str, Sequence[Path]], fps: float | None = None) -> NewVideos:
        """Features of new videos, whose names and widths are checked.

        Args:
            files: name of a video -> its files.
            fps: see `localize`.

        Raises:
            InputError: see `localize`.
        """
        fps = _fps(self.task.grid, fps)
        videos = pd.DataFrame({"subset": "test", "duration": math.nan, "fps": fps}, index=list(files))
        nothing = pd.DataFrame(columns=SEGMENT_COLUMNS)
        about = {"name": self.folder.name, "about": "", "root": self.folder, "annotations": self.folder / WEIGHTS}
        known = {"classes": self.task.classes, "video_labels": nothing[["video", "label"]], "segments": nothing}
        store = NewVideos(Dataset(**about, **known, videos=videos, grids={"student": self.task.grid}), files)
        for video, paths in files.items():
            _check_video(video, paths[0])
            if (width := sum(part.shape[1] for part in store.open(video))) != self.task.dim:
                parts = f" ({', '.join(self.task.grid.modalities)} side by side)" if self.task.grid.modalities else ""
                what = f"{width} numbers a snippet, and run {self.folder.name!r} wants {self.task.dim}{parts}"
                raise InputError(Problem(paths[0], what, video))
        return store

    def detect(self, store: NewVideos) -> pd.DataFrame:
        """Detects the actions of the videos of a store, see `localize`."""
        return detect_videos(self.model, store, list(store.dataset.videos.index), self.params)


def load(run: str, device: str | None = None) -> Trained:
    """Reads a finished run, and takes as many threads of PyTorch as it had, as the last bits depend on their number.

    Args:
        run: its name, a folder below outputs/; or see `names.find_run`.
        device: "auto", "cpu" or "cuda"; None: as the run's.

    Raises:
        InputError: there is no such run, its notebook 04 has not finished, or its weights are not what that wrote.
    """
    folder, stage = find_run(run, "distilled/stage.json"), CHAIN["distilled"]
    path = folder / "distilled" / "stage.json"
    if not path.exists():
        raise InputError(
            f"{path.parent}: has not finished: run notebook {stage.notebook} first, with run = {folder.name!r}"
        )
    try:
        record = validated(Record, read_json(path), path)
        params = validated(Params, record.parameters, path)
    except InputError as error:
        raise InputError(f"{error}: run notebook {stage.notebook} again") from None
    if device:
        params = Params(**record.parameters | {"device": device})
    weights = folder / WEIGHTS
    if weights.exists() and digest(weights) != record.outputs.get(WEIGHTS):
        raise InputError(f"{weights}: has changed since it was written: run notebook {stage.notebook} again")
    torch.set_num_threads(params.threads or os.cpu_count() or 1)
    model = start_average(Student.from_params(params, record.task.dim, len(record.task.classes)))
    load_module(model, weights)
    return Trained(folder, params, record.task, model)


def find_files(features: Sequence[str], modalities: Sequence[str]) -> dict[str, list[Path]]:
    """The videos that are meant, and the files of each.

    Args:
        features: paths of `.npy` files, the name of the video their stem. `{modality}` stands for each modality, `*`
            where no shell has filled it in for whatever is there, of the first modality.
        modalities: of the run's grid.

    Returns:
        Name of a video -> its files.

    Raises:
        InputError: a path that means nothing, or two of the same name.
    """
    found: dict[str, list[Path]] = {}
    for text in (each for given in features for each in _expanded(given, modalities)):
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
    out: Path | None = None,
    plot: Path | None = None,
    fps: float | None = None,
    min_score: float | None = None,
    device: str | None = None,
) -> list[str]:
    """What `fustal localize` does: detects, and writes or tells what it found. After an error nothing is written.

    Args:
        run: see `load`.
        features: see `find_files`.
        out: .json or .csv file; None: the best of each video are told.
        plot: folder that gets a timeline `<video>.png` of each video.
        fps: see `Trained.localize`.
        min_score: least score; None: `LEAST_SCORE` of what is told or drawn; files of numbers get all.
        device: see `load`.

    Returns:
        The lines to print.

    Raises:
        InputError: something given is wrong, see there.
    """
    least = LEAST_SCORE if min_score is None else min_score
    if math.isnan(least):
        raise InputError(f"--min-score {least}: is not a number")
    _check_targets(out, plot)
    trained = load(run, device)
    files = find_files(features, trained.task.grid.modalities)
    given = [path for paths in files.values() for path in paths]
    if out:
        check_output(out, *given)
    for video in files if plot else ():
        _check_timeline(plot / f"{video}.png", given)
    store = trained.store(files, fps)
    found = trained.detect(store)
    durations = {video: store.duration(video) for video in store.dataset.videos.index}
    shown, lines = choose(found, least), []
    if out:
        kept = found if min_score is None else shown
        (write_results if out.suffix == ".json" else write_csv)(kept, out)
        lines.append(f"{len(kept)} detections in {kept.video.nunique()} of {len(durations)} videos: {out}")
    else:
        lines += table(shown, durations)
    if plot:
        draw(shown, durations, plot)
        lines.append(f"{len(durations)} timelines of detections of score {least:g} or more: {plot}")
    return lines


def table(results: pd.DataFrame, durations: Mapping[str, float]) -> list[str]:
    r"""The best detections of each video, as lines.

    Args:
        results: video, label, score, start (s), end (s).
        durations: name of a video -> s.

    >>> found = pd.DataFrame({"video": ["v"], "label": ["Run"], "score": [0.934], "start": [2.5], "end": [12.0]})
    >>> print(*table(found, {"v": 60.0}), sep="\n")
    v, 60.0 s: 1 detection
      Run  93 %      2.50 – 12.00 s
    """
    lines = []
    for video, duration in durations.items():
        part = results[results.video == video]
        best = choose(part, top=BEST).sort_values("score", ascending=False, kind="stable")
        labels = [" ".join(label.split()) for label in best.label]
        more = f", the best {BEST}" if len(part) > BEST else ""
        lines.append(f"{video}, {duration:.1f} s: {len(part)} detection{'s' * (len(part) != 1)}{more}")
        for label, row in zip(labels, best.itertuples(), strict=True):
            score = f"{100 * row.score:3.0f} %"
            lines.append(f"  {label:<{max(map(len, labels))}} {score}  {row.start:8.2f} – {row.end:.2f} s")
    return lines


def draw(results: pd.DataFrame, durations: Mapping[str, float], folder: Path) -> None:
    """Writes a timeline of each video as `<video>.png`.

    Args:
        results: video, label, score, start (s), end (s).
        durations: name of a video -> s.
        folder: made where it is missing; files of the same names are replaced.
    """
    for video, duration in durations.items():
        part = results[results.video == video]
        viz.save(viz.timeline({"detections": part}, duration), folder / f"{video}.png")


def _expanded(text: str, modalities: Sequence[str]) -> list[str]:
    """The paths that a text with at most one `*` stands for, still with its `{modality}`, if any."""
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
    return [text.replace("*", match[len(before) : len(match) - len(after)]) for match in matches]


def _written(folder: Path, video: str, array: ArrayLike) -> Path:
    """An array as a feature file."""
    path = folder / f"{video}.npy"
    _check_video(video)
    try:
        np.save(path, np.asarray(array, np.float32))
    except (TypeError, ValueError) as error:
        raise InputError(f"video {video!r}: features must be an array of numbers (T, D): {one_line(error)}") from None
    return path


def _fps(grid: Grid, given: float | None) -> float:
    """The frames per second of new videos, where the grid does not say."""
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
        raise InputError(f"{'' if path is None else f'{str(path)!r}: '}video {video!r}: {error}") from None


def _check_timeline(path: Path, given: Sequence[Path]) -> None:
    """Refuses to replace a picture that is no timeline: Matplotlib names itself at the beginning of its own."""
    check_output(path, *given)
    if path.is_file():
        with open_regular(path) as file:
            if b"Matplotlib" not in file.read(500):
                raise InputError(f"{path}: is there already, and is no timeline: move it away")


def _check_targets(out: Path | None, plot: Path | None) -> None:
    """Refuses early what could not be written."""
    if out and out.suffix not in (".json", ".csv"):
        raise InputError(f"--out {out}: ends in neither .json nor .csv")
    if out:
        check_output(out)
    if plot and plot.exists() and not plot.is_dir():
        raise InputError(f"--plot {plot}: is a file: give the name of a folder")
