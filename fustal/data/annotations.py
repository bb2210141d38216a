"""Annotation files: ActivityNet-style JSON, or a table of labels as CSV, read into tidy frames."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from fustal.data.files import read_json, shown
from fustal.data.text import TABLES, read_classes, read_table
from fustal.data.values import (
    WRONG_VALUE,
    check_name,
    checked_objects,
    class_name,
    class_number,
    plain_name,
    positive_number,
    reason,
    start_and_end,
    stripped_name,
    video_names,
)
from fustal.exceptions import InputError, Problem

SEGMENT_COLUMNS = ["video", "label", "start", "end"]


def read_annotations(path: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads an annotation file, see `parse_annotations`.

    Returns:
        Frame of videos (index video; subset, duration, fps) and frame of segments (video, label, start, end).

    Raises:
        InputError: names file, video and value of the first problem.
    """
    videos, labels, problems = parse_annotations(Path(path))
    for problem in problems:
        if not problem.warning:
            raise InputError(problem)
    return videos, labels.dropna().reset_index(drop=True)


def parse_annotations(path: Path, *, measuring: bool = False) -> tuple[pd.DataFrame, pd.DataFrame, list[Problem]]:
    """Reads an annotation file as far as it can be read.

    Args:
        path: JSON, `database` -> video -> `subset`, `annotations` (`label`, `segment` in seconds as numbers or
            strings), optionally `duration` and `fps`. Or CSV, a line for each action: `video`, `label`, optionally
            `subset`, `start`, `end`, `duration`, `fps`. A label without a segment, or without start and end, is a
            label of the video. If labels are numbers, a list of classes beside the file gives their names, see
            `fustal.data.text`. Spaces around names are ignored.
        measuring: accept all that the evaluators of the field accept; only for a measurement. Every text is the name of
            a video, a number is the name of a class by its text, a segment may begin before 0. What these evaluators
            do not read is ignored: duration, fps, values of a segment after the first two, a video whose subset is not
            a name.

    Returns:
        Frame of videos (index video; subset, duration, fps), frame of labels (video, label, start, end; NaN without
        segment; if measuring also number: the number of the class where a list names it, else NaN), and every problem.
        Some segments of ActivityNet are [0, 0] (github.com/activitynet/ActivityNet, issue 56). A segment that does not
        end after it begins is skipped with a warning, and its label becomes a label of the video.

    Raises:
        InputError: the file cannot be read at all.
    """
    problems: list[Problem] = []
    if path.suffix.lower() in TABLES:
        database, problems = read_table(path)
    else:
        database = read_json(path).get("database", {})
    if not isinstance(database, dict) or not database:
        raise InputError(f"{path}: has no 'database' object with videos")
    names, unnamed = _names_of_numbers(path, database, measuring)
    parser = _Parser(path, names, measuring)
    for video, entry in zip(video_names(database, measuring), database.values(), strict=True):
        parser.read_video(video, entry)
    problems += unnamed
    problems += parser.problems
    problems += parser.warnings(len(database))
    return parser.frame_of_videos(), parser.frame_of_labels(), problems


class _Parser:
    """What has been read from an annotation file.

    Args:
        path: the file, for messages.
        names: number -> name of the classes that a list names.
        measuring: see `parse_annotations`.
    """

    def __init__(self, path: Path, names: dict[int, str], measuring: bool) -> None:
        self.path = path
        self.names = names
        self.measuring = measuring
        self.videos: dict[str, dict[str, Any]] = {}
        self.labels: list[tuple[str, str, float, float, int | None]] = []
        self.problems: list[Problem] = []
        # Segments that cause a warning: each with its video
        self.without_length: list[tuple[str, Any]] = []
        self.before_zero: list[tuple[str, Any]] = []
        self.too_many_values: list[tuple[str, Any]] = []
        # Videos that are ignored because their subset is not a name: each with the reason
        self.without_subset: list[tuple[str, str]] = []

    def read_video(self, video: str, entry: Any) -> None:
        """Reads the entry of one video. Wrong values are added to the problems."""
        subset = None
        try:
            checked_objects([entry])
            subset = self._subset(video, entry)
            if subset is None:
                return
            self._check_video(video)
            times = {}
            if not self.measuring:
                times = {key: positive_number(entry[key], key) for key in ("duration", "fps") if key in entry}
            items = checked_objects(entry.get("annotations", []))
        except WRONG_VALUE as error:
            fix = "correct this entry, or remove the video"
            self.problems.append(Problem(self.path, reason(error), video, fix, subset=subset))
            return
        self.videos[video] = {"subset": subset} | times
        for position, item in enumerate(items):
            self._read_annotation(video, position, item)

    def _subset(self, video: str, entry: dict[str, Any]) -> str | None:
        """The name of a video's subset; None if it has no name and is only measured."""
        try:
            return plain_name(entry["subset"])
        except WRONG_VALUE as error:
            if not self.measuring:
                raise
            self.without_subset.append((video, reason(error)))
            return None

    def _check_video(self, video: str) -> None:
        if self.measuring:
            stripped_name(video)
        else:
            check_name(video)
        if video in self.videos:
            raise ValueError("appears twice, with and without spaces around its name")

    def _read_annotation(self, video: str, position: int, item: dict[str, Any]) -> None:
        """Reads one annotation of a video: its label, and its segment if there is one."""
        start, end = math.nan, math.nan
        fix = "give the name of a class"
        try:
            label, number = self._label_and_number(item)
            fix = "write times in seconds, or leave the segment out: a label alone is enough to train on"
            if "segment" in item:
                start, end = self._times(video, item["segment"])
        except WRONG_VALUE as error:
            what = f"annotation {position}: {reason(error)}"
            subset = self.videos[video]["subset"]
            self.problems.append(Problem(self.path, what, video, fix, subset=subset))
            return
        self.labels.append((video, label, start, end, number))

    def _label_and_number(self, item: dict[str, Any]) -> tuple[str, int | None]:
        """The name of an annotation's class, and the number that stands for it if a list names it."""
        number = class_number(_label(item))
        if number is not None and number in self.names:
            label: Any = self.names[number]
        else:
            number = None
            label = item["label"]
        return (class_name(label) if self.measuring else plain_name(label)), number

    def _times(self, video: str, segment: Any) -> tuple[float, float]:
        """Start and end of a segment in seconds; NaN if it does not end after it begins."""
        start, end = start_and_end(segment, self.measuring)
        if start < 0 and not self.measuring:
            raise ValueError(f"segment {shown(segment)} must have 0 <= start < end")
        if len(segment) > 2:
            self.too_many_values.append((video, segment))
        if end <= start:
            self.without_length.append((video, segment))
            return math.nan, math.nan
        if start < 0:
            self.before_zero.append((video, segment))
        return start, end

    def warnings(self, count: int) -> list[Problem]:
        """One problem for each kind of value that is read in spite of its form.

        Args:
            count: the number of videos in the file. Without the subset of any of them, nothing can be measured.
        """
        kinds = [
            ("segments that do not end after they begin", "skipped, their labels are kept", self.without_length),
            ("segments that begin before 0", "measured as they are", self.before_zero),
            ("segments of more than two values", "the first two are read", self.too_many_values),
        ]
        found = []
        for kind, consequence, segments in kinds:
            if segments:
                video, first = segments[0]
                what = f"{kind}: {len(segments)}, the first {shown(first)}; {consequence}"
                fix = "correct the times, or leave the segment out"
                found.append(Problem(self.path, what, video, fix, warning=True))
        if self.without_subset:
            video, why = self.without_subset[0]
            videos = f"{len(self.without_subset)}, the first {shown(video)} ({why})"
            what = f"videos without the name of a subset: {videos}; not measured"
            some = len(self.without_subset) < count
            found.append(Problem(self.path, what, fix="name the subset", warning=some))
        return found

    def frame_of_videos(self) -> pd.DataFrame:
        """Frame indexed by video: subset, duration (s), fps."""
        index = pd.Index(self.videos, name="video")
        frame = pd.DataFrame(self.videos.values(), index, ["subset", "duration", "fps"])
        return frame.astype({"duration": float, "fps": float})

    def frame_of_labels(self) -> pd.DataFrame:
        """Frame with video, label, start (s), end (s); if measuring also number."""
        frame = pd.DataFrame(self.labels, columns=[*SEGMENT_COLUMNS, "number"])
        frame = frame.astype({"start": float, "end": float, "number": float})
        return frame if self.measuring else frame[SEGMENT_COLUMNS]


def _names_of_numbers(path: Path, database: dict[str, Any], measuring: bool) -> tuple[dict[int, str], list[Problem]]:
    """Number -> name of the class, if all labels are numbers; a number without a name is a problem.

    For a measurement, numbers need no names: a number without a name stays its text.
    """
    labels = _all_labels(database)
    numbers = set()
    for label in labels:
        number = class_number(label)
        if number is None:
            return {}, []
        numbers.add(number)
    if not numbers:
        return {}, []
    fix = "write their names into classes.txt beside it, one a line from number 0 on, or lines of 'number name'"
    try:
        names = read_classes(path, numbers)
    except InputError as error:
        if not measuring:
            raise
        return {}, [Problem(path, f"labels are numbers, and not named: {error}", fix=fix, warning=True)]
    missing = sorted(numbers - names.keys())
    if not missing:
        return names, []
    some = ", ".join(map(str, missing[:3]))
    if len(missing) > 3:
        some += ", ..."
    # The text of a number as its name: one problem for all numbers, not one for each annotation
    with_texts = names | {number: str(number) for number in missing}
    if names:
        what = f"labels are numbers, and the list of classes has no name for {some}"
        return (names if measuring else with_texts), [Problem(path, what, fix=fix, warning=measuring)]
    # Numbers that are strings, as in a table, can be meant as names
    may_be_names = measuring or all(isinstance(label, str) for label in labels)
    what = f"labels are numbers ({some}), and no list of classes gives their names"
    return ({} if may_be_names else with_texts), [Problem(path, what, fix=fix, warning=may_be_names)]


def _all_labels(database: dict[str, Any]) -> list[Any]:
    """The labels of all annotations that have one, unchecked; what has a wrong form is skipped."""
    labels = []
    for entry in database.values():
        items = entry.get("annotations") if isinstance(entry, dict) else None
        for item in items if isinstance(items, list) else []:
            label = _label(item) if isinstance(item, dict) else None
            if label is not None:
                labels.append(label)
    return labels


def _label(item: dict[str, Any]) -> Any:
    """The label of an annotation; if there is none, its `label_id`, the number of a class."""
    return item.get("label", item.get("label_id"))
