"""Where `fustal localize` puts the detections: printed, a file, timelines, a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fustal.data.features import FeatureStore
from fustal.data.files import open_regular
from fustal.data.results import write_results
from fustal.data.writing import check_output
from fustal.exceptions import InputError
from fustal.runs.chain import DETECTIONS
from fustal.tools.export import MIN_SCORE, choose, write_csv
from fustal.tools.page import check_page, write_page
from fustal.video import is_installed

MAX_PRINTED = 10
"""Maximum number of detections of a video that are printed."""

TRACKS = ("truth", "detections", "student", "generator")
"""The time lines of a page, in their order. All but the detections are left out where they are not known."""

SAME: dict[str, float] = {"rel_tol": 0.02, "abs_tol": 2}
"""Durations of one video agree so well: its last snippet may end before it."""

HEAD = 500
"""Bytes at the beginning of a PNG file in which Matplotlib writes its name."""


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
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise InputError(f"--min-score {self.min_score}: is not between 0 and 1")
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
        run: str,
    ) -> list[str]:
        """Writes the detections.

        Args:
            found: video, label, score, start (s), end (s).
            durations: name of a video -> s.
            pictures: name of a video -> its file, for videos that can be shown.
            stages: what is known of the video of the page, see `known_of`.
            run: its name, for the page.

        Returns:
            The lines to print.
        """
        minimum = MIN_SCORE if self.min_score is None else self.min_score
        shown = choose(found, minimum)
        # Read before anything is written, as a video can be broken
        frames = frames_of(pictures, durations) if self.folder else {}
        lines = doubts(self.video, *durations.values()) if self.video else []
        if self.file:
            kept = found if self.min_score is None else shown
            write = write_results if self.file.suffix == ".json" else write_csv
            write(kept, self.file)
            lines.append(f"{len(kept)} detections in {kept.video.nunique()} of {len(durations)} videos: {self.file}")
        else:
            lines += table(shown, durations)
        if self.folder:
            draw(shown, durations, self.folder, frames)
            plural = "" if len(durations) == 1 else "s"
            lines.append(f"{len(durations)} timeline{plural} of detections of score {minimum:g} or more: {self.folder}")
            if pictures and not frames:
                lines.append("no frames of the video above the timeline: pip install 'fustal[video]'")
        if self.page:
            ((video, duration),) = durations.items()
            known = {"detections": found, **stages}
            tracks = {name: known[name] for name in TRACKS if name in known}
            about = f"Detections of the run {run}."
            if len(tracks) > 1:
                about += " Truth is from its data set, the other rows are from its stages."
            shown_video = pictures.get(video)
            what = write_page(self.page, shown_video, tracks, duration, title=video, about=about, min_score=minimum)
            lines.append(f"{self.page}: {', '.join(tracks)}, {what}")
        return lines


def doubts(film: Path, duration: float) -> list[str]:
    """A warning where a video is much longer or shorter than features; without the extra `video` none.

    Args:
        film: the video that is shown.
        duration: end of the last snippet of the features, in s.
    """
    if not is_installed():
        return []
    from fustal.video import decode

    try:
        seconds = decode.duration(film)  # 0: not known
    except InputError:  # a browser may play what PyAV cannot read
        return []
    if not seconds or math.isclose(seconds, duration, **SAME):
        return []
    return [f"warning: {film} lasts {seconds:.1f} s, and the features {duration:.1f} s: are they of this video?"]


def known_of(run: str, durations: Mapping[str, float]) -> dict[str, pd.DataFrame]:
    """True segments of a video, and what the stages of a run found in it, where the run's data set has the video.

    A video is that of the data set if it has its name and about its duration.

    Args:
        run: name of the run, see `localize.load`.
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
    try:
        usual = FeatureStore(dataset, "student").duration(video)
    except InputError:  # its features are gone
        return {}
    if not math.isclose(usual, duration, **SAME):
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
    if not is_installed():
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


def _check_timeline(path: Path, inputs: Sequence[Path]) -> None:
    """Raises an InputError if a timeline would replace a file that is not one: without Matplotlib's name in it."""
    check_output(path, *inputs)
    if path.is_file():
        with open_regular(path) as file:
            if b"Matplotlib" not in file.read(HEAD):
                raise InputError(f"{path}: exists already, and is no timeline: move it away")
