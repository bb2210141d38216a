"""Text files written by people: tables of labels, lists of classes, lists of videos."""

import csv
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from fustal.data.files import one_line, read_text, shown
from fustal.exceptions import InputError, Problem

TABLES = (".csv", ".tsv")
"""Endings of tables of labels, in upper or lower case."""

WHOLE = "all"
"""The subset of all videos in a table without subsets."""

COLUMNS = ("video", "label", "start", "end", "duration", "subset", "fps")
"""The columns of a table that are read; "split" is another name for "subset"."""

_LINE_END = re.compile(r"\r\n|\r|\n")


class Header(NamedTuple):
    """The line of a table that names its columns.

    Attributes:
        names: of the columns, in lower case.
        separator: between the values of a line.
        line: number of the line, from 1 on.
    """

    names: list[str]
    separator: str
    line: int


def table_header(text: str) -> Header:
    r"""Finds the names of the columns, in the first line that is not empty, a comment (`#`), or Excel's `sep=;`.

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
        if not separator:
            separator = max(",;\t|", key=line.count)
        return Header(_column_names(line, separator), separator, number)
    return Header([], ",", 0)


def _column_names(line: str, separator: str) -> list[str]:
    values = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    names = [value.strip().lower() for value in values]
    if "subset" not in names:
        names = ["subset" if name == "split" else name for name in names]
    # Spreadsheets write separators after the last name, too
    while names and not names[-1]:
        names.pop()
    return names


def read_table(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """Reads a table of labels, a line for each action, with the columns `COLUMNS`; video and label are required.

    Args:
        path: CSV with commas, semicolons, tabs or bars; the first line names the columns, in upper or lower case.

    Returns:
        The `database` of the JSON form, and a warning if columns are ignored.

    Raises:
        InputError: it cannot be read as such a table.
    """
    names, rows = _rows(path, read_text(path))
    by_video: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_video.setdefault(row["video"], []).append(row)
    database = {}
    for video, lines in by_video.items():
        database[video] = _entry(lines)
    ignored = [shown(name) for name in names if name and name not in COLUMNS]
    if not ignored:
        return database, []
    columns, are = ("columns", "are") if len(ignored) > 1 else ("column", "is")
    what = f"the {columns} {', '.join(ignored)[:200]} {are} not read"
    fix = f"nothing, if that is intended; the columns that are read: {', '.join(COLUMNS)}"
    return database, [Problem(path, what, fix=fix, warning=True)]


def _entry(lines: list[dict[str, str]]) -> dict[str, Any]:
    """The entry of a video in the JSON form, from its lines."""
    entry: dict[str, Any] = {"subset": WHOLE}
    for name in ("subset", "duration", "fps"):
        different: dict[str | float, str] = {}
        for row in lines:
            value = row.get(name)
            if value:
                different.setdefault(_same(value), value)
        values = list(different.values())
        if len(values) == 1:
            entry[name] = values[0]
        elif values:  # they contradict each other; the list becomes an error when the entry is checked
            entry[name] = values
    entry["annotations"] = []
    for row in lines:
        if item := _item(row):
            entry["annotations"].append(item)
    return entry


def _rows(path: Path, text: str) -> tuple[list[str], list[dict[str, str]]]:
    """The names of the columns, and for each line: name -> value without the spaces around it.

    Raises:
        InputError: a required name is missing, a name appears twice, or a line has more values than there are names.
    """
    header = table_header(text)
    if not header.names:
        raise InputError(f"{path}: cannot be read as CSV: it is empty")
    if not {"video", "label"} <= set(header.names):
        there = shown(", ".join(header.names))[1:-1]
        raise InputError(f"{path}: its first line must name the columns video and label, not {there}")
    for name in COLUMNS:
        if header.names.count(name) > 1:
            raise InputError(f"{path}: its first line names the column {name} twice")
    # A comment becomes an empty line, and so the numbers of the lines stay right
    lines = ["\n" if line.startswith("#") else f"{line}\n" for line in _LINE_END.split(text)[header.line :]]
    reader = csv.reader(lines, delimiter=header.separator, skipinitialspace=True, strict=True)
    rows = []
    try:
        for row in reader:
            values = [value.strip() for value in row]
            if any(values[len(header.names) :]):
                line = header.line + reader.line_num
                what = f"line {line} has {len(values)} values for {len(header.names)} columns"
                fix = f"put quotes around a value that holds {header.separator!r}"
                raise InputError(f"{path}: {what}: {fix}")
            if any(values):
                # A line may have fewer values than there are columns
                rows.append(dict.fromkeys(header.names, "") | dict(zip(header.names, values, strict=False)))
    except csv.Error as error:
        line = header.line + reader.line_num
        raise InputError(f"{path}: line {line}: cannot be read as CSV: {one_line(error)}") from None
    return header.names, rows


def _same(text: str) -> str | float:
    """A key that is equal for different ways to write a value: 45.480 and 45.48, train and Train."""
    try:
        return float(text)
    except ValueError:
        return text.casefold()


def _item(row: dict[str, str]) -> dict[str, Any]:
    """A line of a table as an annotation; empty if the line has neither a label nor times."""
    item: dict[str, Any] = {}
    segment = [row.get("start", ""), row.get("end", "")]
    if row["label"]:
        item["label"] = row["label"]
    if any(segment):
        item["segment"] = segment
    return item


# --- lists of classes -------------------------------------------------------------------------------------------------


CLASS_LISTS = r"(.*[_-])?(det)?(class(es)?|class_?(list|names|ind(ex)?)|categor(y|ies)|label_?(names|map|list))"
"""The possible names of a list of classes beside annotations, with the ending .txt, in upper or lower case."""


def read_classes(path: Path, numbers: Collection[int]) -> dict[int, str]:
    """The names of classes that have numbers in annotations.

    Args:
        path: the annotations. The list lies beside them, see `CLASS_LISTS`. Each line of it is a name, `number name` or
            `name number`; the first line may be a heading.
        numbers: the numbers in the annotations. If the list has no numbers, it begins with 0 if 0 is among `numbers`,
            and with 1 if the largest of `numbers` is the length of the list.

    Returns:
        Number -> name; empty if there is no list.

    Raises:
        InputError: there are several lists; or the list cannot be read, contains a name twice, or its numbers are not
            clear.
    """
    lists = []
    for file in sorted(path.parent.glob("*.[tT][xX][tT]")):
        if re.fullmatch(CLASS_LISTS, file.stem.lower()) and file.is_file():
            lists.append(file)
    if len(lists) > 1:
        names = ", ".join(file.name for file in lists)
        raise InputError(f"{path.parent}: holds several lists of classes ({names}): keep one")
    if not lists:
        return {}
    pairs = _numbers_and_names(lists[0], numbers)
    found = dict(pairs)
    if len(found) < len(pairs) or len(set(found.values())) < len(pairs):
        raise InputError(f"{lists[0]}: holds a number or a name twice")
    return found


def _numbers_and_names(file: Path, numbers: Collection[int]) -> list[tuple[int, str]]:
    """The lines of a list of classes as pairs, see `read_classes`."""
    lines = []
    for line in read_text(file).splitlines():
        if line.strip() and not line.strip().startswith("#"):
            lines.append(line.strip())
    pairs = _numbered(lines, r"(?P<number>\d{1,9})[\s,;:]+(?P<name>.+)")
    if pairs:
        return pairs
    reverse = _numbered(lines, r"(?P<name>.+?)[\s,;:]+(?P<number>\d{1,9})")
    # Equal names would mean that the number is part of the name, as in Drive 1, Drive 2
    if reverse and len({name for _, name in reverse}) == len(reverse):
        return reverse
    if any(line[0].isdigit() for line in lines):
        raise InputError(f"{file}: some lines hold a number and a name, and others do not: write both in each")
    if 0 not in numbers and max(numbers) != len(lines):
        what = f"has {len(lines)} names without numbers, and the labels, {min(numbers)} to {max(numbers)}"
        raise InputError(f"{file}: {what}, may begin with 0 or with 1: write lines of 'number name'")
    first = 0 if 0 in numbers else 1
    return list(enumerate(lines, first))


def _numbered(lines: list[str], form: str) -> list[tuple[int, str]]:
    """The numbers and names of lines that all have a form, except for a heading; empty if another line has not."""
    pairs = []
    for position, line in enumerate(lines):
        match = re.fullmatch(form, line)
        if match:
            pairs.append((int(match["number"]), match["name"].strip()))
        elif position > 0:
            return []
    return pairs


# --- lists of videos --------------------------------------------------------------------------------------------------

ENDINGS = (".npy", ".npz", ".mp4", ".avi", ".mkv", ".webm", ".mov", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv")
"""Endings that a video may have in a list."""


def read_video_list(path: Path, known: Collection[str]) -> list[str]:
    """The names of videos in a list, such as split_train.txt.

    Args:
        path: a name on each line; empty lines and lines that begin with `#` are skipped. A line may also be a path,
            have one of `ENDINGS`, or have other words after the name, if the name is then in `known`.
        known: the names of the videos of the data set.

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
    """The names in a line of a list: the line itself, or its parts if several parts are videos."""
    if not line or (line not in known and line.startswith("#")):
        return []
    parts = [part for part in re.split(r"[\s,;]+", line) if part]
    others = [part for part in parts if _video_of(part, known) not in known]
    if line in known or len(parts) - len(others) < 2:
        return [line]
    if others:
        other = shown(others[0][:40])
        raise InputError(f"{path}: line {number + 1} names several videos, and {other}, which is not a video")
    return parts


def _video_of(line: str, known: Collection[str]) -> str:
    """The name of the video that a line of a list stands for.

    It is the first form of the line that is a known video: the line, its file name, the file name without its ending;
    then the same of its first word. If there is none, it is the file name of the line without its ending.
    """
    first_word = re.split(r"[\s,;]", line)[0]
    forms = [*_forms(line), *_forms(first_word)]
    for form in forms:
        if form in known:
            return form
    return forms[2]


def _forms(text: str) -> list[str]:
    """A text, the file name that it ends in if it is a path, and this file name without one of `ENDINGS`."""
    file = re.split(r"[/\\]", text)[-1]
    stem = file
    for ending in ENDINGS:
        if file.lower().endswith(ending):
            stem = file[: -len(ending)]
            break
    return [text, file, stem]
