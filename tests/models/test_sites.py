import pytest
import torch

from models.sites import activations, place_of, shifted

PROMPTS = ["The capital of Sweden is", "Paris", "What is the mother tongue of Angela Merkel?"]

FIRST = torch.arange(3), torch.zeros(3, dtype=torch.long)  # the first token of each row


@pytest.fixture
def batch(any_family):
    return any_family.encode(PROMPTS, None)


def sites_of(lm, block):
    return [lm.layer("mlp_out", block), lm.layer("attn_out", block), lm.block(block)]


def test_a_zero_shift_changes_nothing_to_the_bit(any_family, batch):
    expected = any_family.hidden(batch)
    for site in sites_of(any_family, 1):
        with shifted(any_family.module(site), torch.zeros(3, 32), *FIRST, 3):
            assert torch.equal(any_family.hidden(batch), expected)


def test_a_shift_reaches_its_row_and_the_site_by_its_amount(any_family, batch):
    expected = any_family.hidden(batch)
    delta = torch.zeros(3, 32)
    delta[0], delta[2] = 1.0, torch.arange(32)
    for site in sites_of(any_family, 1):
        before = activations(any_family, batch, [site], *FIRST)[site][1]
        with shifted(any_family.module(site), delta, *FIRST, 3):
            after = activations(any_family, batch, [site], *FIRST)[site][1]
            changed = (any_family.hidden(batch) != expected).any(2)
        torch.testing.assert_close(after - before, delta, rtol=1e-5, atol=1e-5)
        assert changed[[0, 2], 0].all() and not changed[1].any()
    assert torch.equal(any_family.hidden(batch), expected)


def test_shifts_take_gradients_and_parameters_none(any_family, batch):
    delta = torch.zeros(3, 32, requires_grad=True)
    for site in sites_of(any_family, 2):
        with shifted(any_family.module(site), delta, *FIRST, 3):
            value = any_family.head(any_family.hidden(batch)).logsumexp(-1).sum()
        (gradient,) = torch.autograd.grad(value, delta)
        assert (gradient != 0).any(1).all()


def test_a_forward_pass_ends_at_the_deepest_of_the_layers(language_model):
    batch = language_model.encode(PROMPTS, None)
    layers = [language_model.layer("mlp_out", 1), language_model.layer("attn_out", 0)]
    calls, deeper = [], language_model.module("transformer.h.2")
    hook = deeper.register_forward_hook(lambda *_: calls.append(1))
    seen = activations(language_model, batch, layers, torch.tensor([0, 2]), torch.tensor([1, 4]))
    hook.remove()
    assert not calls and set(seen) == set(layers)
    assert seen[layers[0]][0].shape == (2, 64) and seen[layers[0]][1].shape == (2, 32)


def test_a_layer_outside_the_forward_pass_is_named(language_model):
    batch = language_model.encode(PROMPTS, None)
    with pytest.raises(ValueError, match=r"layers \['lm_head'\] take no part"):
        activations(language_model, batch, ["lm_head"], torch.tensor([0]), torch.tensor([0]))


def test_what_is_only_added_to_the_residual_stream_is_shifted_behind_its_block(any_family, batch):
    own, other, block = sites_of(any_family, 1)
    assert place_of(any_family, own, batch) == block
    assert place_of(any_family, block, batch) == block
    parallel = any_family.family.name in ("gptj", "gpt_neox")  # attention beside the feed-forward
    assert (place_of(any_family, other, batch) == block) == parallel
    delta = torch.randn(3, 32)
    with shifted(any_family.module(own), delta, *FIRST, 3):
        expected = any_family.hidden(batch)
    with shifted(any_family.module(block), delta, *FIRST, 3):
        torch.testing.assert_close(any_family.hidden(batch), expected, rtol=1e-4, atol=1e-4)


def test_a_norm_behind_the_addition_keeps_the_shift_where_it_is(tiny):
    lm = tiny("opt", do_layer_norm_before=False)  # as OPT-350m's
    site = lm.layer("mlp_out", 1)
    assert place_of(lm, site, lm.encode(PROMPTS, None)) == site
