"""Kills, power cuts, determinism and memory: `make soak`, too long for `make test`, half an hour on two cores.

Prints what it counted; exit status 1 when something was not as it should be.
"""

import signal
import sys
from itertools import chain

from tests.soak.kills import soak_kills
from tests.soak.memory import soak_memory
from tests.soak.power import soak_power


def main() -> None:
    """Runs all, says all, failures as they are found."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told its background jobs to ignore it
    failed = False
    for line in chain(soak_kills(), soak_power(), soak_memory()):
        failed = True
        print(f"FAILED: {line}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
