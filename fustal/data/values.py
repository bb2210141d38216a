"""Checks of single values in annotation and result files: names, numbers, segments.

A wrong value raises one of `WRONG_VALUE`. The caller adds the file and the video to the message, see `reason`.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from typing import Any

from fustal.data.files import CONTROL, shown

WRONG_VALUE = (KeyError, TypeError, ValueError)
"""What the checks raise; a KeyError stands for an entry that is missing."""


def reason(error: Exception) -> str:
    """The end of a message about one of `WRONG_VALUE`."""
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return str(error)


def checked_objects(items: Any) -> list[dict[str, Any]]:
    """Returns the value if it is a list of JSON objects.

    Raises:
        TypeError: it is another thing.
    """
    if not isinstance(items, list):
        raise TypeError(f"{shown(items)} is not a list")
    for item in items:
        if not isinstance(item, dict):
            raise TypeError(f"{shown(item)} is not an object")
    return items


# --- names ------------------------------------------------------------------------------------------------------------


def stripped_name(value: Any) -> str:
    """The name of a video or a class, without the spaces around it.

    Raises:
        TypeError: it is not text, it is empty, or a file cannot hold it (surrogates).
    """
    if not isinstance(value, str) or not value.strip() or value != value.encode(errors="ignore").decode():
        raise TypeError(f"{shown(value)} is not a name")
    return value.strip()


def plain_name(value: Any) -> str:
    """The name of a class or a subset in annotations.

    Control characters could be commands to the terminal that shows a name. Only tab and line end are allowed.

    Raises:
        TypeError, ValueError: it is not such a name.
    """
    text = stripped_name(value)
    if has_control(text.replace("\t", "").replace("\n", "")):
        raise ValueError(f"{shown(value)} holds control characters, and is not a name")
    return text


def class_name(value: Any) -> str:
    """The name of a class in a file that is only measured: a number is its text, without a ".0" at its end.

    Raises:
        TypeError: it is neither a name nor a number.

    >>> class_name(" Run "), class_name(1), class_name("1.0")
    ('Run', '1', '1')
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    return re.sub(r"^([+-]?[0-9]+)\.0+$", r"\1", stripped_name(value))


def class_number(label: Any) -> int | None:
    """The number of a class: 3, "3", or "3.0", as tables write it; None for every other label."""
    if isinstance(label, bool) or not isinstance(label, (int, float, str)):
        return None
    found = re.fullmatch(r"(\d{1,9})(\.0)?", str(label).strip(), re.ASCII)
    return int(found[1]) if found else None


def video_names(keys: Collection[str], measuring: bool) -> list[str]:
    """The names of videos without the spaces around them.

    Args:
        keys: names as a file has them.
        measuring: keep the spaces of names that differ in nothing else: evaluators count them as different videos.
    """
    counts = Counter(key.strip() for key in keys)
    names = []
    for key in keys:
        name = key.strip()
        names.append(key if measuring and counts[name] > 1 else name)
    return names


def check_name(video: str) -> None:
    """Checks that the name of a video can be the name of a file.

    Raises:
        ValueError: it cannot.
    """
    if not can_name_a_file(video):
        raise ValueError("the name of a video must be usable as the name of a file")


def can_name_a_file(video: str) -> bool:
    """Whether a video's name can be the name of a file: not too long, without slashes and control characters.

    >>> can_name_a_file("Größe 1"), can_name_a_file("../x")
    (True, False)
    """
    if not video or video in (".", ".."):
        return False
    if "/" in video or "\\" in video or has_control(video):
        return False
    # File systems allow 255 bytes; a suffix must fit as well
    return len(video.encode()) <= 200


def has_control(text: str) -> bool:
    """Whether a text contains one of the characters of `CONTROL`."""
    return any(unicodedata.category(letter) in CONTROL for letter in text)


# --- numbers ----------------------------------------------------------------------------------------------------------


def finite_number(value: Any, what: str = "") -> float:
    """A number, or the text of one.

    Args:
        value: from a file.
        what: the beginning of the message if it is not a number.

    Raises:
        ValueError: it is not a finite number.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number):
        return number
    has_comma = isinstance(value, str) and re.fullmatch(r"\d+,\d+", value)
    hint = ": write a point instead of the comma" if has_comma else ""
    raise ValueError(f"{what}{shown(value)} is not a finite number{hint}")


def positive_number(value: Any, what: str) -> float:
    """A number above 0, see `finite_number`; `what` is its name.

    Raises:
        ValueError: it is not such a number.
    """
    number = finite_number(value, f"{what} ")
    if number <= 0:
        raise ValueError(f"{what} {shown(value)} is not positive")
    return number


def start_and_end(value: Any, measuring: bool = False) -> tuple[float, float]:
    """The two times of a segment, in any order.

    Args:
        value: `[start, end]` from a file.
        measuring: allow more values after these two.

    Raises:
        ValueError: it is not a list of two finite numbers.
    """
    if not isinstance(value, list) or len(value) < 2 or (len(value) > 2 and not measuring):
        raise ValueError(f"segment {shown(value)} is not [start, end]")
    return finite_number(value[0]), finite_number(value[1])
