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
    """Markdown: the machine, the comparisons, the growth with the number of videos, and further notes.

    >>> row = {"what": "mAP", "note": "9 videos", "plain_s": 9.0, "seconds_here": 0.03, "reach": "≤ 0.1 s"}
    >>> print(table([row], COMPARISON))
    | what | size | plain | here | ratio | reach |
    |---|---|---:|---:|---:|---|
    | mAP | 9 videos | 9.0 s | 30 ms | 300 × | ≤ 0.1 s |
    """
    versions = ", ".join(f"{name} {machine['packages'][name]}" for name in ("torch", "numpy", "pandas"))
    comparisons = []
    growth = []
    notes = []
    for row in rows:
        if "exponent" in row:
            growth.append(row)
        else:
            comparisons.append(row)
        notes += [f"- {line}" for line in row.get("details", "").splitlines()]
    commit = machine["git_commit"][:7] + " with changes" * machine["git_changes"]
    blocks = [
        f"{machine['processor']}, {machine['cores']} cores, no GPU used; Python {machine['python']}, {versions}; "
        f"commit {commit}. The fastest of some rounds, in one thread if no other number is given.",
        table(comparisons, COMPARISON),
        table(growth, GROWTH) if growth else "",
        "\n".join(notes),
    ]
    return "\n\n".join(block for block in blocks if block)


def table(rows: list[dict], columns: dict) -> str:
    """A Markdown table with one line for each row."""
    rule = ["---:" if name in RIGHT else "---" for name in columns]
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join(rule)}|"]
    for row in rows:
        cells = [cell(row) for cell in columns.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A time in seconds or milliseconds.

    >>> duration(0.00234), duration(0.0449), duration(12.3), duration(154.2)
    ('2.3 ms', '45 ms', '12 s', '154 s')
    """
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * 1000, "ms")
    return f"{digits(value)} {unit}"


def digits(value: float) -> str:
    """A number with one decimal place below 10."""
    return f"{value:.{1 if value < 9.95 else 0}f}"


def size(row: dict) -> str:
    """The sizes of a benchmark, and its shares of time if it has any."""
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
