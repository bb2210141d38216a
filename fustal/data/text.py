"""Text files that people write: tables of labels, lists of classes, lists of videos."""

import csv
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from fustal.data.files import one_line, read_text, shown
from fustal.exceptions import InputError, Problem

TABLES = (".csv", ".tsv")
"""Endings of tables of labels, in any case."""

WHOLE = "all"
"""The subset of videos in a table that names none."""

COLUMNS = ("video", "label", "start", "end", "duration", "subset", "fps")
"""What is read of a table; a column called split is taken for the subset."""


_LINE_END = re.compile(r"\r\n|\r|\n")


class Header(NamedTuple):
    """The line of a table that names its columns: the names in small letters, its separator, and which line it is."""

    names: list[str]
    separator: str
    line: int


def table_header(text: str) -> Header:
    r"""Finds the names of columns: in the first line that is not empty, a comment (`#`), or Excel's `sep=;`.

    >>> table_header("sep=;\n# mine\nVideo; Label;\n")
    Header(names=['video', 'label'], separator=';', line=3)
    """
    separator = ""
    for number, line in enumerate(_LINE_END.split(text), 1):
        if not line.strip(", ;\t") or line.startswith("#"):
            continue
        if line.strip('"').lower().startswith("sep=") and not separator:
            separator = line.strip('"')[4:5]
            continue
        separator = separator or max(",;\t|", key=line.count)
        names = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
        names = [name.strip().lower() for name in names]
        if "subset" not in names:
            names = ["subset" if name == "split" else name for name in names]
        while names and not names[-1]:
            names.pop()
        return Header(names, separator, number)
    return Header([], ",", 0)


def read_table(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """Reads a table of labels, a line for each action: columns `COLUMNS`, of which video and label must be there.

    Args:
        path: CSV with commas, semicolons, tabs or bars; the first line names the columns, in any case.

    Returns:
        The `database` of the JSON form, and what is not read as a warning.

    Raises:
        InputError: it cannot be read as such.
    """
    names, rows = _rows(path, read_text(path))
    by_video: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_video.setdefault(row["video"], []).append(row)
    database = {}
    for video, lines in by_video.items():
        entry: dict[str, Any] = {"subset": WHOLE}
        for name in ("subset", "duration", "fps"):
            said: dict[str | float, str] = {}
            for value in (row[name] for row in lines if row.get(name)):
                said.setdefault(_same(value), value)
            if said:  # more than one is refused as what it should be
                entry[name] = next(iter(said.values())) if len(said) == 1 else [*said.values()]
        database[video] = entry | {"annotations": [item for row in lines if (item := _item(row))]}
    other = [shown(name) for name in names if name and name not in COLUMNS]
    what = f"the column{'s' * (len(other) > 1)} {', '.join(other)[:200]} {'are' if len(other) > 1 else 'is'} not read"
    fix = f"nothing, if that is meant; what is read is called {', '.join(COLUMNS)}"
    return database, [Problem(path, what, fix=fix, warning=True)] if other else []


def _rows(path: Path, text: str) -> tuple[list[str], list[dict[str, str]]]:
    """Names of the columns, and of each line its values by them, without the blanks round them.

    Raises:
        InputError: a name is missing or there twice, or a line has more values than there are names.
    """
    header = table_header(text)
    if not header.names:
        raise InputError(f"{path}: cannot be read as CSV: it is empty")
    if not {"video", "label"} <= set(header.names):
        there = shown(", ".join(header.names))[1:-1]
        raise InputError(f"{path}: its first line must name the columns video and label, not {there}")
    if twice := [name for name in COLUMNS if header.names.count(name) > 1]:
        raise InputError(f"{path}: its first line names the column {twice[0]} twice")
    lines = ["\n" if line.startswith("#") else f"{line}\n" for line in _LINE_END.split(text)[header.line :]]
    reader = csv.reader(lines, delimiter=header.separator, skipinitialspace=True, strict=True)
    rows = []
    while True:
        try:
            values = [value.strip() for value in next(reader)]
        except StopIteration:
            return header.names, rows
        except csv.Error as error:
            line = header.line + reader.line_num
            raise InputError(f"{path}: line {line}: cannot be read as CSV: {one_line(error)}") from None
        if any(values[len(header.names) :]):
            line, count = header.line + reader.line_num, f"{len(values)} values for {len(header.names)} columns"
            raise InputError(f"{path}: line {line} has {count}: put quotes round what holds {header.separator!r}")
        if any(values):
            rows.append(dict.fromkeys(header.names, "") | dict(zip(header.names, values, strict=False)))


def _same(text: str) -> str | float:
    """What is equal for values that are written differently: 45.480 and 45.48, train and Train."""
    try:
        return float(text)
    except ValueError:
        return text.casefold()


def _item(row: dict[str, str]) -> dict[str, Any]:
    """A line of a table as an annotation; empty where the video has none."""
    segment = [row.get("start", ""), row.get("end", "")]
    return {name: value for name, value in (("label", row["label"]), ("segment", segment)) if any(value)}


CLASS_LISTS = r"(.*[_-])?(det)?(class(es)?|class_?(list|names|ind(ex)?)|categor(y|ies)|label_?(names|map|list))"
"""What a list of classes beside annotations is called, with the ending .txt, in any case."""


def read_classes(path: Path, numbers: Collection[int]) -> dict[int, str]:
    """The names of classes that are numbered in annotations.

    Args:
        path: the annotations. Beside them lies the list, see `CLASS_LISTS`: a name a line, `number name` or `name
            number`; its first line may be a heading.
        numbers: those in the annotations. Where the list has no numbers, they begin with 0, if 0 is among them; or with
            1, if the number of names is.

    Returns:
        Number -> name; empty where there is no list.

    Raises:
        InputError: there are several lists, or one that cannot be read, has a name twice, or does not tell the numbers.
    """
    lists = [
        file
        for file in sorted(path.parent.glob("*.[tT][xX][tT]"))
        if re.fullmatch(CLASS_LISTS, file.stem.lower()) and file.is_file()
    ]
    if len(lists) > 1:
        names = ", ".join(file.name for file in lists)
        raise InputError(f"{path.parent}: holds several lists of classes ({names}): keep one")
    if not lists:
        return {}
    lines = [line.strip() for line in read_text(lists[0]).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    pairs = _numbered(lines, r"(?P<number>\d{1,9})[\s,;:]+(?P<name>.+)")
    reverse = _numbered(lines, r"(?P<name>.+?)[\s,;:]+(?P<number>\d{1,9})")
    if not pairs and len({name for _, name in reverse}) == len(reverse):  # Drive 1, Drive 2 are names
        pairs = reverse
    if not pairs and any(line[0].isdigit() for line in lines):
        raise InputError(f"{lists[0]}: some lines hold a number and a name, and others do not: write both in each")
    if not pairs:
        if 0 not in numbers and max(numbers) != len(lines):
            what = f"has {len(lines)} names without numbers, and the labels, {min(numbers)} to {max(numbers)}"
            raise InputError(f"{lists[0]}: {what}, may begin with 0 or with 1: write lines of 'number name'")
        pairs = list(enumerate(lines, 0 if 0 in numbers else 1))
    found = dict(pairs)
    if len(found) < len(pairs) or len(set(found.values())) < len(pairs):
        raise InputError(f"{lists[0]}: holds a number or a name twice")
    return found


def _numbered(lines: list[str], form: str) -> list[tuple[int, str]]:
    """Numbers and names of lines that all have a form, but for a heading; empty where they have not."""
    matches = [re.fullmatch(form, line) for line in lines]
    if matches and not matches[0]:
        matches = matches[1:]
    return [(int(match["number"]), match["name"].strip()) for match in matches] if matches and all(matches) else []


ENDINGS = (".npy", ".npz", ".mp4", ".avi", ".mkv", ".webm", ".mov", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv")
"""Endings of files that stand for a video in a list."""


def read_video_list(path: Path, known: Collection[str]) -> list[str]:
    """The names of videos in a list, such as split_train.txt.

    Args:
        path: a name a line; empty lines and those that begin with `#` are passed over. A line may also be a path, have
            one of `ENDINGS`, or go on after the name, if that makes it the name of a video.
        known: names of videos.

    Raises:
        InputError: there is no such file, it is in another encoding, or two lines stand for one video.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    found: dict[str, int] = {}
    for number, line in enumerate(lines):
        for text in _names_in(path, number, line, known):
            video = _video_of(text, known)
            first = found.setdefault(video, number)
            if lines[first] != line:
                what = f"lines {first + 1} and {number + 1} stand for the same video, {shown(video[:40])}"
                raise InputError(f"{path}: {what}: keep one")
    return list(found)


def _names_in(path: Path, number: int, line: str, known: Collection[str]) -> list[str]:
    """The names in a line of a list: one, unless the parts of the line are videos."""
    if not line or (line not in known and line.startswith("#")):
        return []
    parts = [part for part in re.split(r"[\s,;]+", line) if part]
    videos = [part for part in parts if _video_of(part, known) in known]
    if line in known or len(videos) < 2:
        return [line]
    if len(videos) < len(parts):
        other = next(part for part in parts if part not in videos)
        raise InputError(f"{path}: line {number + 1} names several videos, and {shown(other[:40])}, which is none")
    return parts


def _video_of(line: str, known: Collection[str]) -> str:
    """The name of the video that a line of a list stands for."""
    forms = [line]
    for text in (line, re.split(r"[\s,;]", line)[0]):
        file = re.split(r"[/\\]", text)[-1]
        ending = next((end for end in ENDINGS if file.lower().endswith(end)), "")
        forms += [text, file, file[: len(file) - len(ending)]]
    return next((form for form in forms if form in known), forms[3])
