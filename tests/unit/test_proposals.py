"""Proposals from activations, and the filter: each piece against a plain loop."""

from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

SEQUENCES = arrays(float, st.integers(1, 40), elements=st.floats(0, 1, width=16))
