"""Data sets: cards, annotations, features, simulated ones; files that are read with checks and written atomically."""
