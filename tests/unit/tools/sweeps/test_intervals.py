"""Intervals over a few seeds, Holm's correction, and the simulation that chose between intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fustal.tools.sweeps.intervals import coverage, holm, interval, p_value

VALUES = np.array([2.0, 3.5, 1.0, 4.0, -0.5])


def test_the_same_as_scipys_t_test():
    expected = stats.ttest_1samp(VALUES, 0)
    assert p_value(VALUES) == pytest.approx(expected.pvalue)
    assert interval(VALUES) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert p_value(-VALUES) == p_value(VALUES)


def test_equal_values_have_no_spread():
    assert interval(np.full(4, 20.0)) == (20.0, 20.0)
    assert p_value(np.full(4, 20.0)) == 0
    assert p_value(np.zeros(4)) == 1
    low, high = interval(np.array([20.0, 20.0, 20.0 + 1e-14]))
    assert (low, high) == pytest.approx((20, 20)), "without a warning of nearly equal values"


def test_fewer_than_three_values_have_no_interval():
    assert np.isnan(interval(VALUES[:2])).all()
    assert np.isnan(p_value(VALUES[:2]))
    assert not np.isnan(interval(VALUES[:3])).any()


def test_holm_by_hand():
    # Sorted: .005 · 4 = .02, .011 · 3 = .033, .02 · 2 = .04, .04 · 1 = .04
    assert holm(np.array([0.04, 0.005, 0.02, 0.011])) == pytest.approx([0.04, 0.02, 0.04, 0.033])
    assert holm(np.array([0.03, 0.02, 0.9])) == pytest.approx([0.06, 0.06, 0.9]), "none is below one before it"
    assert holm(np.array([0.8, 0.7])).tolist() == [1.0, 1.0]
    np.testing.assert_array_equal(holm(np.array([np.nan, 0.01, np.nan])), [np.nan, 0.01, np.nan])
    assert holm(np.array([])).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_lies_between_no_correction_and_bonferroni(values):
    p = np.array(values)
    corrected = holm(p)
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(len(p) * p, 1)).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all(), "their order stays"


def test_holm_keeps_the_share_of_tables_with_a_false_finding():
    random = np.random.default_rng(0)
    p = random.uniform(size=(2000, 20))  # tables of twenty comparisons without any difference
    assert (p.min(axis=1) < 0.05).mean() > 0.6
    found = [(holm(row) < 0.05).any() for row in p]
    assert 0.035 < np.mean(found) < 0.065


@pytest.mark.parametrize("seeds", [5, 10])
def test_t_intervals_cover_best(seeds):
    """This is why `interval` is a t interval."""
    measured = coverage(seeds, trials=400)
    assert measured.index.tolist() == ["normal", "skewed", "heavy tails"]
    assert (measured.t > measured.percentile).all()
    assert (measured.t > measured.BCa).all()
    assert measured.t["normal"] == pytest.approx(95, abs=3)
    assert measured.t["heavy tails"] > 92
    assert measured.t["skewed"] > 82, "too few for five skewed values, with any kind of interval"
    if seeds == 5:
        assert (measured[["percentile", "BCa"]] < 90).all(axis=None)
