"""What MEND does by its definition, whatever it has learned."""

import copy

import pytest
import torch

from editors.meta_learning.mend import Mend
from editors.meta_learning.transform import Block, Transform
from edits.weights import Dense, LowRank
from models import LanguageModel


def random_network(editor, seed=0):
    """The editor with all its network weights random, so that it is no longer the identity."""
    generator = torch.manual_seed(seed)
    with torch.no_grad():
        for weight in editor.transforms.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator).to(weight.dtype))
    return editor


def assert_same(ours, theirs, tolerance=1e-12):
    for layer, update in theirs.updates.items():
        torch.testing.assert_close(
            ours.updates[layer].dense(), update.dense(), rtol=tolerance, atol=tolerance
        )


# at the start


def test_untrained_without_statistics_it_is_a_step_of_gradient_descent(exact, mend, requests):
    editor = mend(exact, normalise=False, edit_lr=0.25).double()
    edit = editor.edit(requests[:1])
    batch = exact.encode([requests[0].prompt], [requests[0].target])
    weights = [exact.module(layer).weight for layer in editor.layers]
    expected = {}
    try:
        for weight in weights:
            weight.requires_grad_(True)
        logits, targets, _ = exact.target_logits(batch)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        for layer, gradient in zip(editor.layers, torch.autograd.grad(loss, weights), strict=True):
            expected[layer] = -0.25 * gradient  # Conv1D: [d_in, d_out] as stored
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    for layer, update in expected.items():
        torch.testing.assert_close(edit.updates[layer].dense()[0], update, rtol=0, atol=1e-12)
    with torch.no_grad(), edit.hooks(exact):
        after = exact.target_logits(batch)[0]
    edited = WithWeights(exact, {n: u.dense()[0] for n, u in edit.updates.items()})
    torch.testing.assert_close(after, edited(batch), rtol=0, atol=1e-10)


class WithWeights:
    """The model with other weights, as the oracle for edits by hooks."""

    def __init__(self, model, updates):
        self.model = model
        self.weights = {
            f"model.{name}.weight": model.module(name).weight + update
            for name, update in updates.items()
        }

    def __call__(self, batch):
        run = Forward(self.model)
        weights = {f"language_model.{name}": weight for name, weight in self.weights.items()}
        with torch.no_grad():
            return torch.func.functional_call(run, weights, (batch,))


class Forward(torch.nn.Module):
    def __init__(self, language_model):
        super().__init__()
        self.language_model = language_model

    def forward(self, batch):
        return self.language_model.target_logits(batch)[0]


def test_untrained_it_multiplies_the_standardised_factors(exact, mend, requests):
    editor = mend(exact, edit_lr=0.25).double()
    editor.collect(requests)
    factors = editor.factors(requests[:1])
    edit = editor.edit(requests[:1])
    for layer, rows in factors.items():
        transform = editor.transforms.of(layer)
        keys, deltas = (
            (values - statistics.mean) / (statistics.std + 1e-7)
            for values, statistics in (
                (rows.keys, transform.key_statistics),
                (rows.deltas, transform.delta_statistics),
            )
        )
        torch.testing.assert_close(edit.updates[layer].dense()[0], -0.25 * keys.T @ deltas)


def loss_of(model, requests, edit):
    scores = edit.edited(model).score(
        [r.prompt for r in requests], [r.target for r in requests], rows=range(len(requests))
    )
    return -torch.stack([log_probs.mean() for log_probs in scores.log_probs]).mean()


def test_untrained_descent_descends_and_the_authors_sign_ascends(tiny, mend, requests):
    changes = {"descent": [], "official": []}
    for seed in range(20):
        model = tiny("gpt2", seed=seed)
        nothing = mend(model, normalise=False, edit_lr=0.0).edit_each(requests)
        before = loss_of(model, requests, nothing)
        for sign, values in changes.items():
            editor = mend(model, sign=sign)
            editor.collect(requests)
            values.append(float(loss_of(model, requests, editor.edit_each(requests)) - before))
    assert sum(changes["descent"]) < 0 < sum(changes["official"])


def test_at_the_start_only_what_can_learn_has_a_gradient(language_model, mend, requests):
    editor = mend(language_model)
    editor.collect(requests)
    editor.alpha.data.fill_(1.0)

    def gradients():
        edit = editor.propose(requests, editor.factors(requests), joint=False)
        loss = sum((u.dense() - 1).square().mean() for u in edit.updates.values())
        editor.zero_grad()
        loss.backward()
        return {
            name: float(weight.grad.abs().max())
            for name, weight in editor.transforms.named_parameters()
        }

    first = gradients()
    for name, size in first.items():
        assert (size == 0) == name.endswith((".b", ".scale")), name
    before = {name: weight.clone() for name, weight in editor.transforms.named_parameters()}
    torch.optim.Adam(editor.parameters(), 1e-2).step()
    for name, weight in editor.transforms.named_parameters():
        assert torch.equal(weight, before[name]) == name.endswith((".b", ".scale")), name
    assert all(size > 0 for size in gradients().values())


# the map


def test_layers_of_one_shape_share_all_but_scale_and_shift(language_model, mend, requests):
    editor = mend(language_model)
    assert len(editor.transforms) == 2  # mlp_in and mlp_out
    editor.collect(requests)
    transform = editor.transforms["0"]
    keys, deltas = torch.randn(5, 32), torch.randn(5, 64)
    torch.testing.assert_close(transform(keys, deltas, 0), transform(keys, deltas, 1))
    with torch.no_grad():
        transform.nets["both"][0].shift[1] += 1
    pairs = zip(transform(keys, deltas, 0), transform(keys, deltas, 1), strict=True)
    assert not any(torch.equal(one, other) for one, other in pairs)


def test_unshared_layers_have_networks_of_their_own(language_model, mend):
    assert len(mend(language_model, shared=False).transforms) == 6


def test_a_step_of_zero_is_no_edit_and_steps_scale_the_edit(exact, mend, requests):
    editor = random_network(mend(exact).double())
    editor.collect(requests)
    edits = []
    for step in (0.0, 1.0, 3.0):
        editor.alpha.data.fill_(step)
        edits.append({n: u.dense() for n, u in editor.edit_each(requests).updates.items()})
    for layer, update in edits[1].items():
        assert not edits[0][layer].any()
        torch.testing.assert_close(edits[2][layer], 3 * update, rtol=1e-12, atol=1e-12)


def test_a_joint_edit_is_the_sum_of_the_single_ones(exact, mend, requests):
    editor = random_network(mend(exact).double())
    editor.collect(requests)
    each, joint = editor.edit_each(requests), editor.edit(requests)
    assert len(each) == len(requests) and len(joint) == 1
    for layer, update in joint.updates.items():
        total = each.updates[layer].dense().sum(0)
        torch.testing.assert_close(update.dense()[0], total, rtol=1e-10, atol=1e-12)
    kinds = {type(update) for update in joint.updates.values()}
    assert kinds == {LowRank, Dense}  # a whole matrix where the factors would be larger


@pytest.mark.parametrize("tokens", ["all", "target"])
def test_edits_do_not_depend_on_their_company_or_order(exact, mend, requests, tokens):
    editor = random_network(mend(exact, tokens=tokens, edits_per_batch=3).double())
    editor.collect(requests)
    together = editor.edit_each(requests)
    backwards = editor.edit_each(requests[::-1])
    for number, request in enumerate(requests):
        assert_same(together.select([number]), editor.edit_each([request]))
        assert_same(together.select([number]), backwards.select([len(requests) - 1 - number]))


def test_an_edit_after_another_starts_from_the_edited_model(exact, mend, requests):
    editor = random_network(mend(exact, edit_lr=0.125).double())
    editor.collect(requests)
    first = editor.edit(requests[:1])
    both = editor.edit(requests[1:2], after=first)
    merged = WithWeights(exact, {n: u.dense()[0] for n, u in first.updates.items()})
    model = with_weights(exact, merged.weights)
    alone = Mend(model, rank=16, edit_lr=0.125).double()
    alone.load_state_dict(editor.state_dict(), strict=False)
    second = alone.edit(requests[1:2])
    for layer, update in both.updates.items():
        expected = first.updates[layer].dense() + second.updates[layer].dense()
        torch.testing.assert_close(update.dense(), expected, rtol=1e-8, atol=1e-10)


def with_weights(model, weights):
    """A copy of the language model with some other weights."""
    copied = type(model)(copy.deepcopy(model.model), model.tokenizer)
    with torch.no_grad():
        for name, weight in weights.items():
            copied.get_parameter(name).copy_(weight)
    return copied


# promises


def test_the_language_model_stays_as_it_is(any_family, mend, requests):
    before = LanguageModel(any_family.model, any_family.tokenizer).fingerprint
    editor = mend(any_family)
    editor.collect(requests)
    with torch.no_grad():
        editor.edit(requests, after=editor.edit(requests[:2]))
        editor.edit_each(requests)
    assert LanguageModel(any_family.model, any_family.tokenizer).fingerprint == before
    assert not any(weight.requires_grad for weight in any_family.parameters())


def test_inference_mode_is_refused(language_model, mend, requests):
    editor = mend(language_model, normalise=False)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode=False"):
        editor.edit(requests)


def test_what_cannot_be_is_refused(language_model, mend, requests):
    with pytest.raises(ValueError, match="sign is 'up', expected one of descent, official"):
        mend(language_model, sign="up")
    with pytest.raises(ValueError, match="sides is 'left'"):
        mend(language_model, sides="left")
    with pytest.raises(ValueError, match="init is 'zero'"):
        mend(language_model, init="zero")
    with pytest.raises(ValueError, match="locality_kinds is 'one_hop'"):
        mend(language_model, locality_kinds=["one_hop"])
    for name in ("outer", "kl_positions", "tokens", "statistics"):
        with pytest.raises(ValueError, match=f"{name} is 'none'"):
            mend(language_model, **{name: "none"})
    with pytest.raises(ValueError, match="max_skipped must be at least 1, got 0"):
        mend(language_model, max_skipped=0)
    with pytest.raises(ValueError, match="no requests"):
        mend(language_model).edit([])
    with pytest.raises(ValueError, match="train the editor, load a checkpoint"):
        mend(language_model).edit(requests)
    with pytest.raises(ValueError, match="no layer"):
        mend(language_model, layers=["transformer.h.9.mlp.c_fc"])


def test_the_default_layers_are_the_feed_forwards_of_the_last_three_blocks(tiny, mend):
    layers = mend(tiny("gpt2", num_hidden_layers=4)).layers
    assert layers == [
        f"transformer.h.{i}.mlp.{name}" for i in (1, 2, 3) for name in ("c_fc", "c_proj")
    ]


def test_the_rank_is_clipped_to_the_width():
    assert Block(6, 1, 1920, "identity").a.shape == (6, 6)
    assert len(Transform(3, 4, 1, blocks=3).nets["both"]) == 3
