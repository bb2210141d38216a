"""Annotations and result files: ActivityNet-style JSON, or a table of labels as CSV, in; tidy frames out."""

import math
import re
import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from fustal import InputError, Problem
from fustal.files import read_json, shown
from fustal.tables import TABLES, read_classes, read_table
from fustal.writing import write_json

SEGMENT_COLUMNS = ["video", "label", "start", "end"]
RESULT_COLUMNS = ["video", "label", "score", "start", "end"]


def read_annotations(path: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads an annotation file, see `parse_annotations`.

    Returns:
        Frame of videos (index video; subset, duration, fps) and frame of segments (video, label, start, end).

    Raises:
        InputError: names file, video and value of the first problem.
    """
    videos, labels, problems = parse_annotations(Path(path))
    if wrong := [problem for problem in problems if not problem.warning]:
        raise InputError(wrong[0])
    return videos, labels.dropna().reset_index(drop=True)


def read_results(
    path: str | Path, videos: Collection[str] | None = None, classes: Collection[str] | None = None
) -> pd.DataFrame:
    """Reads proposals, pseudo labels or detections from an ActivityNet result file.

    Args:
        path: JSON, `results` -> video -> list of `label`, `score`, `segment` in seconds.
        videos: those that it may name; None: any that can be the name of a file.
        classes: the labels that it may name; None: any.

    Returns:
        Frame with video, label, score, start (s), end (s).

    Raises:
        InputError: names file, video and value of the first problem.
    """
    results = read_json(path).get("results")
    if not isinstance(results, dict):
        raise InputError(f"{path}: has no 'results' object")
    rows = []
    for video, items in results.items():
        if videos is not None and video not in videos:
            raise InputError(f"{path}: video {shown(video)} is not in the data set")
        try:
            check_name(video)
            for item in _listed(items):
                label = _text(item["label"])
                if classes is not None and label not in classes:
                    raise ValueError(f"label {shown(label)} is not in the data set")
                rows.append((video, label, _number(item["score"]), *_segment(item["segment"])))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: video {video!r}: {_say(error)}") from None
    return pd.DataFrame(rows, columns=RESULT_COLUMNS).astype({"score": float, "start": float, "end": float})


def write_results(results: pd.DataFrame, path: str | Path, **entries: Any) -> None:
    """Writes a frame with video, label, score, start, end as an ActivityNet result file, atomically.

    Args:
        results: the frame.
        path: of the file.
        **entries: what else it says besides "results"; also another version.
    """
    columns = results[RESULT_COLUMNS].itertuples(index=False, name=None)
    by_video: dict[str, list[dict[str, Any]]] = {video: [] for video in results.video.unique()}
    for video, label, score, start, end in columns:
        by_video[video].append(
            {"label": label, "score": round(float(score), 6), "segment": [round(float(start), 4), round(float(end), 4)]}
        )
    write_json({"version": "FuSTAL", "results": by_video} | entries, path)


def as_labels(segments: pd.DataFrame) -> pd.DataFrame:
    """True segments in the form of pseudo labels: with score 1."""
    return segments.assign(score=1.0)[RESULT_COLUMNS]


def parse_annotations(path: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[Problem]]:
    """Reads an annotation file as far as it can be read.

    Args:
        path: JSON, `database` -> video -> `subset`, `annotations` (`label`, `segment` in seconds as numbers or
            strings), optionally `duration` and `fps`. Or CSV, a line for each action: `video`, `label`, optionally
            `subset`, `start`, `end`, `duration`, `fps`. Without segment or start and end, a label is of the video.
            Labels that are numbers are named by a list of classes beside the file, see `fustal.tables`. Blanks round
            names do not count.

    Returns:
        Frame of videos (index video; subset, duration, fps), frame of labels (video, label, start, end; NaN without
        segment), and every problem.

    Raises:
        InputError: it cannot be read at all.
    """
    if path.suffix.lower() in TABLES:
        database, problems = read_table(path)
    else:
        database, problems = read_json(path).get("database"), []
    if not isinstance(database, dict) or not database:
        raise InputError(f"{path}: has no 'database' object with videos")
    names, unnamed = _names_of_numbers(path, database)
    problems += unnamed
    videos, labels = {}, []
    for key, entry in database.items():
        video = key.strip()
        try:
            check_name(video)
            if video in videos:
                raise ValueError("appears twice, with and without blanks round its name")
            (entry,) = _listed([entry])
            subset = _plain(entry["subset"])
            duration, fps = (_positive(entry[key], key) if key in entry else math.nan for key in ("duration", "fps"))
            items = _listed(entry.get("annotations", []))
        except (KeyError, TypeError, ValueError) as error:
            problems.append(Problem(path, _say(error), video, "correct this entry, or take the video out"))
            continue
        videos[video] = (subset, duration, fps)
        for position, item in enumerate(items):
            mend = "say what happens, by the name of a class"
            try:
                number = _as_number(_label(item))
                label = _plain(names[number] if number in names else item["label"])
                mend = "write times in seconds, or leave the segment out: a label alone is enough to train on"
                segment = _segment(item["segment"], lasting=True) if "segment" in item else (math.nan, math.nan)
                labels.append((video, label, *segment))
            except (KeyError, TypeError, ValueError) as error:
                problems.append(Problem(path, f"annotation {position}: {_say(error)}", video, mend))
    frame = pd.DataFrame.from_dict(videos, orient="index", columns=["subset", "duration", "fps"])
    table = pd.DataFrame(labels, columns=SEGMENT_COLUMNS).astype({"start": float, "end": float})
    return frame.rename_axis("video"), table, problems


def _names_of_numbers(path: Path, database: dict[str, Any]) -> tuple[dict[int, str], list[Problem]]:
    """Number -> name of the class, where all labels are numbers; what cannot be named is a problem."""
    labels = [_label(item) for entry in database.values() for item in _items(entry)]
    labels = [label for label in labels if label is not None]
    numbers = [_as_number(label) for label in labels]
    if not labels or None in numbers:
        return {}, []
    names = read_classes(path, set(numbers))
    missing = sorted({number for number in numbers if number not in names})
    if not missing:
        return names, []
    some = ", ".join(map(str, missing[:3])) + ", ..." * (len(missing) > 3)
    mend = "write their names into classes.txt beside it, one a line from number 0 on, or lines of 'number name'"
    as_they_are = names | {number: str(number) for number in missing}
    if names:
        what = f"labels are numbers, and the list of classes has no name for {some}"
        return as_they_are, [Problem(path, what, mend=mend)]
    texts = all(isinstance(label, str) for label in labels)  # which can be names
    what = f"labels are numbers ({some}), and no list of classes tells their names"
    return {} if texts else as_they_are, [Problem(path, what, mend=mend, warning=texts)]


def _items(entry: Any) -> list[dict[str, Any]]:
    items = entry.get("annotations") if isinstance(entry, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _label(item: dict[str, Any]) -> Any:
    """What an annotation says happens; a `label_id` alone, where there is no label, is a number to be named."""
    return item.get("label", item.get("label_id"))


def _as_number(label: Any) -> int | None:
    """The number of a class: 3, "3", or "3.0", which tables make of it."""
    if isinstance(label, bool) or not isinstance(label, (int, float, str)):
        return None
    found = re.fullmatch(r"(\d{1,9})(\.0)?", str(label).strip(), re.ASCII)
    return int(found[1]) if found else None


def check_name(video: str) -> None:
    """Refuses, by a ValueError, a name of a video that cannot be the name of a file."""
    if not can_name_a_file(video):
        raise ValueError("the name of a video must be usable as the name of a file")


def can_name_a_file(video: str) -> bool:
    """Whether a video's name can be that of a file: not too long, without slashes and control characters.

    >>> can_name_a_file("Größe 1"), can_name_a_file("../x")
    (True, False)
    """
    if not video or _has_control(video) or video in (".", ".."):
        return False
    return not {*"/\\"} & {*video} and len(video.encode()) <= 200


def _listed(items: Any) -> list[dict[str, Any]]:
    """A list of JSON objects."""
    if not isinstance(items, list):
        raise TypeError(f"{shown(items)} is not a list")
    if wrong := [item for item in items if not isinstance(item, dict)]:
        raise TypeError(f"{shown(wrong[0])} is not an object")
    return items


def _text(value: Any) -> str:
    """A name, without the blanks round it."""
    if not isinstance(value, str) or not value.strip() or value != value.encode(errors="ignore").decode():
        raise TypeError(f"{shown(value)} is not a name")
    return value.strip()


def _plain(value: Any) -> str:
    """A name of annotations. Control characters might be commands to a terminal: tab and line end are the only ones."""
    text = _text(value)
    if _has_control(text.replace("\t", "").replace("\n", "")):
        raise ValueError(f"{shown(value)} holds control characters, and is no name")
    return text


def _has_control(text: str) -> bool:
    """Whether there are control characters, line separators, or halves of letters (surrogates) in a text."""
    return any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)


def _number(value: Any, what: str = "") -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        comma = isinstance(value, str) and re.fullmatch(r"\d+,\d+", value)
        raise ValueError(f"{what}{shown(value)} is not a finite number{': write a point for the comma' * bool(comma)}")
    return number


def _positive(value: Any, what: str) -> float:
    number = _number(value, f"{what} ")
    if number <= 0:
        raise ValueError(f"{what} {shown(value)} is not positive")
    return number


def _segment(value: Any, *, lasting: bool = False) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"segment {shown(value)} is not [start, end]")
    start, end = _number(value[0]), _number(value[1])
    if start < 0 or end < start or (lasting and end == start):
        raise ValueError(f"segment {shown(value)} must have 0 <= start {'<' if lasting else '<='} end")
    return start, end


def _say(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
