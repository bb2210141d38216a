"""Results in the forms of other programs: ActivityNet's evaluation, tables, and players of videos.

Subtitles are written here and not by a library: `pysubs2`, which reads them back in the tests, leaves `<`, `&` and
`-->` of a label as they are, takes `{…}` and backslashes for commands of its own, and ends at 100 hours by a warning.
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

from fustal.data.annotations import read_results, write_results
from fustal.data.names import among, find_run
from fustal.data.writing import atomic, atomic_folder, check_apart, check_output
from fustal.exceptions import InputError

LEAST_SCORE = 0.2
"""From which on a detection becomes a subtitle, as in notebook 05, "One video": of the hundreds that soft-NMS leaves of
a video for the evaluation, most have nearly no score, and would cover the picture. Files of numbers get them all."""

LEAST_DURATION = 0.1
"""Seconds that a subtitle stays at least; one that ends when it begins is not valid, and not seen."""

LATEST = 360_000.0
"""Seconds, 100 hours: where the times of subtitles end."""

NOT_IN_SRT = str.maketrans({"<": "‹", ">": "›", "{": "(", "}": ")", "\\": "∖"})
TIME_POINT = re.compile(r"(?<=\d):(?=\d)")
"""SRT knows no escapes: what players read as commands becomes letters that look like it, and so does what lenient ones
read as the times of another cue."""


def find_results(source: str) -> Path:
    """The file of results that is meant: itself, or the detections at the end of a run (`names.find_run`).

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
    """Those of at least some score, and of these the best of each video.

    Args:
        results: video, label, score, start (s), end (s).
        min_score: least score.
        top: so many of each video; None: all.

    Returns:
        The chosen rows in their order.

    >>> found = pd.DataFrame({"video": ["v", "v", "w"], "score": [0.3, 0.9, 0.1]})
    >>> choose(found, min_score=0.2, top=1).score.tolist()
    [0.9]
    """
    kept = results[results.score >= min_score]
    rank = kept.groupby("video").score.rank(method="first", ascending=False)
    return kept if top is None else kept[rank <= top]


def export(
    source: str, out: Path, to: str | None = None, min_score: float | None = None, top: int | None = None
) -> str:
    """Writes results in another form, all or nothing.

    Args:
        source: see `find_results`.
        out: a file; for subtitles a folder, which must not hold anything yet.
        to: one of `FORMS`; None: by the ending of `out`.
        min_score: see `choose`; None: `LEAST_SCORE` for subtitles, else none.
        top: see `choose`.

    Returns:
        A line that says what was written.

    Raises:
        InputError: results that cannot be read or written, an unknown form, or `out` is taken.
    """
    form = to or {".json": "activitynet", ".csv": "csv"}.get(out.suffix)
    if form not in FORMS:
        reason = f"--to {to}: no such form" if to else f"{out}: ends in neither .json nor .csv: say which form, --to"
        raise InputError(f"{reason} {among(to or '', list(FORMS))}")
    subtitles = form in ("srt", "vtt")
    least = min_score if min_score is not None else LEAST_SCORE if subtitles else -math.inf
    if math.isnan(least):
        raise InputError(f"--min-score {least}: is not a number")
    _check_free(out, subtitles)
    check_apart(out, find_results(source))
    results = read_results(find_results(source))
    chosen = choose(results, least, top)
    FORMS[form](chosen, out)
    limits = (f" of score {least:g} or more" if least > -math.inf else "") + (f", at most {top} a video" if top else "")
    return f"{len(chosen)} of {len(results)} detections in {chosen.video.nunique()} videos{limits}"


def write_csv(results: pd.DataFrame, path: Path) -> None:
    """Writes a table with the columns video, label, score, start, end, as RFC 4180 has it; `read_results` reads it.

    Labels stay as they are: one such as "=1+1" is a formula to programs that open a CSV by a double click.
    """
    with atomic(path) as temporary:
        results.to_csv(temporary, index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\r\n")


def write_subtitles(results: pd.DataFrame, folder: Path, form: str) -> None:
    """Writes a folder with a file for each video: `<video>.srt` or `<video>.vtt`, which players find by its name.

    Args:
        results: video, label, score, start (s), end (s).
        folder: which is made.
        form: "srt" or "vtt".

    Raises:
        InputError: a time that subtitles do not reach.
    """
    for row in results[results.end >= LATEST].itertuples():
        raise InputError(f"video {row.video!r}: {row.label!r} ends at {row.end:g} s: subtitles reach {LATEST:g} s")
    with atomic_folder(folder) as temporary:
        temporary.mkdir()
        for video, part in results.groupby("video"):
            with open(temporary / f"{video}.{form}", "x", encoding="utf-8") as file:  # never two names for one file
                file.write(cues(part, form))


def cues(results: pd.DataFrame, form: str) -> str:
    """The subtitles of one video: a cue a detection, in the order of time, its class and its score in percent.

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
        end = max(row.end, row.start + LEAST_DURATION)
        text = " ".join(row.label.replace("\0", " ").split())  # an empty line would end the cue
        text = html.escape(text, quote=False) if form == "vtt" else TIME_POINT.sub("∶", text.translate(NOT_IN_SRT))
        blocks.append(f"{number}\n{_clock(row.start, form)} --> {_clock(end, form)}\n{text} {100 * row.score:.0f} %\n")
    return "\n".join(blocks)


def _clock(seconds: float, form: str) -> str:
    whole, thousandths = divmod(round(1000 * seconds), 1000)
    point = "," if form == "srt" else "."
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{point}{thousandths:03d}"


def _check_free(out: Path, is_folder: bool) -> None:
    """Refuses to put a file where a folder is, or subtitles where there is anything."""
    if not is_folder:
        check_output(out)
    if is_folder and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: is there already: subtitles want a new or an empty folder")


FORMS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "activitynet": partial(write_results, version="VERSION 1.3", external_data={}),
    "csv": write_csv,
    "srt": partial(write_subtitles, form="srt"),
    "vtt": partial(write_subtitles, form="vtt"),
}
"""Name -> what writes it. `external_data`, what was used beyond the data set, is left to whoever submits the file."""
