"""Bootstrap over records: how far a mean would move with other records of the same kind.

Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 1979; percentile
interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SEED = 0
BLOCK = 100


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
