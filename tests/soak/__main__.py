"""Kills, determinism and memory, at a length that `make test` has no time for: `make soak`, a quarter of an hour on two
cores. Prints what it counted; exit status 1 when something was not as it should be.
"""

import sys

from tests.soak.kills import soak_kills
from tests.soak.memory import soak_memory


def main() -> None:
    """Runs all, says all."""
    failures = [*soak_kills(), *soak_memory()]
    print(*(f"FAILED: {line}" for line in failures), sep="\n", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
