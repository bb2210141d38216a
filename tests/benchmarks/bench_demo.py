"""The demo chain from start to finish on two cores, and the time of its cells."""

import json
import os
import subprocess
import sys
from pathlib import Path

from fustal import ROOT


def test_demo_chain(benchmark, tmp_path):
    environment = os.environ | {"FUSTAL_OUTPUTS": str(tmp_path)}
    command = [sys.executable, "-m", "fustal", "run", str(ROOT / "params" / "demo.yaml")]
    benchmark.pedantic(
        subprocess.run, (command,), {"env": environment, "check": True, "stdout": subprocess.DEVNULL}, rounds=1
    )
    benchmark.extra_info |= {
        "what": "demo chain, five notebooks",
        "reach": "≤ 180 s",
        "note": "params/demo.yaml, one thread",
        "details": "\n".join(spent(path) for path in sorted((tmp_path / "demo" / "notebooks").glob("*.ipynb"))),
    }


def spent(path: Path) -> str:
    """One line about an executed notebook: its time, the part outside of cells, and its two slowest cells."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    whole = notebook["metadata"]["papermill"]["duration"]
    cells = []
    for cell in notebook["cells"]:
        if timed(cell):
            cells.append((cell["metadata"]["papermill"]["duration"], "".join(cell["source"])))
    outside = whole - sum(seconds for seconds, _ in cells)
    slowest = []
    for seconds, source in sorted(cells, reverse=True)[:2]:
        slowest.append(f"{seconds:.0f} s `{source.strip().splitlines()[0][:70]}`")
    return f"{path.stem}: {whole:.0f} s, start and end {outside:.0f} s; {', '.join(slowest)}"


def timed(cell: dict) -> bool:
    """Whether papermill ran a cell."""
    return cell["cell_type"] == "code" and cell["metadata"]["papermill"]["duration"] is not None
