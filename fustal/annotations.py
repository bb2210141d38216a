"""Annotations and result files: ActivityNet-style JSON, or a table of labels as CSV, in; tidy frames out."""

import csv
import math
import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from fustal import InputError, Problem
from fustal.files import one_line, read_json, shown
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
    if problems:
        raise InputError(problems[0])
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

    Returns:
        Frame of videos (index video; subset, duration, fps), frame of labels (video, label, start, end; NaN without
        segment), and every problem.

    Raises:
        InputError: it cannot be read at all.
    """
    database = _database(path) if path.suffix.lower() == ".csv" else read_json(path).get("database")
    if not isinstance(database, dict) or not database:
        raise InputError(f"{path}: has no 'database' object with videos")
    videos, labels, problems = [], [], []
    for video, entry in database.items():
        try:
            check_name(video)
            (entry,) = _listed([entry])
            subset = _text(entry["subset"])
            duration, fps = (_positive(entry[key], key) if key in entry else math.nan for key in ("duration", "fps"))
            items = _listed(entry.get("annotations", []))
        except (KeyError, TypeError, ValueError) as error:
            problems.append(Problem(path, _say(error), video, "correct this entry, or take the video out"))
            continue
        videos.append((video, subset, duration, fps))
        for position, item in enumerate(items):
            mend = "say what happens, by the name of a class"
            try:
                label = _text(item["label"])
                mend = "write times in seconds, or leave the segment out: a label alone is enough to train on"
                segment = _segment(item["segment"], lasting=True) if "segment" in item else (math.nan, math.nan)
                labels.append((video, label, *segment))
            except (KeyError, TypeError, ValueError) as error:
                problems.append(Problem(path, f"annotation {position}: {_say(error)}", video, mend))
    frame = pd.DataFrame(videos, columns=["video", "subset", "duration", "fps"]).set_index("video")
    table = pd.DataFrame(labels, columns=SEGMENT_COLUMNS).astype({"start": float, "end": float})
    return frame, table, problems


WHOLE = "all"
"""The subset of videos in a CSV that names none."""


def _database(path: Path) -> dict[str, Any]:
    """A CSV as the `database` of the JSON form."""
    try:
        table = pd.read_csv(path, sep=None, engine="python", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV: {one_line(error)}") from None
    table.columns = table.columns.str.strip().str.lower()
    if not {"video", "label"} <= set(table):
        raise InputError(f"{path}: its first line must name the columns video and label, not {', '.join(table)}")
    database = {}
    for video, rows in table.groupby("video", sort=False):
        entry: dict[str, Any] = {"subset": WHOLE}
        for name in rows.columns.intersection(["subset", "duration", "fps"]):
            if said := [value for value in rows[name].unique() if value]:
                entry[name] = said[0] if len(said) == 1 else said  # more than one is refused as what it should be
        items = [item for row in rows.to_dict("records") if (item := _item(row))]
        database[video] = entry | {"annotations": items}
    return database


def _item(row: dict[str, str]) -> dict[str, Any]:
    """A line of a CSV as an annotation; empty where the video has none."""
    segment = [row.get("start", ""), row.get("end", "")]
    return {name: value for name, value in (("label", row["label"]), ("segment", segment)) if any(value)}


def check_name(video: str) -> None:
    """Refuses, by a ValueError, a name of a video that cannot be the name of a file."""
    control = any(unicodedata.category(letter) in ("Cc", "Cs") for letter in video)
    if not video or control or "/" in video or "\\" in video or video in (".", "..") or len(video.encode()) > 200:
        raise ValueError("the name of a video must be usable as the name of a file")


def _listed(items: Any) -> list[dict[str, Any]]:
    """A list of JSON objects."""
    if not isinstance(items, list):
        raise TypeError(f"{shown(items)} is not a list")
    if wrong := [item for item in items if not isinstance(item, dict)]:
        raise TypeError(f"{shown(wrong[0])} is not an object")
    return items


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or value != value.encode(errors="ignore").decode():
        raise TypeError(f"{shown(value)} is not a name")
    return value


def _number(value: Any, what: str = "") -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{what}{shown(value)} is not a finite number")
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
