"""Answers to the exercises of the notebooks are checked here, and not shown.

An answer that is the same in every run is compared by its hash, so that the notebook does not contain it. An answer
that depends on the run is checked by a condition, which the exercise computes.
"""

import hashlib
from typing import Any


def check(answer: Any, right: bool | str, hint: str) -> None:
    """Prints whether an answer is right, and otherwise a hint.

    Args:
        answer: of the reader; None: not answered yet.
        right: a condition that holds for right answers, or the `code` of the right answer.
        hint: what to think about next; it does not contain the answer.

    >>> check(None, code(0.75), "divide the overlap by the union")
    No answer yet: replace None. Hint: divide the overlap by the union
    >>> check(3 / 4, code(0.75), "divide the overlap by the union")
    Right.
    >>> check(0.5, 0.5 > 0.6, "a higher share is needed")
    Not yet. Hint: a higher share is needed
    """
    if answer is None:
        print(f"No answer yet: replace None. Hint: {hint}")
    elif right == code(answer) if isinstance(right, str) else bool(right):
        print("Right.")
    else:
        print(f"Not yet. Hint: {hint}")


def code(answer: Any) -> str:
    """Eight letters that stand for an answer: a number, rounded to two decimal places, or a text in small letters.

    >>> code(0.751) == code(0.75) == code("0.75"), code(True) == code("true")
    (True, True)
    """
    try:
        text = f"{float(answer) + 0.0:.2f}" if not isinstance(answer, bool) else str(answer)
    except (TypeError, ValueError):
        text = str(answer)
    return hashlib.sha256(text.strip().lower().encode()).hexdigest()[:8]
