"""Kills, power cuts, determinism and memory: `make soak`, too long for `make test`, half an hour on two cores.

Prints the counts; exit status 1 after any failure.
"""

import signal
import sys
from itertools import chain

from tests.soak.kills import soak_kills
from tests.soak.memory import soak_memory
from tests.soak.power import soak_power


def main() -> None:
    """Runs all tests and prints failures as they are found."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have set background jobs to ignore it
    failed = False
    for failure in chain(soak_kills(), soak_power(), soak_memory()):
        failed = True
        print(f"FAILED: {failure}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
