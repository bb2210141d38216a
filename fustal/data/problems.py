"""Problems of the same kind as one line, with a count and the first examples."""

import re
from collections.abc import Iterable
from pathlib import Path

from fustal.data.files import shown
from fustal.exceptions import Problem

EXAMPLES = 3
"""So many videos or values of a kind are named; no more than that stay lines of their own."""

_VALUE = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d[\d.e+-]*""")
"""What a message quotes, and numbers."""


def grouped(problems: Iterable[Problem]) -> list[Problem]:
    """One problem for each kind: the same words, but for values, about the same file or the files of several videos.

    Args:
        problems: any number.

    Returns:
        In the order of the first of each kind. More than `EXAMPLES` of a kind are one, whose `what` tells how
        many there are, and names the first ones.

    >>> file = Path("gt.json")
    >>> empty = [Problem(file, "has no label", video) for video in "abcd"]
    >>> [str(problem) for problem in grouped([*empty, Problem(file, "fps 0 is not positive", "a")])]
    ["gt.json: 4 videos ('a', 'b', 'c', ...): has no label", "gt.json: video 'a': fps 0 is not positive"]
    """
    kinds: dict[tuple, list[Problem]] = {}
    for problem in problems:
        words = _VALUE.sub("?", problem.what), _VALUE.sub("?", problem.fix)
        kinds.setdefault((problem.warning, _pattern(problem), *words), []).append(problem)
    lines = []
    for group in kinds.values():
        lines += [_joined(group)] if len(group) > EXAMPLES else group
    return lines


def _joined(group: list[Problem]) -> Problem:
    """One problem that stands for some of one kind."""
    first = group[0]
    videos = [*dict.fromkeys(problem.video for problem in group if problem.video is not None)]
    if videos:
        times = f"{len(group)} times in " if len(group) > len(videos) else ""
        count = f"{len(videos)} video{'s' * (len(videos) > 1)}"
        alike = all(problem.what == first.what for problem in group)
        what = f"{times}{count} ({_examples(videos)}): {first.what}{'' if alike else ', and the like'}"
    else:
        values = [_VALUE.search(problem.what) for problem in group[1:]]
        named = [value.group() for value in values[: EXAMPLES - 1] if value]
        such = f", such as {', '.join(named)}" if named else ""
        what = f"{first.what}; {len(group) - 1} more like it{such}"
    return Problem(_pattern(first), what, None, first.fix, first.warning)


def _examples(names: list[str]) -> str:
    return ", ".join(shown(name) for name in names[:EXAMPLES]) + ", ..." * (len(names) > EXAMPLES)


def _pattern(problem: Problem) -> Path:
    """The file, with {video} in the place of the video's name, where that is part of the file's."""
    if not problem.video or problem.video not in problem.file.name or problem.file.suffix != ".npy":
        return problem.file
    return problem.file.with_name(problem.file.name.replace(problem.video, "{video}"))
