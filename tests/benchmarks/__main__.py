"""All benchmarks and the table of them: `python -m tests.benchmarks [--readme README.md] [options of pytest]`."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from fustal import ROOT
from fustal.params import Params
from fustal.runs.provenance import provenance
from fustal.tools.sweeps.tables import insert


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", type=Path, help="a page to put the table into, between its marks")
    arguments, others = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["-o", "python_files=bench_*.py", "-p", "no:cacheprovider", f"--benchmark-json={report}"]
        command = [sys.executable, "-m", "pytest", "tests/benchmarks", *options, *others]
        status = subprocess.run(command, cwd=ROOT).returncode
        if not report.exists():
            return status or 1
        rows = json.loads(report.read_text(encoding="utf-8"))["benchmarks"]
    text = page([row["extra_info"] | {"seconds_here": row["stats"]["min"]} for row in rows], provenance(Params()))
    print(f"\n{text}")
    if arguments.readme and not status:
        insert(text, arguments.readme, "speed")
    return status


def page(rows: list[dict], machine: dict) -> str:
    """Markdown: the comparisons, the growth with the number of videos, what else was noted, and where.

    >>> row = {"what": "mAP", "note": "9 videos", "plain_s": 9.0, "seconds_here": 0.03, "reach": "≤ 0.1 s"}
    >>> print(table([row], COMPARISON))
    | what | size | plain | here | ratio | reach |
    |---|---|---:|---:|---:|---|
    | mAP | 9 videos | 9.0 s | 30 ms | 300 × | ≤ 0.1 s |
    """
    versions = ", ".join(f"{name} {machine['packages'][name]}" for name in ("torch", "numpy", "pandas"))
    growth = [row for row in rows if "exponent" in row]
    blocks = [
        f"{machine['processor']}, {machine['cores']} cores, no GPU used; Python {machine['python']}, {versions}; "
        f"commit {machine['git_commit'][:7]}{' with changes' * machine['git_changes']}. "
        "The fastest of some rounds, in one thread where nothing else is said.",
        table([row for row in rows if "exponent" not in row], COMPARISON),
        table(growth, GROWTH) if growth else "",
        "\n".join(f"- {line}" for row in rows for line in row.get("details", "").splitlines()),
    ]
    return "\n\n".join(block for block in blocks if block)


def table(rows: list[dict], columns: dict) -> str:
    """Markdown of one line a row."""
    lines = [list(columns), ["---:" if name in RIGHT else "---" for name in columns]]
    lines += [[cell(row) for cell in columns.values()] for row in rows]
    return "\n".join(f"|{'|'.join(line)}|" if line[0][:3] == "---" else f"| {' | '.join(line)} |" for line in lines)


def duration(seconds: float) -> str:
    """In a unit that suits.

    >>> duration(0.00234), duration(0.0449), duration(12.3), duration(154.2)
    ('2.3 ms', '45 ms', '12 s', '154 s')
    """
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * 1000, "ms")
    return f"{digits(value)} {unit}"


def digits(value: float) -> str:
    """With one decimal place below 10."""
    return f"{value:.{1 if value < 9.95 else 0}f}"


def size(row: dict) -> str:
    """What was measured on, and shares of the time where a benchmark noted them."""
    parts = [row["note"]]
    if "waiting" in row:
        parts.append("waits {ours:.1%} of the time, plain {plain:.1%}".format(**row["waiting"]))
    if "share" in row:
        parts.append(f"relabelling takes {row['share']:.0%}, plain {row['plain_share']:.0%}")
    return "; ".join(parts)


RIGHT = ("plain", "here", "ratio", "exponent")
COMPARISON = {
    "what": lambda row: row["what"],
    "size": size,
    "plain": lambda row: duration(row["plain_s"]) if "plain_s" in row else "—",
    "here": lambda row: duration(row["seconds_here"]),
    "ratio": lambda row: f"{digits(row['plain_s'] / row['seconds_here'])} ×" if "plain_s" in row else "—",
    "reach": lambda row: row["reach"],
}
GROWTH = {
    "growth": lambda row: row["what"],
    "videos": lambda row: ", ".join(map(str, row["sizes"])),
    "time": lambda row: ", ".join(map(duration, row["seconds"])),
    "exponent": lambda row: f"{row['exponent']:.2f}",
}

if __name__ == "__main__":
    sys.exit(main())
