"""Targets of the student: which points learn which class and which offsets."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fustal.student import assign, points


def assign_naively(lengths, segments, labels, num_classes, radius):
    """Targets as docs/method.md section 4 defines them, one point after the other."""
    classes = torch.zeros(sum(lengths), num_classes)
    offsets = torch.zeros(sum(lengths), 2)
    p = 0
    for level, length in enumerate(lengths):
        stride = 2**level
        low = 2 * stride if level else 0
        high = 4 * stride if level < len(lengths) - 1 else np.inf
        for t in range(0, length * stride, stride):
            fits = []
            for (start, end), label in zip(segments.tolist(), labels.tolist(), strict=True):
                is_central = start < t < end and abs(t - (start + end) / 2) < radius * stride
                if is_central and low <= max(t - start, end - t) <= high:
                    fits.append((end - start, t - start, end - t, label))
            if fits:
                shortest, left, right, _ = min(fits, key=lambda fit: fit[0])  # of equally short ones the first
                offsets[p] = torch.tensor([left, right]) / stride
                for size, _, _, label in fits:
                    if size <= shortest + 1e-3:
                        classes[p, label] = 1
            p += 1
    return classes, offsets


QUARTERS = st.tuples(st.integers(0, 255), st.integers(1, 255), st.integers(0, 2))
"""Start and length of a segment in quarters of a snippet, which floats hold exactly, and its label."""


@given(st.lists(QUARTERS, max_size=12), st.integers(1, 4), st.sampled_from([0.5, 1.0, 1.5, 4.0]))
def test_assign_agrees_with_the_definition(drawn, levels, radius):
    lengths = [64, 32, 16, 8][:levels]
    segments = torch.tensor([[start, start + length] for start, length, _ in drawn]).reshape(-1, 2) / 4
    labels = torch.tensor([label for *_, label in drawn], dtype=torch.long)
    classes, offsets, winner = assign(points(lengths), segments, labels, 3, radius)
    expected, expected_offsets = assign_naively(lengths, segments, labels, 3, radius)
    positive = expected.any(dim=1)
    assert_close(classes, expected)
    assert_close(offsets[positive], expected_offsets[positive], rtol=1e-4, atol=1e-4)
    assert classes[positive, labels[winner[positive]]].all()


def test_equally_short_segments_share_a_point():
    segments = torch.tensor([[2.0, 5.0], [2.0, 5.0], [0.0, 7.0]])
    classes, offsets, _ = assign(points([8]), segments, torch.tensor([2, 0, 1]), 3, 1.5)
    assert classes[3].tolist() == [1, 0, 1]
    assert offsets[3].tolist() == [1, 2]


def test_video_without_segments_is_background():
    classes, offsets, winner = assign(points([8, 4]), torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), 3, 1.5)
    assert classes.shape == (12, 3)
    assert offsets.shape == (12, 2)
    assert winner.shape == (12,)
    assert not classes.any()
