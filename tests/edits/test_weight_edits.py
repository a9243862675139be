"""A weight edit by hooks is an edit of the weights, and leaves nothing behind."""

from dataclasses import replace

import pytest
import torch
from random_edits import as_dense, digest, double, hooks_of, random_edit, written

from edits.weights import LowRank, WeightEdit

PROMPTS = (
    "Lagos is a city in",
    "The capital of Sweden is",
    "Tokyo",
    "What is the mother tongue of Angela Merkel?",
)
TOLERANCE = {"gpt2": 1e-10}  # elsewhere norms or softmax compute in float32 inside
ROWS = torch.tensor([2, -1, 0, 1])


@torch.no_grad()
def states(language_model, prompts=PROMPTS):
    """Hidden states ``[B, T, d]``, zero where there is padding."""
    batch = language_model.encode(list(prompts), None)
    return language_model.hidden(batch) * batch.attention_mask[..., None]


def close(language_model, actual, expected):
    tolerance = TOLERANCE.get(language_model.family.name, 1e-5)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_a_zero_update_changes_nothing_to_the_bit(any_family):
    edit = random_edit(any_family, scale=0.0)
    before = states(any_family)
    with edit.hooks(any_family):
        assert torch.equal(states(any_family), before)


@pytest.mark.parametrize("bias", [None, 0.1])
def test_factored_equals_written_weights(any_family, bias):
    language_model = double(any_family)
    roles = ("mlp_in", "mlp_out", "attn_out") if bias is None else biased(language_model)
    edit = random_edit(language_model, roles=roles)
    edit = edit if bias is None else as_dense(edit, bias)
    with edit.hooks(language_model):
        actual = states(language_model)
    close(language_model, actual, states(written(language_model, edit)))
    assert (actual - states(language_model)).abs().max() > 0.01


def biased(language_model):
    roles = [
        role
        for role in ("mlp_in", "mlp_out", "attn_out")
        if language_model.module(language_model.layer(role, 0)).bias is not None
    ]
    return roles or pytest.skip(f"{language_model.family.name} has no biases")


@pytest.mark.parametrize("dense", [False, True])
def test_independent_edits_in_one_pass_equal_a_loop_of_written_models(any_family, dense):
    language_model = double(any_family)
    edit = random_edit(language_model, count=3)
    edit = as_dense(edit) if dense else edit
    with edit.hooks(language_model, ROWS):
        together = states(language_model)
    unedited = states(language_model)
    assert torch.equal(together[1], unedited[1])
    for b, row in enumerate(ROWS.tolist()):
        if row >= 0:
            close(language_model, together[b], states(written(language_model, edit, row))[b])


def test_rows_of_minus_one_see_the_unedited_model_to_the_bit(any_family):
    edit = random_edit(any_family, count=2)
    before = states(any_family)
    with edit.hooks(any_family, [-1, 0, -1, 1]):
        after = states(any_family)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert not torch.equal(after[[1, 3]], before[[1, 3]])
    with edit.hooks(any_family, [-1] * 4):
        assert hooks_of(any_family) == 0
        assert torch.equal(states(any_family), before)


def test_rows_of_one_edit_do_not_see_another(any_family):
    edit = random_edit(any_family, count=2)
    other = WeightEdit.stack([edit.select(0), random_edit(any_family, seed=7)])
    with edit.hooks(any_family, [0, 1, 0, 1]):
        first = states(any_family)
    with other.hooks(any_family, [0, 1, 0, 1]):
        second = states(any_family)
    assert torch.equal(first[[0, 2]], second[[0, 2]])
    assert not torch.equal(first[[1, 3]], second[[1, 3]])


def test_a_bfloat16_model_is_edited_in_float32(tiny):
    language_model = double(tiny("gpt2"))
    language_model.model.bfloat16()
    edit = random_edit(language_model, count=2)
    before = states(language_model)
    with edit.hooks(language_model, [0, -1, 1, 1]):
        after = states(language_model)
    assert after.dtype == torch.bfloat16
    assert torch.equal(after[1], before[1]) and not torch.equal(after[0], before[0])


def test_hooks_are_gone_afterwards_and_the_weights_are_bit_equal(any_family):
    edit, before, sha = random_edit(any_family), states(any_family), digest(any_family)
    with edit.hooks(any_family):
        assert hooks_of(any_family) == len(edit.updates)
        states(any_family)
    with pytest.raises(RuntimeError, match="in the middle"), edit.hooks(any_family):
        states(any_family)
        raise RuntimeError("in the middle")
    with (
        pytest.raises(ValueError, match="2 rows were announced"),
        edit.hooks(any_family, [0, -1]),
    ):
        states(any_family, PROMPTS[:3])
    assert hooks_of(any_family) == 0
    assert torch.equal(states(any_family), before)
    assert digest(any_family) == sha


def test_gradients_reach_the_updates_through_the_model(language_model):
    edit = random_edit(language_model, count=2)
    leaves = [update.left.requires_grad_() for update in edit.updates.values()]
    with edit.hooks(language_model, [0, 1, 1, -1]):
        hidden = language_model.hidden(language_model.encode(PROMPTS, None))
    gradients = torch.autograd.grad(hidden.square().sum(), leaves)
    assert all(gradient.ne(0).any((1, 2)).all() for gradient in gradients)
    assert all(weight.grad is None for weight in language_model.parameters())


def test_plus_is_both_edits_at_once(tiny):
    language_model = double(tiny("gpt2"))
    first = random_edit(language_model, count=2, roles=("mlp_in", "mlp_out"))
    second = as_dense(random_edit(language_model, count=2, seed=1, roles=("mlp_out", "attn_out")))
    both = first.plus(second)
    assert len(both.updates) == 6 and both.editor == "random"
    with both.hooks(language_model, [0, 1, 1, -1]):
        together = states(language_model)
    with (
        first.hooks(language_model, [0, 1, 1, -1]),
        second.hooks(language_model, [0, 1, 1, -1]),
    ):
        close(language_model, together, states(language_model))


def test_stacked_edits_may_change_different_layers(language_model):
    single = random_edit(language_model, roles=("mlp_in",))
    edits = [single, random_edit(language_model, rank=3, seed=1, roles=("mlp_out",))]
    stack = WeightEdit.stack(edits)
    assert len(stack) == 2 and len(stack.updates) == 4
    for n, edit in enumerate(edits):
        with edit.hooks(language_model):
            expected = states(language_model)
        with stack.select(n).hooks(language_model):
            torch.testing.assert_close(states(language_model), expected)


def test_selecting_and_norms(language_model):
    edit = random_edit(language_model, count=3)
    chosen = edit.select([2, 0])
    assert len(chosen) == 2 and len(edit.select(1)) == 1
    for name, norms in chosen.norms().items():
        products = edit.updates[name].dense()[[2, 0]].double()
        torch.testing.assert_close(norms, torch.linalg.matrix_norm(products))


def test_an_editor_is_named_after_both_when_they_differ(language_model):
    edit = random_edit(language_model)
    other = WeightEdit(edit.updates, "other", edit.model)
    assert edit.plus(other).editor == "random+other"


def test_an_edit_needs_updates_of_one_length():
    with pytest.raises(ValueError, match="needs the update of at least one layer"):
        WeightEdit({}, "random", "0")
    ones, twos = (LowRank(torch.zeros(n, 4, 1), torch.zeros(n, 1, 4)) for n in (1, 2))
    with pytest.raises(ValueError, match=r"same number of edits, got \{'a': 1, 'b': 2\}"):
        WeightEdit({"a": ones, "b": twos}, "random", "0")


def test_edits_that_do_not_belong_together_are_refused(language_model, tiny):
    edit, other = random_edit(language_model), random_edit(tiny("gpt2", seed=1))
    with pytest.raises(ValueError, match=f"different models: {edit.model} and {other.model}"):
        edit.plus(other)
    with pytest.raises(ValueError, match="different models"):
        WeightEdit.stack([edit, other])
    with pytest.raises(ValueError, match="no edits to stack"):
        WeightEdit.stack([])
    with pytest.raises(ValueError, match="cannot add 2 edits to 1"):
        edit.plus(random_edit(language_model, count=2))


def test_an_edit_of_another_model_or_layer_is_refused(language_model, tiny):
    edit = random_edit(language_model)
    fingerprint = language_model.fingerprint
    with pytest.raises(ValueError, match=f"fingerprint {fingerprint}, not to 'tiny-opt'"):
        edit.edited(tiny("opt"))
    update = next(iter(edit.updates.values()))
    with pytest.raises(ValueError, match="no layer 'mlp'"):
        WeightEdit({"mlp": update}, "random", fingerprint).around(language_model, None)
    layer = language_model.layer("attn_out", 0)
    misplaced = WeightEdit({layer: update}, "random", fingerprint)
    with (
        pytest.raises(ValueError, match=r"has shape \[32, 64\]; the layer is \[32, 32\]"),
        misplaced.hooks(language_model),
    ):
        pass


def remembering(language_model, name, count, keys, seed):
    """A random edit with random past keys of one layer."""
    edit = random_edit(language_model, count, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    past = torch.randn(count, keys, edit.updates[name].shape[0], generator=generator)
    return replace(edit, past_keys={name: past})


def test_past_keys_follow_their_edits(language_model):
    name = language_model.layer("mlp_out", 0)
    one, two = (remembering(language_model, name, 2, keys, keys) for keys in (1, 3))
    assert torch.equal(one.select([1, 0]).past_keys[name], one.past_keys[name].flip(0))
    assert one.select(1).past_keys[name].shape[:2] == (1, 1)
    both = one.plus(two).past_keys[name]
    assert torch.equal(both, torch.cat([one.past_keys[name], two.past_keys[name]], dim=1))
    without = random_edit(language_model, 2)
    for sum_ in (one.plus(without), without.plus(one)):
        assert torch.equal(sum_.past_keys[name], one.past_keys[name])


def test_stacked_past_keys_are_filled_up_with_zeros(language_model):
    name = language_model.layer("mlp_out", 0)
    one, two = (remembering(language_model, name, 1, keys, keys) for keys in (1, 3))
    stacked = WeightEdit.stack([one, random_edit(language_model), two]).past_keys[name]
    assert stacked.shape[:2] == (3, 3)
    for keys, expected in zip(stacked, (one, None, two), strict=True):
        count = 0 if expected is None else expected.past_keys[name].shape[1]
        assert (keys[count:] == 0).all()
        assert count == 0 or torch.equal(keys[:count], expected.past_keys[name][0])


def test_past_keys_that_fit_no_update_are_refused(language_model):
    edit = random_edit(language_model, 2, roles=("mlp_out",))
    name = language_model.layer("mlp_out", 0)
    d_in, _ = language_model.shape(name)
    for keys in (
        {"elsewhere": torch.zeros(2, 1, d_in)},
        {name: torch.zeros(1, 1, d_in)},
        {name: torch.zeros(2, 1, d_in + 1)},
        {name: torch.zeros(2, d_in)},
    ):
        with pytest.raises(ValueError, match=r"past keys of .* expected \[N, p, d_in\]"):
            replace(edit, past_keys=keys)
