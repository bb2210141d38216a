"""Results in the forms of other programs: ActivityNet's evaluation, tables, and subtitles for video players.

Subtitles are written here and not by a library: `pysubs2`, which reads them back in the tests, leaves `<`, `&` and
`-->` of a label as they are, takes `{…}` and backslashes for commands of its own, and ends at 100 hours with a warning.
"""

import csv
import html
import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from fustal.data.names import among, find_run
from fustal.data.results import read_results, write_results
from fustal.data.writing import atomic, atomic_folder, check_apart, check_output
from fustal.exceptions import InputError

MIN_SCORE = 0.2
"""Minimum score of a detection that becomes a subtitle, as in notebook 05, "One video". Soft-NMS leaves hundreds of
detections of a video for the evaluation; most have nearly no score, and would cover the picture. Files of numbers get
all detections."""

MIN_DURATION = 0.1
"""Seconds, minimum duration of a subtitle. One that ends when it begins is not valid, and not visible."""

MAX_TIME = 360_000.0
"""Seconds, 100 hours: the times of subtitles end here."""

NOT_IN_SRT = str.maketrans({"<": "‹", ">": "›", "{": "(", "}": ")", "\\": "∖"})
TIME_POINT = re.compile(r"(?<=\d):(?=\d)")
"""SRT has no escapes: letters that players read as commands are replaced by similar letters, and so is a colon between
digits, which lenient players read as the times of another cue."""

ENDINGS = {".json": "activitynet", ".csv": "csv"}
"""File extension -> the form that it stands for."""


def find_results(source: str) -> Path:
    """A file of results: the given file, or the detections of a run's last stage (`names.find_run`).

    Args:
        source: path of the file, or name of the run.

    Raises:
        InputError: there is neither.
    """
    if os.path.isfile(source):
        return Path(source)
    try:
        return find_run(source, "distilled/detections_test.json") / "distilled" / "detections_test.json"
    except InputError as error:
        raise InputError(f"{source}: no such result file; {error}") from None


def choose(results: pd.DataFrame, min_score: float = -math.inf, top: int | None = None) -> pd.DataFrame:
    """Detections of at least some score, and of these the best of each video.

    Args:
        results: video, label, score, start (s), end (s).
        min_score: minimum score.
        top: maximum number of detections of a video; None: all.

    Returns:
        The chosen rows in their order.

    >>> found = pd.DataFrame({"video": ["v", "v", "w"], "score": [0.3, 0.9, 0.1]})
    >>> choose(found, min_score=0.2, top=1).score.tolist()
    [0.9]
    """
    kept = results[results.score >= min_score]
    if top is None:
        return kept
    rank = kept.groupby("video").score.rank(method="first", ascending=False)
    return kept[rank <= top]


def export(
    source: str, out: Path, to: str | None = None, min_score: float | None = None, top: int | None = None
) -> str:
    """Writes results in another form, completely or not at all.

    Args:
        source: see `find_results`.
        out: a file; for subtitles a folder, which must be new or empty.
        to: one of `FORMS`; None: by the file extension of `out`.
        min_score: see `choose`; None: `MIN_SCORE` for subtitles, no minimum for other forms.
        top: see `choose`.

    Returns:
        A line that describes what was written.

    Raises:
        InputError: results that cannot be read or written, an unknown form, or `out` exists already.
    """
    form = to or ENDINGS.get(out.suffix, "")
    if form not in FORMS:
        what = f"--to {to}: no such form" if to else f"{out}: ends in neither .json nor .csv: give the form by --to"
        raise InputError(f"{what} {among(to or '', list(FORMS))}")
    subtitles = form in ("srt", "vtt")
    if min_score is None:
        min_score = MIN_SCORE if subtitles else -math.inf
    if math.isnan(min_score):
        raise InputError(f"--min-score {min_score}: is not a number")
    if subtitles:
        _check_new_folder(out)
    else:
        check_output(out)
    file = find_results(source)
    check_apart(out, file)
    results = read_results(file)
    chosen = choose(results, min_score, top)
    FORMS[form](chosen, out)

    line = f"{len(chosen)} of {len(results)} detections in {chosen.video.nunique()} videos"
    if min_score > -math.inf:
        line += f" of score {min_score:g} or more"
    if top:
        line += f", at most {top} a video"
    return line


def _check_new_folder(folder: Path) -> None:
    """Raises an InputError where subtitles would be mixed with other files, or replace them."""
    is_empty_folder = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not is_empty_folder:
        raise InputError(f"{folder}: exists already: subtitles need a new or an empty folder")


def write_csv(results: pd.DataFrame, path: Path) -> None:
    """Writes a table with the columns video, label, score, start, end (RFC 4180); `read_results` reads it.

    Labels stay as they are: one such as "=1+1" is a formula to programs that open a CSV by a double click.

    Args:
        results: video, label, score, start (s), end (s).
        path: the file.
    """
    with atomic(path) as temporary:
        results.to_csv(temporary, index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\r\n")


def write_subtitles(results: pd.DataFrame, folder: Path, form: str) -> None:
    """Writes a folder with a file for each video: `<video>.srt` or `<video>.vtt`, which players find by its name.

    Args:
        results: video, label, score, start (s), end (s).
        folder: the folder to make.
        form: "srt" or "vtt".

    Raises:
        InputError: a time that subtitles cannot express.
    """
    late = results[results.end >= MAX_TIME]
    if len(late):
        row = late.iloc[0]
        raise InputError(f"video {row.video!r}: {row.label!r} ends at {row.end:g} s: subtitles end at {MAX_TIME:g} s")
    with atomic_folder(folder) as temporary:
        temporary.mkdir()
        for video, part in results.groupby("video"):
            # "x": where a file system takes two names for the same file, the second one raises an error.
            with open(temporary / f"{video}.{form}", "x", encoding="utf-8") as file:
                file.write(cues(part, form))


def cues(results: pd.DataFrame, form: str) -> str:
    """The subtitles of one video: a cue for each detection, in the order of time, with class and score in percent.

    Args:
        results: label, score, start (s), end (s).
        form: "srt" or "vtt".

    >>> print(cues(pd.DataFrame({"label": ["Run"], "score": [0.934], "start": [3661.5], "end": [3670.0]}), "srt"))
    1
    01:01:01,500 --> 01:01:10,000
    Run 93 %
    <BLANKLINE>
    """
    blocks = ["WEBVTT\n"] if form == "vtt" else []
    ordered = results.sort_values(["start", "end", "score"], ascending=[True, True, False], kind="stable")
    for number, row in enumerate(ordered.itertuples(), 1):
        end = max(row.end, row.start + MIN_DURATION)
        times = f"{_clock(row.start, form)} --> {_clock(end, form)}"
        blocks.append(f"{number}\n{times}\n{_escaped(row.label, form)} {100 * row.score:.0f} %\n")
    return "\n".join(blocks)


def _escaped(label: str, form: str) -> str:
    """A label as text of a subtitle, on one line: an empty line would end the cue."""
    text = " ".join(label.replace("\0", " ").split())
    if form == "vtt":
        return html.escape(text, quote=False)
    return TIME_POINT.sub("∶", text.translate(NOT_IN_SRT))


def _clock(seconds: float, form: str) -> str:
    """A time as hours:minutes:seconds and thousandths."""
    whole, thousandths = divmod(round(1000 * seconds), 1000)
    point = "," if form == "srt" else "."
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{point}{thousandths:03d}"


FORMS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "activitynet": partial(write_results, version="VERSION 1.3", external_data={}),
    "csv": write_csv,
    "srt": partial(write_subtitles, form="srt"),
    "vtt": partial(write_subtitles, form="vtt"),
}
"""Name -> the function that writes it. `external_data` (data used beyond the data set) is left to the author of a
submission."""
