"""Annotations and result files: ActivityNet-style JSON, or a table of labels as CSV, in; tidy frames out."""

import contextlib
import csv
import io
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fustal.data.files import json_object, no_collection, one_line, read_json, read_text, shown
from fustal.data.text import TABLES, read_classes, read_table, table_header
from fustal.data.writing import write_json
from fustal.exceptions import InputError, Problem

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
    for problem in problems:
        if not problem.warning:
            raise InputError(problem)
    return videos, labels.dropna().reset_index(drop=True)


def read_results(
    path: str | Path, videos: Collection[str] | None = None, classes: Collection[str] | None = None
) -> pd.DataFrame:
    """Reads proposals, pseudo labels or detections from an ActivityNet result file, or from a CSV of them.

    Args:
        path: JSON, `results` -> video -> list of `label`, `score`, `segment` in seconds, as numbers or strings. Or CSV
            with the columns video, label, score, start, end, as `fustal export` writes it. Blanks round names do not
            count.
        videos: those that it may name; None: any that can be the name of a file.
        classes: the labels that it may name; None: any.

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
    """Reads a result file as the field's evaluators do, for nothing that goes on with its segments.

    Any text names a video. A number names a class by its text. A segment may begin before 0, and end before it begins;
    what follows after its first two values is not read. Blanks round the name of a video do not count, unless two
    names differ in nothing else.

    Returns:
        The frame of `read_results`, and a line about what was not read.

    Raises:
        InputError: names file, video and value of the first problem.
    """
    results = _results(path)
    for video in results:
        with _named(path, video):
            _name(video)
    frame = _in_bulk(results, measuring=True)
    if frame is None or not _is_finite(frame):
        frame = _one_by_one(results, path, measuring=True)
    sizes = Counter(map(len, map(itemgetter("segment"), chain.from_iterable(results.values()))))
    longer = sum(count for size, count in sizes.items() if size > 2)
    return frame, [f"{path}: segments of more than two values: {longer}; the first two are read"] if longer else []


def _results(path: Path) -> dict[str, Any]:
    """Video -> detections, of a result file in either form, unchecked."""
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
    """The text of a CSV as the `results` of the JSON form; what comes before its columns as in tables of labels."""
    header = table_header(text)
    names = header.names
    if not set(RESULT_COLUMNS) <= set(names):
        what = f"a CSV whose first line names the columns {', '.join(RESULT_COLUMNS)}"
        raise InputError(f"{path}: is neither an ActivityNet result file (JSON) nor {what}")
    if twice := [name for name in RESULT_COLUMNS if names.count(name) > 1]:
        raise InputError(f"{path}: its first line names the column {twice[0]} twice")
    body = islice(io.StringIO(text, newline=None), header.line, None)
    rows = csv.reader(body, delimiter=header.separator, skipinitialspace=True, strict=True)
    columns = itemgetter(*map(names.index, RESULT_COLUMNS))
    results: dict[str, list[dict[str, Any]]] = {}
    try:
        with no_collection():
            for row in rows:
                if not any(map(str.strip, row)):
                    continue
                if len(row) < len(names) or any(map(str.strip, row[len(names) :])):
                    if row[0].startswith("#"):
                        continue  # a comment: it has not the values of a detection
                    line = header.line + rows.line_num
                    raise InputError(f"{path}: line {line}: {len(row)} values for {len(names)} columns")
                video, label, score, start, end = columns(row)
                item = {"label": label, "score": score, "segment": [start, end]}
                results.setdefault(video.strip(), []).append(item)
    except csv.Error as error:
        line = header.line + rows.line_num
        raise InputError(f"{path}: line {line}: cannot be read as CSV: {one_line(error)}") from None
    return results


def _in_bulk(results: Mapping[str, Any], *, measuring: bool = False) -> pd.DataFrame | None:
    """The frame of `read_results`, with no loop over detections; None where one has not the usual form."""
    if set(map(type, results.values())) - {list}:
        return None
    items = list(chain.from_iterable(results.values()))
    try:
        label, score, segment = (list(map(itemgetter(name), items)) for name in ("label", "score", "segment"))
        if set(map(type, label)) - ({str, int, float} if measuring else {str}) or set(map(type, segment)) - {list}:
            return None
        sizes = set(map(len, segment))
        if measuring and sizes - {2}:
            segment = list(map(itemgetter(slice(2)), segment))
            sizes = set(map(len, segment))
        if sizes - {2}:
            return None
        times = list(chain.from_iterable(segment))
        if {*map(type, score), *map(type, times)} - {int, float, str}:
            return None
        start, end = np.array(times, float).reshape(-1, 2).T
        columns = {"score": np.array(score, float), "start": start, "end": end}
        code, labels = pd.factorize(np.array(label, object))
        classes = [_class(text) if measuring else _name(text) for text in labels]
        videos = _names_of_videos(results, measuring)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    video = np.repeat(np.array(videos, object), [len(part) for part in results.values()])
    return pd.DataFrame({"video": video, "label": np.array(classes, object)[code]} | columns)


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
    """The frame of `read_results`, or an error that names what is wrong in the first wrong detection."""
    rows = []
    for name, (video, items) in zip(_names_of_videos(results, measuring), results.items(), strict=True):
        with _named(path, video):
            for item in _listed(items):
                label = _class(item["label"]) if measuring else _name(item["label"])
                if classes is not None and label not in classes:
                    raise ValueError(f"label {shown(label)} is not in the data set")
                start, end = _segment(item["segment"], measuring)
                if not measuring and not 0 <= start <= end:
                    raise ValueError(f"segment {shown(item['segment'])} must have 0 <= start <= end")
                rows.append((name, label, _number(item["score"]), start, end))
    return pd.DataFrame(rows, columns=RESULT_COLUMNS).astype({"score": float, "start": float, "end": float})


def _names_of_videos(keys: Collection[str], measuring: bool) -> list[str]:
    """The names without the blanks round them; to measure, those stay of which there are two with and without."""
    stripped = [key.strip() for key in keys]
    times = Counter(stripped)
    return [key if measuring and times[name] > 1 else name for key, name in zip(keys, stripped, strict=True)]


def _class(value: Any) -> str:
    """The name of a class where something is measured: a number is its text, with nothing after the point if it is 0.

    >>> _class(" Run "), _class(1), _class("1.0")
    ('Run', '1', '1')
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    return re.sub(r"^([+-]?[0-9]+)\.0+$", r"\1", _name(value))


def _name(value: Any) -> str:
    """The name of a video or a class, without the blanks round it: text that a file can hold."""
    if not isinstance(value, str) or not value.strip() or value != value.encode(errors="ignore").decode():
        raise TypeError(f"{shown(value)} is not a name")
    return value.strip()


@contextlib.contextmanager
def _named(path: Path, video: str) -> Iterator[None]:
    """Names file and video in what the checks below raise."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: video {shown(video)}: {_say(error)}") from None


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


def parse_annotations(path: Path, *, measuring: bool = False) -> tuple[pd.DataFrame, pd.DataFrame, list[Problem]]:
    """Reads an annotation file as far as it can be read.

    Args:
        path: JSON, `database` -> video -> `subset`, `annotations` (`label`, `segment` in seconds as numbers or
            strings), optionally `duration` and `fps`. Or CSV, a line for each action: `video`, `label`, optionally
            `subset`, `start`, `end`, `duration`, `fps`. Without segment or start and end, a label is of the video.
            Labels that are numbers are named by a list of classes beside the file, see `fustal.data.text`. Blanks round
            names do not count.
        measuring: take all that the field's evaluators take, for nothing but to measure: any text names a video, a
            number names a class by its text, a segment may begin before 0, and what they do not read (duration, fps,
            what follows after two values of a segment, a video whose subset is no name) is not read.

    Returns:
        Frame of videos (index video; subset, duration, fps), frame of labels (video, label, start, end; NaN without
        segment; to measure also number, by which the file names a class of a list, else NaN), and every problem. A
        segment that does not end after it begins, as some of ActivityNet's are [0, 0]
        (github.com/activitynet/ActivityNet, issue 56), is passed over with a warning: its label is of the video.

    Raises:
        InputError: it cannot be read at all.
    """
    if path.suffix.lower() in TABLES:
        database, problems = read_table(path)
    else:
        database, problems = read_json(path).get("database"), []
    if not isinstance(database, dict) or not database:
        raise InputError(f"{path}: has no 'database' object with videos")
    names, unnamed = _names_of_numbers(path, database, measuring)
    problems += unnamed
    videos, labels = {}, []
    instants, early, longer, without = [], [], [], []
    for video, entry in zip(_names_of_videos(database, measuring), database.values(), strict=True):
        subset = None
        try:
            (entry,) = _listed([entry])
            try:
                subset = _plain(entry["subset"])
            except (KeyError, TypeError, ValueError) as error:
                if not measuring:
                    raise
                without.append((video, _say(error)))
                continue
            _name(video) if measuring else check_name(video)
            if video in videos:
                raise ValueError("appears twice, with and without blanks round its name")
            read = [] if measuring else [key for key in ("duration", "fps") if key in entry]
            times = {key: _positive(entry[key], key) for key in read}
            items = _listed(entry.get("annotations", []))
        except (KeyError, TypeError, ValueError) as error:
            fix = "correct this entry, or take the video out"
            problems.append(Problem(path, _say(error), video, fix, subset=subset))
            continue
        videos[video] = {"subset": subset} | times
        for position, item in enumerate(items):
            fix = "say what happens, by the name of a class"
            try:
                number, start, end = class_number(_label(item)), math.nan, math.nan
                label = names[number] if number in names else item["label"]
                label = _class(label) if measuring else _plain(label)
                fix = "write times in seconds, or leave the segment out: a label alone is enough to train on"
                if "segment" in item:
                    start, end = _segment(item["segment"], measuring)
                    if start < 0 and not measuring:
                        raise ValueError(f"segment {shown(item['segment'])} must have 0 <= start < end")
                    if len(item["segment"]) > 2:
                        longer.append((video, item["segment"]))
                    if end <= start:
                        instants.append((video, item["segment"]))
                        start, end = math.nan, math.nan
                    if start < 0:
                        early.append((video, item["segment"]))
                labels.append((video, label, start, end, number if number in names else None))
            except (KeyError, TypeError, ValueError) as error:
                what = f"annotation {position}: {_say(error)}"
                problems.append(Problem(path, what, video, fix, subset=subset))
    fix = "correct the times, or leave the segment out"
    for kind, then, found in (
        ("segments that do not end after they begin", "passed over, their labels stay known", instants),
        ("segments that begin before 0", "measured as they are", early),
        ("segments of more than two values", "the first two are read", longer),
    ):
        if found:
            video, segment = found[0]
            what = f"{kind}: {len(found)}, the first {shown(segment)}; {then}"
            problems.append(Problem(path, what, video, fix, warning=True))
    if without:
        video, reason = without[0]
        what = f"videos without the name of a subset: {len(without)}, the first {shown(video)} ({reason}); not measured"
        problems.append(Problem(path, what, fix="name the subset", warning=len(without) < len(database)))
    frame = pd.DataFrame(videos.values(), pd.Index(videos, name="video"), ["subset", "duration", "fps"])
    table = pd.DataFrame(labels, columns=[*SEGMENT_COLUMNS, "number"])
    table = table.astype({"start": float, "end": float, "number": float})
    return frame.astype({"duration": float, "fps": float}), table if measuring else table[SEGMENT_COLUMNS], problems


def _names_of_numbers(path: Path, database: dict[str, Any], measuring: bool) -> tuple[dict[int, str], list[Problem]]:
    """Number -> name of the class, where all labels are numbers; what cannot be named is a problem.

    To measure, numbers need no names, and a number without a name stays its text.
    """
    labels = [_label(item) for entry in database.values() for item in _items(entry)]
    labels = [label for label in labels if label is not None]
    numbers = [class_number(label) for label in labels]
    if not labels or None in numbers:
        return {}, []
    fix = "write their names into classes.txt beside it, one a line from number 0 on, or lines of 'number name'"
    try:
        names = read_classes(path, set(numbers))
    except InputError as error:
        if not measuring:
            raise
        return {}, [Problem(path, f"labels are numbers, and not named: {error}", fix=fix, warning=True)]
    missing = sorted({number for number in numbers if number not in names})
    if not missing:
        return names, []
    some = ", ".join(map(str, missing[:3])) + ", ..." * (len(missing) > 3)
    as_they_are = names | {number: str(number) for number in missing}
    if names:
        what = f"labels are numbers, and the list of classes has no name for {some}"
        return names if measuring else as_they_are, [Problem(path, what, fix=fix, warning=measuring)]
    texts = measuring or all(isinstance(label, str) for label in labels)  # which can be names
    what = f"labels are numbers ({some}), and no list of classes tells their names"
    return {} if texts else as_they_are, [Problem(path, what, fix=fix, warning=texts)]


def _items(entry: Any) -> list[dict[str, Any]]:
    items = entry.get("annotations") if isinstance(entry, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _label(item: dict[str, Any]) -> Any:
    """What an annotation says happens; a `label_id` alone, where there is no label, is a number to be named."""
    return item.get("label", item.get("label_id"))


def class_number(label: Any) -> int | None:
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


def _plain(value: Any) -> str:
    """A name of annotations. Control characters might be commands to a terminal: tab and line end are the only ones."""
    text = _name(value)
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


def _segment(value: Any, measuring: bool = False) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) < 2 or (len(value) > 2 and not measuring):
        raise ValueError(f"segment {shown(value)} is not [start, end]")
    return _number(value[0]), _number(value[1])


def _say(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
