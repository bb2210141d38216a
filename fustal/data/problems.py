"""Problems of the same kind, reported in one line with a count and the first examples."""

import re
from collections.abc import Iterable
from pathlib import Path

from fustal.data.files import shown
from fustal.exceptions import Problem

EXAMPLES = 3
"""The maximum number of videos or values that are named. Up to as many problems of a kind keep their own lines."""

_VALUE = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d[\d.e+-]*""")
"""Values in a message: quoted text and numbers."""


def grouped(problems: Iterable[Problem]) -> list[Problem]:
    """Joins problems of the same kind.

    Two problems are of the same kind if their words are the same except for values, and if they are about the same
    file, or about the feature files of two videos.

    Args:
        problems: any number of problems.

    Returns:
        Problems in the order of the first of each kind. If a kind has more than `EXAMPLES` problems, one problem stands
        for all: it gives their number and names the first ones.

    >>> file = Path("gt.json")
    >>> empty = [Problem(file, "has no label", video) for video in "abcd"]
    >>> [str(problem) for problem in grouped([*empty, Problem(file, "fps 0 is not positive", "a")])]
    ["gt.json: 4 videos ('a', 'b', 'c', ...): has no label", "gt.json: video 'a': fps 0 is not positive"]
    """
    kinds: dict[tuple[bool, Path, str, str], list[Problem]] = {}
    for problem in problems:
        what = _VALUE.sub("?", problem.what)
        fix = _VALUE.sub("?", problem.fix)
        kind = (problem.warning, _pattern(problem), what, fix)
        kinds.setdefault(kind, []).append(problem)
    joined = []
    for group in kinds.values():
        if len(group) > EXAMPLES:
            joined.append(_joined(group))
        else:
            joined += group
    return joined


def _joined(group: list[Problem]) -> Problem:
    """One problem that stands for several of the same kind."""
    first = group[0]
    videos = list(dict.fromkeys(problem.video for problem in group if problem.video is not None))
    what = _about_videos(group, videos) if videos else _about_a_file(group)
    return Problem(_pattern(first), what, None, first.fix, first.warning)


def _about_videos(group: list[Problem], videos: list[str]) -> str:
    """The text for problems of several videos."""
    examples = ", ".join(shown(video) for video in videos[:EXAMPLES])
    if len(videos) > EXAMPLES:
        examples += ", ..."
    count = "1 video" if len(videos) == 1 else f"{len(videos)} videos"
    times = f"{len(group)} times in " if len(group) > len(videos) else ""
    what = group[0].what
    equal = all(problem.what == what for problem in group)
    rest = "" if equal else ", and similar ones"
    return f"{times}{count} ({examples}): {what}{rest}"


def _about_a_file(group: list[Problem]) -> str:
    """The text for several problems of one file: the first one, and values of the next ones."""
    values = []
    for problem in group[1:EXAMPLES]:
        if value := _VALUE.search(problem.what):
            values.append(value.group())
    examples = f", such as {', '.join(values)}" if values else ""
    return f"{group[0].what}; {len(group) - 1} more like it{examples}"


def _pattern(problem: Problem) -> Path:
    """The file of a problem, with {video} instead of the video's name if it is a feature file."""
    if not problem.video or problem.video not in problem.file.name or problem.file.suffix != ".npy":
        return problem.file
    return problem.file.with_name(problem.file.name.replace(problem.video, "{video}"))
