"""FuSTAL: full-stage pseudo label quality enhancement for weakly-supervised temporal action localization.

The package under the numbered notebooks. The method: `generator`, `proposals`, `student`, `distillation`. Below it:
`params`, `segments`, `evaluation`, `data`, `engine`. Above it: `viz`, `runs`, `tools`.
"""

import importlib
import os
from pathlib import Path
from typing import Any

# PyTorch gets its memory in large pages, where Linux has them: small pages take longer to get than to compute on.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

ROOT = Path(__file__).resolve().parents[1]
"""The repository: `notebooks/`, `params/` and `outputs/` lie here, whatever the working directory is."""

__all__ = ["FeatureStore", "Params", "load_dataset", "open_stage", "viz"]

PLACES = {
    "FeatureStore": "fustal.data.features",
    "Params": "fustal.params",
    "load_dataset": "fustal.data.cards",
    "open_stage": "fustal.runs.stage",
}
"""Public name -> its module."""


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `fustal --help` does not wait for PyTorch."""
    if name == "viz":
        return importlib.import_module("fustal.viz")
    if name in PLACES:
        return getattr(importlib.import_module(PLACES[name]), name)
    raise AttributeError(f"module 'fustal' has no attribute {name!r}")
