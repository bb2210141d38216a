"""The demo chain from start to finish on two cores, and where its time goes."""

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
    """One line on an executed notebook: its time, without any cell (the kernel's start), and its two slowest cells."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    whole = notebook["metadata"]["papermill"]["duration"]
    cells = [(c["metadata"]["papermill"]["duration"], "".join(c["source"])) for c in notebook["cells"] if timed(c)]
    slowest = sorted(cells, reverse=True)[:2]
    text = ", ".join(f"{seconds:.0f} s `{source.strip().splitlines()[0][:70]}`" for seconds, source in slowest)
    return f"{path.stem}: {whole:.0f} s, start and end {whole - sum(seconds for seconds, _ in cells):.0f} s; {text}"


def timed(cell: dict) -> bool:
    """Whether papermill ran a cell."""
    return cell["cell_type"] == "code" and cell["metadata"]["papermill"]["duration"] is not None
