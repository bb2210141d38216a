"""Intervals and tests of means over a few seeds, and intervals over many videos. Taught in notebook 06."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

ENOUGH = 3
"""Minimum number of seeds for an interval: that of two seeds would be 13 times as long as the distance between them."""

LEVEL = 0.95
"""Share of intervals that should contain the true mean."""

DIFFERENCES = {"normal": stats.norm(), "skewed": stats.expon(loc=-1), "heavy tails": stats.t(3)}
"""Distributions for `coverage`, all with mean 0."""


def interval(values: np.ndarray) -> tuple[float, float]:
    """The t interval of 95 % of a mean.

    Args:
        values: one for each seed (N,), for example differences.

    Returns:
        Both ends; NaN with fewer than `ENOUGH` values.

    >>> low, high = interval(np.array([1.0, 2.0, 3.0]))
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    if len(values) < ENOUGH:
        return float("nan"), float("nan")
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * _standard_error(values)
    mean = np.mean(values)
    return float(mean - half), float(mean + half)


def resampled_interval(value: float, resampled: np.ndarray) -> tuple[float, float]:
    """The interval of 95 % of a value from its bootstrap: the value plus and minus 1.96 standard deviations.

    Not from percentiles: with copies of some videos and none of others a mAP is higher on average, so percentiles of
    the resampled mAP do not have the mAP in their middle.

    Args:
        value: measured with all videos.
        resampled: measured with each resample of them (R,); those that are NaN do not count.

    Returns:
        Both ends.

    >>> low, high = resampled_interval(5.0, np.array([5.0, 6.0, 7.0]))
    >>> round(low, 2), round(high, 2)
    (3.04, 6.96)
    """
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.nanstd(resampled, ddof=1)
    return float(value - half), float(value + half)


def p_value(values: np.ndarray) -> float:
    """How likely a mean at least as far from 0 is if the true mean is 0: the t test that fits `interval`.

    Args:
        values: one for each seed (N,).

    Returns:
        In [0, 1]; NaN with fewer than `ENOUGH` values. 0 where all values are equal, and 1 where all are 0.

    >>> round(p_value(np.array([1.0, 2.0, 3.0])), 3)
    0.074
    """
    if len(values) < ENOUGH:
        return float("nan")
    mean = abs(np.mean(values))
    error = _standard_error(values)
    if error == 0:
        return float(mean == 0)
    return float(2 * stats.t.sf(mean / error, len(values) - 1))


def _standard_error(values: np.ndarray) -> float:
    """Of a mean. SciPy's own functions of it are slow on a few values, and warn of values that are nearly equal."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's correction: of many comparisons without any true difference, some are significant by chance.

    The smallest of M p-values is multiplied by M, the next one by M - 1, and so on. None becomes smaller than one
    before it. The probability that any comparison without a true difference stays below 5 % is then below 5 %, whether
    the comparisons depend on each other or not.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, 1979.

    Args:
        p_values: (N,); those that are NaN do not count.

    Returns:
        Corrected p-values (N,) in [0, 1].

    >>> holm(np.array([0.01, 0.04, 0.03, np.nan])).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    corrected = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: np.isfinite(p_values).sum()]  # NaN is sorted to the end
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return corrected


def coverage(seeds: int, trials: int = 1000) -> pd.DataFrame:
    """How often each kind of interval of 95 % contains the true mean, by simulation.

    Args:
        seeds: number of values of a mean.
        trials: number of means.

    Returns:
        Percent. Index: distribution of the values. Columns: t, and SciPy's percentile and BCa bootstrap.
    """
    rows = {}
    for name, distribution in DIFFERENCES.items():
        values = distribution.rvs((trials, seeds), random_state=np.random.default_rng(seeds))
        ends = np.array([interval(row) for row in values]).T
        rows[name] = {"t": _share_with_0(*ends)}
        for method in ("percentile", "BCa"):
            found: Any = stats.bootstrap(
                (values,), np.mean, axis=1, method=method, n_resamples=999, batch=100, rng=np.random.default_rng(0)
            )
            rows[name][method] = _share_with_0(*found.confidence_interval)
    return pd.DataFrame(rows).T


def _share_with_0(low: np.ndarray, high: np.ndarray) -> float:
    """Percentage of intervals that contain 0."""
    return 100 * float(np.mean((low <= 0) & (high >= 0)))
