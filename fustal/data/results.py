"""Result files: proposals, pseudo labels and detections as ActivityNet-style JSON or as CSV."""

import contextlib
import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fustal.data.files import json_object, no_collection, one_line, read_text, shown
from fustal.data.text import Header, table_header
from fustal.data.values import (
    WRONG_VALUE,
    check_name,
    checked_objects,
    class_name,
    finite_number,
    reason,
    start_and_end,
    stripped_name,
    video_names,
)
from fustal.data.writing import write_json
from fustal.exceptions import InputError

RESULT_COLUMNS = ["video", "label", "score", "start", "end"]


def results_frame(videos: Sequence[str], rows: Sequence[np.ndarray], classes: Sequence[str]) -> pd.DataFrame:
    """A frame of results from numbers; a frame for each video would take ten times the memory.

    Args:
        videos: names.
        rows: for each video (N, 4): index of the class, score, start (s), end (s).
        classes: names of the classes.

    Returns:
        Frame with the columns `RESULT_COLUMNS`.

    >>> results_frame(["v"], [np.array([[1, 0.5, 2.0, 4.0]])], ["run", "jump"]).to_dict("records")
    [{'video': 'v', 'label': 'jump', 'score': 0.5, 'start': 2.0, 'end': 4.0}]
    """
    label, score, start, end = np.concatenate([np.empty((0, 4)), *rows]).T
    video = np.repeat(np.array(videos, dtype=object), [len(part) for part in rows])
    names = np.array(classes, dtype=object)[label.astype(int)]
    return pd.DataFrame({"video": video, "label": names, "score": score, "start": start, "end": end})


def read_results(
    path: str | Path, videos: Collection[str] | None = None, classes: Collection[str] | None = None
) -> pd.DataFrame:
    """Reads proposals, pseudo labels or detections from an ActivityNet result file, or from a CSV of them.

    Args:
        path: JSON, `results` -> video -> list of `label`, `score`, `segment` in seconds, as numbers or strings. Or CSV
            with the columns video, label, score, start, end, as `fustal export` writes it. Spaces around names are
            ignored.
        videos: the videos that may occur; None: every name that can be the name of a file.
        classes: the labels that may occur; None: all.

    Returns:
        Frame with video, label, score, start (s), end (s): video by video, the detections of a video in their order.

    Raises:
        InputError: names file, video and value of the first problem.
    """
    path = Path(path)
    results = _results(path)
    for video in results:
        if videos is not None and video.strip() not in videos:
            raise InputError(f"{path}: video {shown(video)} is not in the data set")
        with _named(path, video):
            check_name(video.strip())
    frame = _in_bulk(results)
    if frame is None or not _is_valid(frame, classes):
        frame = _one_by_one(results, path, classes)
    return frame


def read_results_to_measure(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Reads a result file as the evaluators of the field do. The segments must be used for nothing but a measurement.

    Every text is the name of a video. A number is the name of a class, by its text. A segment may begin before 0, and
    end before it begins; values after its first two are ignored. Spaces around the name of a video are ignored, unless
    two names differ in nothing else.

    Returns:
        The frame of `read_results`, and a line about what is ignored, if anything is.

    Raises:
        InputError: names file, video and value of the first problem.
    """
    results = _results(path)
    for video in results:
        with _named(path, video):
            stripped_name(video)
    frame = _in_bulk(results, measuring=True)
    if frame is None or not _is_finite(frame):
        frame = _one_by_one(results, path, measuring=True)
    longer = 0
    for items in results.values():
        for item in items:
            if len(item["segment"]) > 2:
                longer += 1
    if longer:
        return frame, [f"{path}: segments of more than two values: {longer}; the first two are read"]
    return frame, []


def write_results(results: pd.DataFrame, path: str | Path, **entries: Any) -> None:
    """Writes a frame with video, label, score, start, end as an ActivityNet result file, atomically.

    Args:
        results: the frame.
        path: the file.
        **entries: more entries beside "results"; "version" replaces the default one.
    """
    by_video: dict[str, list[dict[str, Any]]] = {video: [] for video in results.video.unique()}
    for video, label, score, start, end in results[RESULT_COLUMNS].itertuples(index=False, name=None):
        segment = [round(float(start), 4), round(float(end), 4)]
        by_video[video].append({"label": label, "score": round(float(score), 6), "segment": segment})
    write_json({"version": "FuSTAL", "results": by_video} | entries, path)


def as_labels(segments: pd.DataFrame) -> pd.DataFrame:
    """True segments in the form of pseudo labels, with score 1."""
    return segments.assign(score=1.0)[RESULT_COLUMNS]


# --- the file: video -> list of detections, unchecked -----------------------------------------------------------------


def _results(path: Path) -> dict[str, Any]:
    """Video -> detections, from a result file in either form, unchecked."""
    text = read_text(path)
    if path.suffix.lower() != ".json" and not text[:1000].lstrip().startswith(("{", "[")):
        return _results_of_table(text, path)
    value = json_object(text, path)
    results = value.get("results")
    if isinstance(results, dict):
        return results
    instead = f" but a {type(results).__name__} of that name" if "results" in value else ""
    hint = ": it holds annotations" if "database" in value else ""
    raise InputError(f"{path}: has no 'results' object{instead}{hint}")


def _results_of_table(text: str, path: Path) -> dict[str, list[dict[str, Any]]]:
    """The text of a CSV in the form of the JSON's `results`; lines before its header as in tables of labels."""
    header = table_header(text)
    if not set(RESULT_COLUMNS) <= set(header.names):
        what = f"a CSV whose first line names the columns {', '.join(RESULT_COLUMNS)}"
        raise InputError(f"{path}: is neither an ActivityNet result file (JSON) nor {what}")
    for name in RESULT_COLUMNS:
        if header.names.count(name) > 1:
            raise InputError(f"{path}: its first line names the column {name} twice")
    values_of = itemgetter(*[header.names.index(name) for name in RESULT_COLUMNS])
    results: dict[str, list[dict[str, Any]]] = {}
    with no_collection():
        for row in _rows(text, header, path):
            video, label, score, start, end = values_of(row)
            item = {"label": label, "score": score, "segment": [start, end]}
            results.setdefault(video.strip(), []).append(item)
    return results


def _rows(text: str, header: Header, path: Path) -> Iterator[list[str]]:
    """The rows of a table that have a value for each column; empty lines and comments (`#`) are skipped."""
    count = len(header.names)
    body = islice(io.StringIO(text, newline=None), header.line, None)
    reader = csv.reader(body, delimiter=header.separator, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if not any(map(str.strip, row)):
                continue
            if len(row) >= count and not any(map(str.strip, row[count:])):
                yield row
            elif not row[0].startswith("#"):  # a comment; but a detection whose video begins with # is complete
                line = header.line + reader.line_num
                raise InputError(f"{path}: line {line}: {len(row)} values for {count} columns")
    except csv.Error as error:
        line = header.line + reader.line_num
        raise InputError(f"{path}: line {line}: cannot be read as CSV: {one_line(error)}") from None


# --- detections, checked ----------------------------------------------------------------------------------------------


def _in_bulk(results: Mapping[str, Any], *, measuring: bool = False) -> pd.DataFrame | None:
    """The frame of `read_results`, column by column; None where a detection does not have the usual form.

    This is several times faster than `_one_by_one`, and a result file can hold a million detections.
    """
    try:
        return _by_columns(results, measuring)
    except (*WRONG_VALUE, OverflowError):
        return None


def _by_columns(results: Mapping[str, Any], measuring: bool) -> pd.DataFrame:
    """See `_in_bulk`; raises one of several errors where a detection does not have the usual form."""
    _check_types(results.values(), {list})
    items = list(chain.from_iterable(results.values()))
    labels = [item["label"] for item in items]
    scores = [item["score"] for item in items]
    segments = [item["segment"] for item in items]
    _check_types(labels, {str, int, float} if measuring else {str})
    _check_types(scores, {int, float, str})
    _check_types(segments, {list})
    sizes = set(map(len, segments))
    if measuring and sizes - {2}:
        segments = [segment[:2] for segment in segments]
        sizes = set(map(len, segments))
    if sizes - {2}:
        raise ValueError("a segment is not [start, end]")
    times = list(chain.from_iterable(segments))
    _check_types(times, {int, float, str})
    pairs = np.array(times, float).reshape(-1, 2)

    # There are few different labels: each is checked once
    codes, different = pd.factorize(np.array(labels, object))
    classes = [class_name(label) if measuring else stripped_name(label) for label in different]

    counts = [len(part) for part in results.values()]
    videos = np.array(video_names(results, measuring), object)
    return pd.DataFrame(
        {
            "video": np.repeat(videos, counts),
            "label": np.array(classes, object)[codes],
            "score": np.array(scores, float),
            "start": pairs[:, 0],
            "end": pairs[:, 1],
        }
    )


def _check_types(values: Iterable[Any], allowed: set[type]) -> None:
    """Raises a TypeError if a value has another type; unlike `isinstance`, bool is not int."""
    if set(map(type, values)) - allowed:
        raise TypeError("a value has an unusual type")


def _is_valid(frame: pd.DataFrame, classes: Collection[str] | None) -> bool:
    """Whether `_one_by_one` would find nothing wrong."""
    known = classes is None or all(label in classes for label in frame.label.unique())
    in_order = ((frame.start >= 0) & (frame.end >= frame.start)).all()
    return bool(known and in_order and _is_finite(frame))


def _is_finite(frame: pd.DataFrame) -> bool:
    return bool(np.isfinite(frame[["score", "start", "end"]].to_numpy()).all())


def _one_by_one(
    results: Mapping[str, Any], path: Path, classes: Collection[str] | None = None, measuring: bool = False
) -> pd.DataFrame:
    """The frame of `read_results`; raises an InputError that names what is wrong in the first wrong detection."""
    rows = []
    names = video_names(results, measuring)
    for name, (video, items) in zip(names, results.items(), strict=True):
        with _named(path, video):
            for item in checked_objects(items):
                rows.append((name, *_detection(item, classes, measuring)))
    frame = pd.DataFrame(rows, columns=RESULT_COLUMNS)
    return frame.astype({"score": float, "start": float, "end": float})


def _detection(
    item: Mapping[str, Any], classes: Collection[str] | None, measuring: bool
) -> tuple[str, float, float, float]:
    """Label, score, start and end (s) of one detection."""
    label = class_name(item["label"]) if measuring else stripped_name(item["label"])
    if classes is not None and label not in classes:
        raise ValueError(f"label {shown(label)} is not in the data set")
    start, end = start_and_end(item["segment"], measuring)
    if not measuring and not 0 <= start <= end:
        raise ValueError(f"segment {shown(item['segment'])} must have 0 <= start <= end")
    return label, finite_number(item["score"]), start, end


@contextlib.contextmanager
def _named(path: Path, video: str) -> Iterator[None]:
    """Adds file and video to the messages of `WRONG_VALUE`."""
    try:
        yield
    except WRONG_VALUE as error:
        raise InputError(f"{path}: video {shown(video)}: {reason(error)}") from None
