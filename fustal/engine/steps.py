"""Progress of a training for the process that runs its notebook, through a small file in a temporary folder.

The process of the notebook writes the file (`Steps`), and the process that runs the notebook prints it now and then
(`reporting`). Nothing depends on it.
"""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

VARIABLE = "FUSTAL_PROGRESS"
"""Environment variable with the path of the file; not set: nothing is written."""

WRITTEN_EVERY = 2.0
"""Minimum number of seconds between two writes of the file."""

REPORTED_EVERY = float(os.environ.get("FUSTAL_TELL_EVERY", "30"))
"""Seconds between two lines: 30, or the number in $FUSTAL_TELL_EVERY."""


class Steps:
    """The steps of one training.

    Args:
        name: of the training, such as "student".
        first: number of the first step.
        last: number after the last step.
    """

    def __init__(self, name: str, first: int, last: int) -> None:
        self.name = name
        self.first = first
        self.last = last
        self.file = os.environ.get(VARIABLE)
        self.began = time.monotonic()
        self.written = self.began

    def done(self, step: int) -> None:
        """Notes that a step is done."""
        now = time.monotonic()
        is_last = step + 1 == self.last
        if not self.file or (now - self.written < WRITTEN_EVERY and not is_last):
            return
        self.written = now
        seconds_per_step = (now - self.began) / (step + 1 - self.first)
        left = duration(seconds_per_step * (self.last - step - 1))
        text = "" if is_last else f"{self.name} step {step + 1} of {self.last}, about {left} left"
        with contextlib.suppress(OSError):
            Path(self.file).write_text(text, encoding="utf-8")


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(42.3), duration(700)
    ('42 s', '12 min')
    """
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@contextlib.contextmanager
def reporting(report: Callable[[str], None], title: str, every: float = REPORTED_EVERY) -> Iterator[None]:
    """Reports now and then the progress of the notebook that the block runs.

    Args:
        report: takes the lines.
        title: beginning of each line.
        every: seconds between two lines.
    """
    began = time.monotonic()
    ended = threading.Event()

    def run(file: Path) -> None:
        while not ended.wait(every):
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, ValueError):
                text = ""
            with contextlib.suppress(OSError):  # the output may be closed by now
                report(f"{title}: {text or f'{duration(time.monotonic() - began)} so far'} ...")

    with tempfile.TemporaryDirectory(prefix="fustal-") as folder:
        file = Path(folder) / "progress"
        os.environ[VARIABLE] = str(file)
        thread = threading.Thread(target=run, args=(file,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            del os.environ[VARIABLE]
