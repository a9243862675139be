"""Low-rank and dense updates of one layer, row by row."""

import pytest
import torch

from edits.rows import checked_rows, shift_of
from edits.updates import Dense, LowRank, stacked
from models.hooks import compute_dtype

D_IN, D_OUT, RANK = 6, 5, 2


def low_rank(count=3, rank=RANK, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(count, D_IN, rank, generator=generator, dtype=torch.float64)
    right = torch.randn(count, rank, D_OUT, generator=generator, dtype=torch.float64)
    return LowRank(left.to(dtype), right.to(dtype))


def dense(count=3, seed=0, bias=True):
    update = low_rank(count, seed=seed)
    return Dense(update.dense(), update.right[:, 0] if bias else None)


def shifted(update, x, rows=None):
    return shift_of(update, rows, x.device, compute_dtype(x.dtype))(x)


def random(*shape, seed=9, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


UPDATES = pytest.mark.parametrize("update", [low_rank(), dense(), dense(bias=False)])


def expected(update, x, row):
    bias = 0 if isinstance(update, LowRank) or update.bias is None else update.bias[row]
    return x @ update.dense()[row] + bias


@UPDATES
@pytest.mark.parametrize("rows", [[2, 0, 1, 2], [0, 1, 2, 0], [-1, 1, -1, 1], [1, 1, 1, 1]])
def test_each_row_sees_its_own_edit(update, rows):
    x = random(4, 3, D_IN)
    shift = shifted(update, x, torch.tensor(rows))
    for b, row in enumerate(rows):
        answer = torch.zeros(3, D_OUT) if row < 0 else expected(update, x[b], row)
        torch.testing.assert_close(shift[b], answer.double(), rtol=1e-12, atol=1e-12)


@UPDATES
def test_one_edit_is_shared_by_inputs_of_any_shape(update):
    one, x = update.select([1]), random(4, 3, D_IN)
    torch.testing.assert_close(shifted(one, x), expected(update, x, 1))
    assert torch.equal(shifted(one, x.flatten(0, 1)), shifted(one, x).flatten(0, 1))


@UPDATES
def test_rows_without_an_edit_get_exact_zeros(update):
    x = random(4, 3, D_IN)
    assert shifted(update, x, torch.tensor([-1] * 4)).eq(0).all()
    assert shifted(update, x, torch.tensor([-1, 0, -1, 2]))[[0, 2]].eq(0).all()


@UPDATES
def test_flattened_tokens_are_put_back_into_rows(update):
    x, rows = random(4, 3, D_IN), torch.tensor([2, -1, 0, 1])
    flat = shifted(update, x.flatten(0, 1), rows)
    assert torch.equal(flat, shifted(update, x, rows).flatten(0, 1))


@UPDATES
def test_an_edit_does_not_touch_the_rows_of_another(update):
    x, rows = random(4, 3, D_IN), torch.tensor([0, 1, 0, 1])
    other = stacked([update.select([0]), update.select([2])])
    shift, changed = shifted(update, x, rows), shifted(other, x, rows)
    assert torch.equal(shift[[0, 2]], changed[[0, 2]])
    assert not torch.equal(shift[[1, 3]], changed[[1, 3]])


def test_gradients_reach_the_factors():
    update, x = low_rank(), random(4, 3, D_IN)

    def shift(left, right):
        return shifted(LowRank(left, right), x, torch.tensor([2, -1, 0, 2]))

    factors = (update.left.requires_grad_(), update.right.requires_grad_())
    assert torch.autograd.gradcheck(shift, factors)


def test_gradients_reach_weight_and_bias():
    update, x = dense(), random(4, 3, D_IN)

    def shift(weight, bias):
        return shifted(Dense(weight, bias), x, torch.tensor([2, -1, 0, 2]))

    assert torch.autograd.gradcheck(
        shift, (update.weight.requires_grad_(), update.bias.requires_grad_())
    )


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_inputs_are_computed_in_float32(autocast):
    update, x = low_rank(dtype=torch.float32), random(4, 3, D_IN).bfloat16()
    rows = torch.tensor([0, 1, 2, -1])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        shift = shifted(update, x, rows)
    assert shift.dtype == torch.bfloat16
    assert torch.equal(shift, shifted(update, x.float(), rows).bfloat16())


@UPDATES
def test_norms_are_those_of_the_product(update):
    norms = update.norm()
    assert norms.dtype == torch.float64
    torch.testing.assert_close(norms, torch.linalg.matrix_norm(update.dense()))


def test_stacking_fills_lower_ranks_with_zeros():
    both = stacked([low_rank(2, rank=1), low_rank(1, rank=3, seed=1)])
    assert both.left.shape == (3, D_IN, 3)
    torch.testing.assert_close(both.dense()[:2], low_rank(2, rank=1).dense())
    torch.testing.assert_close(both.dense()[2:], low_rank(1, rank=3, seed=1).dense())


def test_stacking_mixed_kinds_gives_whole_matrices():
    both = stacked([low_rank(2), dense(1, seed=1), dense(1, bias=False)])
    assert isinstance(both, Dense)
    torch.testing.assert_close(both.weight[:2], low_rank(2).dense())
    torch.testing.assert_close(both.bias[2], dense(1, seed=1).bias[0])
    assert both.bias[[0, 1, 3]].eq(0).all()
    assert stacked([low_rank(2), dense(1, bias=False)]).bias is None


@pytest.mark.parametrize("first", [low_rank(rank=1), dense(), dense(bias=False)])
@pytest.mark.parametrize("second", [low_rank(rank=1, seed=1), dense(seed=1), dense(bias=False)])
def test_plus_adds_what_both_would_add(first, second):
    x, rows = random(4, 3, D_IN), torch.tensor([0, 1, 2, -1])
    shift = shifted(first.plus(second), x, rows)
    torch.testing.assert_close(shift, shifted(first, x, rows) + shifted(second, x, rows))


def test_ranks_add_up_until_the_whole_matrix_is_smaller():
    update = low_rank(rank=1).plus(low_rank(rank=1, seed=1))
    assert isinstance(update, LowRank) and update.left.shape[2] == 2
    assert isinstance(update.plus(low_rank(rank=1)), Dense)  # 3 * (6 + 5) > 6 * 5


def test_selecting_keeps_the_order_asked_for():
    assert torch.equal(low_rank().select([2, 0]).left, low_rank().left[[2, 0]])
    chosen = dense().select(torch.tensor([1, 1]))
    assert torch.equal(chosen.bias, dense().bias[[1, 1]]) and len(chosen) == 2


def test_factors_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\[3, 6, 2\] and \[3, 1, 5\] do not fit"):
        LowRank(torch.zeros(3, D_IN, 2), torch.zeros(3, 1, D_OUT))
    with pytest.raises(ValueError, match=r"has shape \[6, 5\]; expected \[N, d_in, d_out\]"):
        Dense(torch.zeros(D_IN, D_OUT))
    with pytest.raises(ValueError, match=r"bias update has shape \[5\]; expected \[3, 5\]"):
        Dense(torch.zeros(3, D_IN, D_OUT), torch.zeros(D_OUT))


@pytest.mark.parametrize("rows", [torch.zeros(2, 2).long(), torch.zeros(2), torch.ones(2).bool()])
def test_rows_that_are_no_list_of_numbers_are_refused(rows):
    with pytest.raises(ValueError, match="rows must be whole numbers"):
        checked_rows(rows, 3)


@pytest.mark.parametrize("rows", [[0, 3], [-2, 0]])
def test_rows_out_of_range_are_refused(rows):
    with pytest.raises(ValueError, match=r"rows must lie in \[-1, 3\)"):
        shifted(low_rank(), random(2, 3, D_IN), torch.tensor(rows))


def test_several_edits_need_rows():
    with pytest.raises(ValueError, match="3 edits: rows must say which"):
        shifted(low_rank(), random(2, 3, D_IN))


@pytest.mark.parametrize("shape", [(3, 3, D_IN), (7, D_IN)])
def test_another_number_of_rows_than_announced_is_refused(shape):
    with pytest.raises(ValueError, match="2 rows were announced"):
        shifted(low_rank(), random(*shape), torch.tensor([0, 1]))


def test_factors_become_a_whole_matrix_where_that_is_fewer_numbers():
    assert isinstance(low_rank(rank=2).packed(), LowRank)  # 2 * (6 + 5) < 6 * 5
    packed = low_rank(rank=3).packed()
    assert isinstance(packed, Dense)
    torch.testing.assert_close(packed.weight, low_rank(rank=3).dense())
