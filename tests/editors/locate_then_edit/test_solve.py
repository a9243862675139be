import copy
import logging
from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from editors.locate_then_edit.statistics.coordinates import condition, factor
from editors.locate_then_edit.statistics.solve import rank_one, ridge
from edits.weights import WeightEdit
from models import LanguageModel


def moment(size: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(5 * size, size, generator=generator, dtype=torch.float64)
    return keys.mT @ keys / len(keys)


def rows(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_edited_layer_answers_each_key_with_the_wanted_output():
    keys, weight, wanted = rows(3, 12), rows(12, 5, seed=2), rows(3, 5, seed=3)
    update = rank_one(factor(moment()).solve(keys), keys, wanted - keys @ weight).dense()
    answers = torch.einsum("ni,nio->no", keys, weight + update)
    torch.testing.assert_close(answers, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("source", "key"), [("mean", "bare"), ("mean", "mean"), ("bare", "bare")])
def test_the_constraint_holds_at_the_key_it_was_solved_for_and_at_no_other(source, key):
    keys = {"bare": rows(1, 12, seed=4), "mean": rows(1, 12, seed=5)}
    other = "mean" if key == "bare" else "bare"
    wanted = rows(1, 5, seed=6)
    update = rank_one(factor(moment()).solve(keys[source]), keys[key], wanted).dense()[0]
    torch.testing.assert_close(keys[key] @ update, wanted, rtol=1e-12, atol=1e-12)
    assert (keys[other] @ update - wanted).norm() > 0.1 * wanted.norm()


def test_the_update_is_the_solution_of_the_bordered_system():
    """Minimise tr(U^T C U) under k^T U = r: stationarity and constraint in one linear system."""
    c, key, wanted = moment(), rows(1, 12), rows(1, 5, seed=3)
    system = torch.zeros(13, 13, dtype=torch.float64)
    system[:12, :12], system[:12, 12], system[12, :12] = c, key[0], key[0]
    right = torch.cat([torch.zeros(12, 5, dtype=torch.float64), wanted])
    expected = torch.linalg.solve(system, right)[:12]
    update = rank_one(factor(c).solve(key), key, wanted).dense()[0]
    torch.testing.assert_close(update, expected, rtol=1e-10, atol=1e-12)


def test_no_other_update_with_that_answer_disturbs_less():
    c, key, wanted = moment(), rows(1, 12), rows(1, 5, seed=3)
    update = rank_one(factor(c).solve(key), key, wanted).dense()[0]

    def disturbance(change: torch.Tensor) -> float:
        return float((change * (c @ change)).sum())

    for seed in range(20):
        change = rows(12, 5, seed=seed)
        change = change - key.mT @ (key @ change) / key.square().sum()  # key @ change = 0
        assert disturbance(update + 1e-3 * change) > disturbance(update)


def test_dead_neurons_keep_exact_zeros_and_the_ridge_tends_to_the_pseudo_inverse():
    c, key = moment(), rows(2, 12)
    dead = torch.tensor([2, 7])
    c[dead], c[:, dead], key[:, dead] = 0.0, 0.0, 0.0
    expected = key @ torch.linalg.pinv(c, hermitian=True)
    ridged, live = factor(c), factor(c, live_only=True)
    assert ridged.ridge == 1e-8 and live.ridge == 0
    for factored, tolerance in ((ridged, 1e-6), (live, 1e-10)):
        solved = factored.solve(key)
        assert (solved[:, dead] == 0).all()
        torch.testing.assert_close(solved, expected, rtol=tolerance, atol=tolerance)


def test_the_ridge_grows_until_the_condition_is_bearable_and_is_logged(caplog):
    c = torch.diag(torch.tensor([1e6, 1.0, 1e-7, 0.0], dtype=torch.float64))
    with caplog.at_level(logging.WARNING):
        factored = factor(c, "h.1.mlp")
    assert factored.ridge == 1e-8
    assert "'h.1.mlp' is ill conditioned: ridge 1e-08 used" in caplog.text
    assert condition(c + 1e-8 * c.diagonal().mean() * torch.eye(4), factored.lower) < 1e10


def test_a_well_conditioned_moment_gets_no_ridge(caplog):
    factored = factor(moment())
    assert factored.ridge == 0 and not caplog.records
    eigenvalues = torch.linalg.eigvalsh(moment())
    estimate = condition(moment(), factored.lower)
    assert estimate == pytest.approx(float(eigenvalues[-1] / eigenvalues[0]), rel=0.05)


def test_a_key_the_direction_does_not_see_gets_no_update():
    update = rank_one(torch.eye(3)[:1], torch.eye(3)[1:2], torch.ones(1, 2))
    assert (update.dense() == 0).all()


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.ones(2, 3), r"expected \[d, d\], got \[2, 3\]"),
        (torch.full((2, 2), torch.nan), "not finite"),
        (-torch.eye(2), "not positive, even with ridge 0.01"),
        (torch.zeros(2, 2), "not positive, even with ridge 0.01"),
    ],
)
def test_what_is_no_second_moment_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        factor(matrix)


@pytest.mark.parametrize("square", [False, True])
def test_orientation_follows_the_module_type_also_of_a_square_layer(tiny, square):
    """The same map stored as Conv1D and as Linear takes the same update to the same output."""
    lm = tiny("gpt2", n_inner=32 if square else 64)
    name = lm.layer("mlp_out", 1)
    twin = LanguageModel(copy.deepcopy(lm.model), lm.tokenizer)
    conv = twin.module(name)
    assert isinstance(conv, Conv1D)
    linear = nn.Linear(*lm.shape(name)).requires_grad_(False)
    linear.weight.copy_(conv.weight.mT)
    linear.bias.copy_(conv.bias)
    twin.module(name.removesuffix(".c_proj")).c_proj = linear
    d_in, d_out = lm.shape(name)
    key, wanted = rows(1, d_in).float(), rows(1, d_out).float()
    answers, before = [], lm.module(name)(key)
    for model in (lm, twin):
        edit = WeightEdit({name: rank_one(key, key, wanted)}, "rome", model.fingerprint)
        with edit.hooks(model):
            answers.append(model.module(name)(key[None])[0] - before)
    for answer in answers:
        torch.testing.assert_close(answer, wanted, rtol=1e-4, atol=1e-4)


# many keys


def by_inverse(c: torch.Tensor, keys: torch.Tensor, weight: float) -> torch.Tensor:
    """``(weight C + K^T K)^-1 K^T``, as it stands."""
    return torch.linalg.inv(weight * c + keys.mT @ keys) @ keys.mT


def solved(c: torch.Tensor, keys: torch.Tensor, weight: float) -> torch.Tensor:
    coordinates = factor(c)
    return coordinates.back(ridge(coordinates.into(keys)[None], weight))[0].mT


@pytest.mark.parametrize("count", [1, 5, 12, 30])
@pytest.mark.parametrize("weight", [0.3, 200.0])
def test_ridge_regression_by_the_smaller_system_is_that_by_the_larger(count, weight):
    keys, c = rows(count, 12), moment()
    expected = by_inverse(c, keys, weight)
    torch.testing.assert_close(solved(c, keys, weight), expected, rtol=1e-10, atol=1e-12)


def test_its_update_has_the_least_regression_loss():
    keys, wanted, c = rows(5, 6), rows(5, 3, seed=3), moment(6)
    update = (solved(c, keys, 2.0) @ wanted).requires_grad_()
    loss = (keys @ update - wanted).square().sum() + 2.0 * (update * (c @ update)).sum()
    (gradient,) = torch.autograd.grad(loss, update)
    assert gradient.abs().max() < 1e-12


def test_gradient_descent_finds_the_same_update():
    keys, wanted, c = rows(5, 6), rows(5, 3, seed=3), moment(6)
    update = torch.zeros(6, 3, dtype=torch.float64)
    for _ in range(5000):
        update -= 0.02 * (keys.mT @ (keys @ update - wanted) + 2.0 * c @ update)
    torch.testing.assert_close(update, solved(c, keys, 2.0) @ wanted, rtol=1e-8, atol=1e-10)


def test_of_one_key_it_tends_to_rome_s_update():
    c, key, wanted = moment(), rows(1, 12), rows(1, 5, seed=3)
    rome = rank_one(factor(c).solve(key), key, wanted).dense()[0]
    errors = [(solved(c, key, w) @ wanted - rome).norm() for w in (1e-3, 1e-4, 1e-5)]
    for one, other in pairwise(errors):
        assert other == pytest.approx(float(one) / 10, rel=0.01)  # linear in the weight


def test_without_weight_every_key_is_answered_exactly_at_the_least_disturbance():
    keys, wanted, c = rows(4, 12), rows(4, 5, seed=3), moment()
    update = solved(c, keys, 0.0) @ wanted
    torch.testing.assert_close(keys @ update, wanted, rtol=1e-12, atol=1e-12)
    scaled = solved(1e4 * c, keys, 0.0) @ wanted
    torch.testing.assert_close(scaled, update, rtol=1e-10, atol=1e-12)
    for seed in range(10):
        change = rows(12, 5, seed=seed)
        change = change - torch.linalg.pinv(keys) @ (keys @ change)  # keys @ change = 0
        other = update + 1e-3 * change
        assert (other * (c @ other)).sum() > (update * (c @ update)).sum()


def test_batches_of_problems_are_solved_one_by_one():
    keys = rows(3, 4, 12)
    together = ridge(keys, 0.5)
    for i in range(3):
        torch.testing.assert_close(together[i], ridge(keys[i : i + 1], 0.5)[0])


def test_a_single_key_of_zeros_is_answered_with_zeros():
    assert (ridge(torch.zeros(2, 1, 4, dtype=torch.float64), 0.0) == 0).all()


@pytest.mark.parametrize("count", [2, 30])
def test_dependent_keys_are_refused_unless_the_weight_separates_them(count):
    keys = rows(1, 12).expand(count, 12)[None]
    for weight in (0.0, 1e-12):
        with pytest.raises(ValueError, match=f"{count} keys are linearly dependent"):
            ridge(keys, weight)
    assert ridge(keys, 0.1).isfinite().all()
