"""How far a number would move with other records of the same kind: 95 % intervals over records.

Shares: Wilson, JASA 1927, which is no point at 0 and 1 either. A record with several probes is
worth more than one trial, and less than so many: the number of trials is the effective one (Kish,
"Survey Sampling", 1965; Dean and Pagano, "Evaluating Confidence Interval Methods for Binomial
Proportions in Clustered Surveys", JSSAM 2015).
Differences of two shares of the same records: Newcombe, "Improved Confidence Intervals for the
Difference Between Binomial Proportions Based on Paired Data", Statistics in Medicine 1998, method
10, from those two intervals and their correlation. What is computed of several shares: Zou and
Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 2008.
Other means: bootstrap over records, Efron, "Better Bootstrap Confidence Intervals", JASA 1987, BCa.
"""

# n records, k numbers of each

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

SEED = 0
BLOCK = 100
LEVEL = 0.95
Z = float(stats.norm.ppf((1 + LEVEL) / 2))
PLUS = np.array([0.0, 0.0, 1.0, 1.0])
"""What Wilson's interval adds to the trials, nearly: two of each, so that no variance is zero."""


def share_interval(values: NDArray, probes: int) -> tuple[float, float]:
    """Bounds of a share from those of each record.

    Args:
        values: ``[n]``, from 0 to 1.
        probes: of all records together, at most so many trials are they worth.
    """
    with_plus = np.concatenate([values, PLUS])
    mean = with_plus.mean()
    effect = mean * (1 - mean) / with_plus.var()  # 1 where each record is all right or all wrong
    trials = min(len(values) * max(effect, 1.0), max(probes, len(values)))
    return wilson(float(values.mean()), trials)


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Bounds of a share that was seen in so many independent trials."""
    centre = (share + Z**2 / (2 * trials)) / (1 + Z**2 / trials)
    half = Z / (1 + Z**2 / trials) * np.sqrt(share * (1 - share) / trials + (Z / 2 / trials) ** 2)
    # exact at the ends, where rounding could leave the share outside
    return min(float(centre - half), share), max(float(centre + half), share)


def share_difference(one: NDArray, other: NDArray, probes: int) -> tuple[float, float]:
    """Bounds of how much larger the first share is, both ``[n]`` of the same records."""
    first, second = (share_interval(values, probes) for values in (one, other))
    shares = one.mean(), other.mean()
    below = np.array([shares[0] - first[0], shares[1] - second[1]])  # what lowers the difference
    above = np.array([shares[0] - first[1], shares[1] - second[0]])
    gain, correlation = shares[0] - shares[1], _correlation(one, other)
    related = np.array([[1, correlation], [correlation, 1]])
    low, high = _length(below, related), _length(above, related)
    return float(max(gain - low, -1)), float(min(gain + high, 1))


def function_interval(
    function: Callable[[Sequence[float]], float], columns: Sequence[NDArray], probes: Sequence[int]
) -> tuple[float, float]:
    """Bounds of a function of several shares that grows with each of them.

    Args:
        function: of k shares.
        columns: k times ``[n]``, each record's share; NaN where a record has none.
        probes: of each column.
    """
    there = [column[~np.isnan(column)] for column in columns]
    shares = [float(column.mean()) for column in there]
    bounds = [share_interval(column, count) for column, count in zip(there, probes, strict=True)]
    value = function(shares)
    related = np.array([[_correlation(one, other) for other in columns] for one in columns])
    np.fill_diagonal(related, 1)
    ends = []
    for end in (0, 1):
        moved = [[*shares[:at], bounds[at][end], *shares[at + 1 :]] for at in range(len(shares))]
        ends.append(_length(np.array([value - function(each) for each in moved]), related))
    return value - ends[0], value + ends[1]


def mean_interval(values: NDArray, resamples: int = 1000) -> tuple[float, float]:
    """Bounds of the mean of ``[n]``; the mean itself of one record, or where all are alike."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    rng = np.random.default_rng(SEED)
    bounds = stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, confidence_level=LEVEL, method="BCa", rng=rng
    ).confidence_interval
    return float(bounds.low), float(bounds.high)


def _length(moves: NDArray, related: NDArray) -> float:
    """How far moves ``[k]`` go together, given how they are related ``[k, k]``."""
    return float(np.sqrt(max(moves @ related @ moves, 0.0)))


def _correlation(one: NDArray, other: NDArray) -> float:
    """Of the records that have both, with Newcombe's correction; 0 where one does not vary."""
    both = ~(np.isnan(one) | np.isnan(other))
    one, other = one[both], other[both]
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    covariance = float(np.mean((one - one.mean()) * (other - other.mean())))
    if covariance > 0:  # or two that never differ would have no interval
        covariance = max(covariance - 1 / (2 * len(one)), 0.0)
    return covariance / float(one.std() * other.std())


def resampled_means(values: NDArray, resamples: int = 1000) -> NDArray:
    """Means of ``values`` ``[n, k]`` over n records drawn with replacement: ``[resamples, k]``.

    All columns see the same draws, so that what is computed of several of them is paired. NaN
    where a record has no value of a column; such records count for the other columns only.
    """
    rng, n = np.random.default_rng(SEED), len(values)
    has = ~np.isnan(values)
    filled, means = np.where(has, values, 0.0), []
    for start in range(0, resamples, BLOCK):
        size = min(BLOCK, resamples - start)
        counts = rng.multinomial(n, np.full(n, 1 / n), size=size).astype(float)  # how often each
        # a column of few records may be missed by a draw, which then says nothing of it
        with np.errstate(invalid="ignore"):
            means.append(counts @ filled / (counts @ has))
    return np.concatenate(means)


def interval(means: NDArray) -> tuple[float, float]:
    """The middle 95 % of resampled means ``[resamples]``, of those that are no NaN."""
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return float(low), float(high)


def harmonic_mean(values: Sequence[NDArray | float]) -> NDArray:
    """Harmonic mean over the sequence, element by element; 0 where one of them is 0."""
    stacked = np.stack([np.asarray(value, dtype=float) for value in values])
    positive = np.where(stacked > 0, stacked, 1.0)
    mean = len(stacked) / (1 / positive).sum(axis=0)
    return np.where((stacked > 0).all(axis=0), mean, 0.0)
