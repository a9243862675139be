"""Spared keys weigh the same, whether they or their products are known; systems are reused."""

import pytest
import torch

from editors.meta_learning.least_squares import least_squares
from editors.meta_learning.ridge import Ridge, Spared, products


def rows(count, width):
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_products_are_those_of_the_whole_matrix():
    given = rows(7, 500)
    close(products(given), given.T @ given)


@pytest.mark.parametrize("count", [3, 30], ids=["dual", "primal"])
def test_nothing_spared_is_the_plain_regression(count):
    keys, changes = rows(count, 10), rows(count + 1, 4)[:count]
    plain = least_squares(keys[None], changes[None], torch.tensor(0.5, dtype=torch.float64))
    close(Ridge(keys, None, 0.5).update(changes).dense(), plain.dense())


@pytest.mark.parametrize("count", [3, 30], ids=["dual", "primal"])
def test_spared_keys_are_rows_without_a_change(count):
    keys, changes, past = rows(count, 10), rows(count + 1, 4)[:count], rows(5, 10)
    gram = keys.T @ keys + past.T @ past + 0.5 * torch.eye(10).double()
    expected = torch.linalg.solve(gram, keys.T @ changes)[None]
    many = Spared(past.repeat(3, 1) / 3**0.5, None).packed()
    assert not len(many.keys)
    for spared in (Spared(past), Spared(past[:2], products(past[2:])).packed(), many):
        close(Ridge(keys, spared, 0.5).update(changes).dense(), expected)


def test_keys_that_are_not_finite_make_no_finite_update():
    keys = rows(3, 10)
    keys[0, 0] = torch.nan
    assert not Ridge(keys, None, 0.5).update(rows(3, 4)).dense().isfinite().any()
