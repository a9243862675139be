import numpy as np
import pytest
from scipy.stats import binomtest

from evaluation.report.intervals import mean_interval, share_difference, share_interval


def binary(right, count):
    return np.array([1.0] * right + [0.0] * (count - right))


@pytest.mark.parametrize(("right", "count"), [(8, 8), (0, 8), (29, 30), (5, 17)])
def test_a_share_of_records_with_one_probe_is_wilsons(right, count):
    theirs = binomtest(right, count).proportion_ci(method="wilson")
    assert share_interval(binary(right, count), count) == pytest.approx(tuple(theirs), abs=1e-12)


def test_further_probes_are_worth_what_they_differ_within_a_record():
    records = binary(20, 40)
    assert share_interval(records, 120) == share_interval(records, 40)  # all three alike
    mixed = np.random.default_rng(0).integers(0, 4, size=400) / 3
    low, high = share_interval(mixed, 1200)
    assert (low, high) == pytest.approx(mean_interval(mixed), abs=5e-3)
    assert high - low < 0.8 * np.subtract(*share_interval(binary(200, 400), 400)[::-1])


def test_a_share_that_is_nearly_perfect_is_not_surer_than_a_perfect_one():
    nearly = np.array([1.0] * 29 + [2 / 3])
    assert share_interval(nearly, 90)[0] < share_interval(np.ones(30), 90)[0]


def test_newcombes_example():
    """Table II of his paper, method 10: 36, 12, 2 and 0 pairs."""
    one = np.array([1.0] * 48 + [0.0] * 2)
    other = np.array([1.0] * 36 + [0.0] * 12 + [1.0] * 2)
    assert share_difference(one, other, 50) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    low, high = share_difference(other, one, 50)
    assert (low, high) == pytest.approx((-0.3404, -0.0569), abs=5e-5)


def test_pairing_tells_what_two_shares_apart_do_not():
    rng = np.random.default_rng(1)
    base = binary(60, 100)
    better = np.maximum(base, (rng.random(100) < 0.2).astype(float))
    low, _ = share_difference(better, base, 100)
    assert low > 0
    assert share_interval(better, 100)[0] < share_interval(base, 100)[1]  # they overlap


def test_what_never_differs_still_has_an_interval():
    low, high = share_difference(binary(4, 8), binary(4, 8), 8)
    assert low == -high and 0.1 < high < 0.3


@pytest.mark.parametrize(("n", "one", "other"), [(30, 0.9, 0.1), (50, 0.5, 0.45), (100, 0.97, 0.9)])
def test_ninety_five_of_a_hundred_intervals_hold_the_truth(n, one, other):
    rng, hits = np.random.default_rng(0), []
    for _ in range(1000):
        shared = rng.random(n)
        independent = np.where(rng.random(n) < 0.5, shared, rng.random(n))
        pair = (shared < one).astype(float), (independent < other).astype(float)
        low, high = share_difference(*pair, n)
        hits.append(low <= one - other <= high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.025)


def test_means_are_bootstrapped_with_a_seed():
    values = np.random.default_rng(1).exponential(size=200)
    low, high = mean_interval(values)
    assert low < values.mean() < high and (low, high) == mean_interval(values)
    assert high - values.mean() > values.mean() - low  # BCa follows the skew
    assert mean_interval(np.array([0.5, 0.5])) == (0.5, 0.5) == mean_interval(np.array([0.5]))
