"""Runs: the chain of stages, one stage at work, its identity and its provenance. papermill runs it."""
