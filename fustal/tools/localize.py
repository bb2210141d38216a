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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from pydantic import BaseModel, Field

from fustal.data.annotations import SEGMENT_COLUMNS
from fustal.data.cards import Dataset, Grid
from fustal.data.extraction import VIDEOS, Extraction, find_videos
from fustal.data.features import FeatureStore
from fustal.data.files import digest, one_line, open_regular, printable, read_json, validated
from fustal.data.names import find_run
from fustal.data.results import write_results
from fustal.data.values import check_name
from fustal.data.writing import check_output
from fustal.engine.average import start_average
from fustal.engine.checkpoint import load_module
from fustal.exceptions import InputError, Problem
from fustal.params import Params
from fustal.runs.chain import CHAIN, DETECTIONS
from fustal.runs.identity import RECORD
from fustal.student import Student, detect_videos
from fustal.tools.export import MIN_SCORE, choose, write_csv
from fustal.tools.page import check_page, write_page

MAX_PRINTED = 10
"""Maximum number of detections of a video that are printed."""

WEIGHTS = "distilled/ema.safetensors"
MODALITY = "{modality}"

TRACKS = ("truth", "detections", "student", "generator")
"""The time lines of a page, in their order. All but the detections are left out where they are not known."""

HEAD = 500
"""Bytes at the beginning of a PNG file in which Matplotlib writes its name."""


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
    if weights.exists() and digest(weights) != record.outputs.get(WEIGHTS):
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


@dataclass(frozen=True)
class Output:
    """Where `fustal localize` puts the detections.

    Attributes:
        file: .json or .csv file; None: the best detections of each video are printed.
        folder: folder that gets a timeline `<video>.png` of each video; None: no timelines.
        min_score: minimum score; None: `MIN_SCORE` for printed or drawn detections, and no minimum for the file.
        page: .html file that shows one video with its detections; None: no page.
        video: the video of the features, shown in the timeline and on the page; None: they show no pictures.
    """

    file: Path | None = None
    folder: Path | None = None
    min_score: float | None = None
    page: Path | None = None
    video: Path | None = None

    def check(self) -> None:
        """Raises an InputError, before anything is computed, where the output could not be written."""
        if self.min_score is not None and math.isnan(self.min_score):
            raise InputError(f"--min-score {self.min_score}: is not a number")
        if self.file:
            if self.file.suffix not in (".json", ".csv"):
                raise InputError(f"--out {self.file}: ends in neither .json nor .csv")
            check_output(self.file)
        if self.folder and self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"--plot {self.folder}: is a file: give the name of a folder")
        if self.page:
            check_page(self.page)
        if self.video:
            open_regular(self.video).close()
            if not (self.folder or self.page):
                raise InputError(f"--video {self.video}: nothing shows it: give --page or --plot as well")

    def check_apart(self, files: Mapping[str, Sequence[Path]]) -> None:
        """Raises an InputError where a file that is read, or a picture of another program, would be replaced.

        Args:
            files: name of a video -> its files.
        """
        inputs: list[Path] = [self.video] if self.video else []
        for paths in files.values():
            inputs += paths
        if self.file:
            check_output(self.file, *inputs)
        if self.folder:
            for video in files:
                _check_timeline(self.folder / f"{video}.png", inputs)
        if (self.page or self.video) and len(files) > 1:
            option = f"--page {self.page}" if self.page else f"--video {self.video}"
            raise InputError(f"{option}: is for one video, and the features of {len(files)} are given")
        if self.page:
            check_page(self.page, *inputs)

    def write(
        self,
        found: pd.DataFrame,
        durations: Mapping[str, float],
        pictures: Mapping[str, Path],
        stages: Mapping[str, pd.DataFrame],
    ) -> list[str]:
        """Writes the detections.

        Args:
            found: video, label, score, start (s), end (s).
            durations: name of a video -> s.
            pictures: name of a video -> its file, for videos that can be shown.
            stages: what is known of the video of the page, see `known_of`.

        Returns:
            The lines to print.
        """
        minimum = MIN_SCORE if self.min_score is None else self.min_score
        shown = choose(found, minimum)
        # Read before anything is written, as a video can be broken
        frames = frames_of(pictures, durations) if self.folder else {}
        lines = []
        if self.file:
            kept = found if self.min_score is None else shown
            write = write_results if self.file.suffix == ".json" else write_csv
            write(kept, self.file)
            lines.append(f"{len(kept)} detections in {kept.video.nunique()} of {len(durations)} videos: {self.file}")
        else:
            lines += table(shown, durations)
        if self.folder:
            draw(shown, durations, self.folder, frames)
            lines.append(f"{len(durations)} timelines of detections of score {minimum:g} or more: {self.folder}")
            if pictures and not frames:
                lines.append("no frames of the video above the timeline: pip install 'fustal[video]'")
        if self.page:
            ((video, duration),) = durations.items()
            known = {"detections": found, **stages}
            tracks = {name: known[name] for name in TRACKS if name in known}
            what = write_page(self.page, pictures.get(video), tracks, duration, title=video, min_score=minimum)
            lines.append(f"{self.page}: {', '.join(tracks)}, {what}")
        return lines


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
        features: files of features, see `find_files`; or videos, from which they are extracted.
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
        if any(Path(text).suffix.lower() in VIDEOS for text in features):
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
        return output.write(found, durations, pictures, stages)


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


def known_of(run: str, durations: Mapping[str, float]) -> dict[str, pd.DataFrame]:
    """True segments of a video, and what the stages of a run found in it, where the run's data set has the video.

    A video is that of the data set if it has its name and about its duration.

    Args:
        run: see `load`.
        durations: name of the only video -> s.

    Returns:
        "truth", "student", "generator": those that are known. Columns label, start (s), end (s), perhaps score.
    """
    from fustal.tools.report import read_run  # slow to import, and needed only here

    ((video, duration),) = durations.items()
    reported = read_run(run)
    dataset = reported.dataset
    if dataset is None or video not in dataset.videos.index:
        return {}
    if not math.isclose(dataset.videos.duration[video], duration, rel_tol=0.02, abs_tol=2):
        return {}
    files = {name: DETECTIONS[name] for name in ("student", "generator")}
    known = {}
    for name, frame in {"truth": dataset.segments, **reported.results(files)}.items():
        if (frame.video == video).any():
            known[name] = frame[frame.video == video]
    return known


def frames_of(pictures: Mapping[str, Path], durations: Mapping[str, float]) -> dict[str, list[np.ndarray]]:
    """Frames of videos for their timelines; none without the extra `video`.

    Args:
        pictures: name of a video -> its file.
        durations: name of a video -> s.

    Returns:
        Name of a video -> its frames, see `viz.timeline`.

    Raises:
        InputError: a file cannot be decoded.
    """
    if find_spec("av") is None:
        return {}
    from fustal.video.frames import frames_at
    from fustal.viz.film import moments

    return {video: frames_at(file, moments(durations[video])) for video, file in pictures.items()}


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
        best = choose(part, top=MAX_PRINTED).sort_values("score", ascending=False, kind="stable")
        plural = "" if len(part) == 1 else "s"
        more = f", the best {MAX_PRINTED}" if len(part) > MAX_PRINTED else ""
        lines.append(f"{video}, {duration:.1f} s: {len(part)} detection{plural}{more}")
        labels = [" ".join(label.split()) for label in best.label]  # on one line
        width = max((len(label) for label in labels), default=0)
        for label, row in zip(labels, best.itertuples(), strict=True):
            times = f"{row.start:8.2f} – {row.end:.2f} s"
            lines.append(f"  {label:<{width}} {100 * row.score:3.0f} %  {times}")
    return lines


def draw(
    results: pd.DataFrame, durations: Mapping[str, float], folder: Path, frames: Mapping[str, Sequence[np.ndarray]]
) -> None:
    """Writes a timeline of each video as `<video>.png`.

    Args:
        results: video, label, score, start (s), end (s).
        durations: name of a video -> s.
        folder: is made if it does not exist; files of the same names are replaced.
        frames: name of a video -> its frames, for videos that have them, see `viz.timeline`.
    """
    from fustal import viz  # slow to import, and needed only here

    for video, duration in durations.items():
        part = results[results.video == video]
        viz.save(viz.timeline({"detections": part}, duration, frames.get(video, ())), folder / f"{video}.png")


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


def _check_timeline(path: Path, inputs: Sequence[Path]) -> None:
    """Raises an InputError if a timeline would replace a file that is not one: without Matplotlib's name in it."""
    check_output(path, *inputs)
    if path.is_file():
        with open_regular(path) as file:
            if b"Matplotlib" not in file.read(HEAD):
                raise InputError(f"{path}: exists already, and is no timeline: move it away")
