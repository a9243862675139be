"""The update is the least of what it is to be, however it is solved, and so is its gradient."""

import pytest
import torch

from editors.meta_learning.least_squares import least_squares
from edits.updates import Dense, LowRank

RIDGE = torch.tensor(0.7).double()


def rows(count, d_in=5, d_out=3, updates=1):
    generator = torch.manual_seed(count)
    return (torch.randn(updates, count, d, generator=generator).double() for d in (d_in, d_out))


@pytest.mark.parametrize("count", [1, 2, 5, 6, 40])
def test_nothing_lowers_the_ridge_regression_further(count):
    keys, changes = rows(count)
    update = least_squares(keys, changes, RIDGE).dense().requires_grad_()
    (keys @ update - changes).square().sum().add(RIDGE * update.square().sum()).backward()
    assert update.grad.abs().max() < 1e-12


def test_the_smaller_of_two_equal_systems_is_solved():
    for count, kind in ((1, LowRank), (4, Dense), (6, Dense)):  # 4 * (5 + 3) numbers are more
        keys, changes = rows(count)
        update = least_squares(keys, changes, RIDGE)
        gram = keys[0].T @ keys[0] + RIDGE * torch.eye(5)
        expected = torch.linalg.inv(gram) @ keys[0].T @ changes[0]
        torch.testing.assert_close(update.dense()[0], expected, rtol=1e-12, atol=1e-12)
        assert isinstance(update, kind)


def test_its_limits():
    keys, changes = rows(1)
    one = least_squares(keys, changes, RIDGE).dense()
    torch.testing.assert_close(one, keys.mT @ changes / (keys.square().sum() + RIDGE))
    keys, changes = rows(4)
    sums = keys.mT @ changes
    far = least_squares(keys, changes, torch.tensor(1e9).double()).dense()
    torch.testing.assert_close(far * 1e9, sums, rtol=1e-6, atol=1e-6)
    orthonormal = torch.linalg.qr(keys[0].T)[0].T[None]
    near = least_squares(orthonormal, changes, torch.tensor(1e-12).double()).dense()
    torch.testing.assert_close(near, orthonormal.mT @ changes, rtol=1e-9, atol=1e-9)


def test_equal_keys_that_propose_different_changes_get_their_mean():
    keys, changes = rows(2)
    keys = keys[:, :1].expand(-1, 2, -1)
    update = least_squares(keys, changes, torch.tensor(1e-9).double()).dense()
    said = (keys @ update)[0, 0]
    torch.testing.assert_close(said, changes[0].mean(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_updates_of_a_stack_are_those_of_each_and_rows_of_zeros_count_for_nothing(count):
    keys, changes = rows(count, updates=3)
    together = least_squares(keys, changes, RIDGE).dense()
    pad = torch.nn.functional.pad
    for number in range(3):
        own = keys[number : number + 1], changes[number : number + 1]
        alone = least_squares(*(pad(x, (0, 0, 0, 4)) for x in own), RIDGE).dense()
        torch.testing.assert_close(together[number], alone[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("count", [1, 4, 8])
def test_gradients_are_exact(count):
    keys, changes = rows(count, updates=2)

    def update(changes, ridge):
        return least_squares(keys, changes, ridge).dense()

    assert torch.autograd.gradcheck(
        update, (changes.requires_grad_(), RIDGE.clone().requires_grad_())
    )


def test_a_float32_update_is_solved_in_float64():
    keys, changes = rows(40)
    keys[:, :, 1] = keys[:, :, 0] + 1e-4 * keys[:, :, 1]  # condition above float32's
    ridge = torch.tensor(1e-6)
    exact = least_squares(keys.float().double(), changes.float().double(), ridge.double()).dense()
    ours = least_squares(keys.float(), changes.float(), ridge).dense()
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, rtol=1e-2, atol=1e-2 * exact.abs().max())


def test_what_cannot_be_solved_is_not_a_number():
    keys, changes = rows(8)
    assert least_squares(keys, changes, torch.tensor(torch.nan)).dense().isnan().all()
