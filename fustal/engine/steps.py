"""How far a training is, for whoever waits for its notebook: told by a tiny file in a temporary folder.

The notebook's process writes it (`Steps`), and the process that runs the notebook prints it now and then (`telling`).
Nothing depends on it.
"""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

VARIABLE = "FUSTAL_PROGRESS"
"""Environment variable that names the file; not set: nobody waits."""

WRITTEN_EVERY = 2.0
"""Seconds between two writes of the file, at least."""

TOLD_EVERY = float(os.environ.get("FUSTAL_TELL_EVERY", "30"))
"""Seconds between two lines: 30, or what $FUSTAL_TELL_EVERY says."""


class Steps:
    """The steps of one training.

    Args:
        what: is done, such as "student".
        first: number of the first step.
        last: number after the last step.
    """

    def __init__(self, what: str, first: int, last: int) -> None:
        self.what, self.first, self.last = what, first, last
        self.file = os.environ.get(VARIABLE)
        self.began = self.written = time.monotonic()

    def done(self, step: int) -> None:
        """Says that a step is done."""
        now = time.monotonic()
        if not self.file or (now - self.written < WRITTEN_EVERY and step + 1 < self.last):
            return
        self.written = now
        left = (now - self.began) / (step + 1 - self.first) * (self.last - step - 1)
        text = f"{self.what} step {step + 1} of {self.last}, about {duration(left)} left"
        with contextlib.suppress(OSError):
            Path(self.file).write_text(text if step + 1 < self.last else "", encoding="utf-8")


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(42.3), duration(700)
    ('42 s', '12 min')
    """
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@contextlib.contextmanager
def telling(say: Callable[[str], None], title: str, every: float = TOLD_EVERY) -> Iterator[None]:
    """Says now and then how far the notebook is that the block runs.

    Args:
        say: takes the lines.
        title: they begin with.
        every: seconds.
    """
    began, ended = time.monotonic(), threading.Event()

    def tell(file: Path) -> None:
        while not ended.wait(every):
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, ValueError):
                text = ""
            with contextlib.suppress(OSError):  # nobody reads any more
                say(f"{title}: {text or f'{duration(time.monotonic() - began)} so far'} ...")

    with tempfile.TemporaryDirectory(prefix="fustal-") as folder:
        os.environ[VARIABLE] = str(Path(folder) / "progress")
        thread = threading.Thread(target=tell, args=(Path(folder) / "progress",), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            del os.environ[VARIABLE]
