"""One page of HTML that shows a video, and below it the time lines of its detections, which follow the video.

The page loads nothing from elsewhere, and opens from a disk. Its template `page.html` escapes all text; only the script
`page.js` may run in it. Without a video, as for data of sensors, a clock takes the place of the picture.
"""

import base64
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from fustal.data.files import open_regular
from fustal.data.writing import atomic, check_output
from fustal.exceptions import InputError
from fustal.tools.export import MIN_SCORE, cues
from fustal.tools.templates import rendered
from fustal.video import is_installed

PATTERNS = 4
"""Number of patterns of bars, among them none: further classes have the same colours with another pattern."""

EMBEDDED = 25_000_000
"""Bytes, maximum size of a video in the page. Browsers become slow with much longer pages."""

MARK = b'<meta name="generator" content="FuSTAL">'
"""At the beginning of each page: a file without it is not replaced."""

HEAD = 500
"""Bytes at the beginning of a page, with `MARK`."""


@dataclass(frozen=True)
class Bar:
    """A segment on the page.

    Attributes:
        start: s.
        end: s.
        score: None: a true segment.
        text: times, and the score in percent.
    """

    start: float
    end: float
    score: float | None
    text: str


@dataclass(frozen=True)
class ClassRows:
    """The time lines of one class.

    Attributes:
        label: the class.
        colour: of its bars.
        pattern: number of the pattern of its bars.
        lanes: name of a track -> its segments of this class; only tracks that have one.
    """

    label: str
    colour: str
    pattern: int
    lanes: dict[str, list[Bar]]


def write_page(
    path: Path,
    video: Path | None,
    tracks: Mapping[str, pd.DataFrame],
    duration: float,
    *,
    title: str,
    about: str = "",
    min_score: float = MIN_SCORE,
) -> str:
    """Writes the page of a video, completely or not at all.

    A video of at most `EMBEDDED` bytes is contained in the page. A larger one is read from its file, and the page says
    so.

    Args:
        path: the page.
        video: its file; None: a clock instead of pictures.
        tracks: name -> label, start (s), end (s), and score if it has scores. The first track with scores is listed,
            counted, and shown as captions of the video.
        duration: s, of the time lines.
        title: name of the video.
        about: a sentence below it.
        min_score: detections of lower scores are hidden until the reader moves the slider.

    Returns:
        What the page contains, for a message.

    Raises:
        InputError: the video cannot be read, or the page cannot be written.
    """
    check_page(path, *([video] if video else []))
    source, contents = _source(video, path) if video else ("", "without a video")
    embedded = source.startswith("data:")
    begins = _begins(video) if video else 0.0
    main = next((name for name, frame in tracks.items() if "score" in frame), "")
    found = tracks[main] if main else pd.DataFrame(columns=["label", "score", "start", "end"])
    # In the order of the captions: the number of a caption is the place of its detection in the list
    found = found.sort_values(["start", "end", "score"], ascending=[True, True, False], kind="stable")
    captions = found.assign(start=found.start + begins, end=found.end + begins)
    rows = _rows(tracks)
    script = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
    text = rendered(
        "page.html",
        title=title,
        about=about,
        source=source,
        left_out=video.name if video and not embedded else "",
        captions=_data_url("text/vtt", cues(captions, "vtt").encode(errors="replace")),
        main=main,
        found=[(row.label, bar) for row, bar in zip(found.itertuples(), _bars(found), strict=True)],
        rows=rows,
        tracks=len(tracks),
        black=any("score" not in frame and len(frame) for frame in tracks.values()),
        looks={row.label: (row.colour, row.pattern) for row in rows},
        duration=max(duration, 1e-3),
        begins=begins,
        min_score=min_score,
        lowest=min(0.0, found.score.min()) if len(found) else 0.0,
        highest=max(1.0, found.score.max()) if len(found) else 1.0,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    return contents


def check_page(path: Path, *inputs: Path) -> None:
    """Checks the path of a page, before the work.

    Raises:
        InputError: it ends in neither .html nor .htm; it is an input; or there is a file that is no such page.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path}: must end in .html or .htm")
    check_output(path, *inputs)
    if path.is_file():
        with open_regular(path) as existing:
            if MARK not in existing.read(HEAD):
                raise InputError(f"{path}: exists already, and is no page of a video: move it away")


def _source(video: Path, page: Path) -> tuple[str, str]:
    """The address of a video in a page, and what the page contains of it.

    Returns:
        A data URL with the video in it, or the path of its file relative to the page; and a text for a message.
    """
    with open_regular(video) as file:
        content = file.read(EMBEDDED + 1)
    if len(content) > EMBEDDED:
        address = Path(os.path.relpath(video, page.parent)).as_posix()
        return quote(os.fsencode(address)), f"which reads the video from {address}: keep both together"
    # Browsers look at the content. Of a type that they do not know, such as Matroska, they do not even try it.
    kind = "video/webm" if video.suffix.lower() == ".webm" else "video/mp4"
    return _data_url(kind, content), f"with the video, {len(content) / 1e6:.2g} MB"


def _begins(video: Path) -> float:
    """The time stamp (s) at which a video begins, at which Chromium begins to count; 0 if it cannot be read."""
    if not is_installed():
        return 0.0
    from fustal.video.decode import beginning, open_video  # slow to import

    try:
        with open_video(video) as (container, stream):
            return max(0.0, beginning(container, stream))
    except InputError:  # a clock takes its place
        return 0.0


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _rows(tracks: Mapping[str, pd.DataFrame]) -> list[ClassRows]:
    """The time lines of each class: classes with true segments and high scores first."""
    from fustal.viz.common import BLACK, COLOURS  # slow to import, and needed only here

    # Of Okabe and Ito (2008): colour-blind readers tell them apart. True segments are black, or white at night.
    colours = [colour for colour in COLOURS if colour != BLACK]
    best: dict[str, float] = {}
    for frame in tracks.values():
        scores = frame.score if "score" in frame else pd.Series(float("inf"), frame.index)
        for label, score in zip(frame.label, scores, strict=True):
            best[label] = max(score, best.get(label, score))
    rows = []
    for place, label in enumerate(sorted(best, key=lambda name: (-best[name], name))):
        lanes = {}
        for name, frame in tracks.items():
            part = frame[frame.label == label]
            if len(part):
                # Long bars first, then high ones, as the later ones lie in front
                keys = ["length", "score"] if "score" in part else ["length"]
                part = part.assign(length=part.end - part.start).sort_values(keys, ascending=False, kind="stable")
                lanes[name] = _bars(part)
        pattern, colour = divmod(place, len(colours))
        rows.append(ClassRows(label, colours[colour], pattern % PATTERNS, lanes))
    return rows


def _bars(frame: pd.DataFrame) -> list[Bar]:
    """The segments of a frame."""
    bars = []
    for row in frame.itertuples():
        score = getattr(row, "score", None)
        text = f"{clock(row.start)} – {clock(row.end)}"
        bars.append(Bar(row.start, row.end, score, text if score is None else f"{text}, {100 * score:.0f} %"))
    return bars


def clock(seconds: float) -> str:
    """A time as players show it, to a tenth of a second.

    >>> clock(2.5), clock(75.04), clock(3725)
    ('0:02.5', '1:15.0', '1:02:05.0')
    """
    tenths = round(10 * seconds)
    whole, tenth = divmod(abs(tenths), 10)
    hours = f"{whole // 3600}:{whole // 60 % 60:02d}" if whole >= 3600 else f"{whole // 60}"
    return f"{'-' if tenths < 0 else ''}{hours}:{whole % 60:02d}.{tenth}"
