"""Captured keys and deltas are the requests' weight gradients."""

import copy

import pytest
import torch
from random_edits import digest, double, hooks_of, random_edit, written
from torch import nn

from models import LanguageModel
from models.capture import captured

PROMPTS = ("Lagos is a city in", "The capital of Sweden is", "In")
TARGETS = ("Nigeria", "Stockholm, the old", "Paris")


def sum_of_means(language_model, prompts=PROMPTS, targets=TARGETS):
    """Sum over the requests of the mean nats of each one's target tokens."""
    batch = language_model.encode(prompts, targets)
    logits, ids, row = language_model.target_logits(batch)
    nll = nn.functional.cross_entropy(logits, ids, reduction="none")
    return (nll / torch.bincount(row)[row]).sum()


def layers_of(language_model):
    return [language_model.layer(role, block) for role in ("mlp_in", "mlp_out") for block in (1, 2)]


def keys_and_deltas(language_model, layers, prompts=PROMPTS, targets=TARGETS):
    with captured(language_model, layers, gradients=True) as seen:
        loss = sum_of_means(language_model, prompts, targets)
        deltas = torch.autograd.grad(loss, [seen[layer].output for layer in layers])
    return [seen[layer].keys for layer in layers], deltas


def weight_gradients(language_model, layers):
    """What autograd says, oriented ``[d_in, d_out]``."""
    oracle = LanguageModel(copy.deepcopy(language_model.model), language_model.tokenizer)
    modules = [oracle.module(layer) for layer in layers]
    weights = [module.weight.requires_grad_() for module in modules]
    gradients = torch.autograd.grad(sum_of_means(oracle), weights)
    return [
        gradient.T if isinstance(module, nn.Linear) else gradient
        for module, gradient in zip(modules, gradients, strict=True)
    ]


def products(keys, deltas):
    return [torch.einsum("bti,bto->io", *pair) for pair in zip(keys, deltas, strict=True)]


def close(actual, expected, tolerance=1e-5):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_key_times_delta_is_the_weight_gradient(any_family):
    layers, sha = layers_of(any_family), digest(any_family)
    keys, deltas = keys_and_deltas(any_family, layers)
    shape = any_family.encode(PROMPTS, TARGETS).input_ids.shape
    for layer, key, delta in zip(layers, keys, deltas, strict=True):
        d_in, d_out = any_family.shape(layer)
        assert key.shape == (*shape, d_in) and delta.shape == (*shape, d_out)
    close(products(keys, deltas), weight_gradients(any_family, layers))
    assert digest(any_family) == sha
    assert all(p.grad is None and not p.requires_grad for p in any_family.parameters())


def test_padding_has_no_delta(any_family):
    layers = layers_of(any_family)
    _, deltas = keys_and_deltas(any_family, layers)
    padding = any_family.encode(PROMPTS, TARGETS).attention_mask == 0
    assert padding.any() and all(delta[padding].eq(0).all() for delta in deltas)


def test_a_batch_of_requests_equals_a_loop_of_single_ones(any_family):
    language_model = double(any_family)
    layers = layers_of(language_model)
    keys, deltas = keys_and_deltas(language_model, layers)
    for b in range(3):
        own_keys, own = keys_and_deltas(
            language_model, layers, PROMPTS[b : b + 1], TARGETS[b : b + 1]
        )
        length = own[0].shape[1]
        close([key[b, :length] for key in keys], [key[0] for key in own_keys])
        close([delta[b, :length] for delta in deltas], [delta[0] for delta in own])


def test_keys_and_deltas_of_an_edited_model(tiny):
    language_model = double(tiny("gpt2"))
    layers, edit = layers_of(language_model), random_edit(language_model)
    with edit.hooks(language_model):
        keys, deltas = keys_and_deltas(language_model, layers)
    own_keys, own = keys_and_deltas(written(language_model, edit), layers)
    close(keys, own_keys, 1e-10)
    close(deltas, own)  # the head computes in float32


def test_capturing_does_not_change_the_pass(any_family):
    layers, batch = layers_of(any_family), any_family.encode(PROMPTS, TARGETS)
    plain = any_family.hidden(batch)
    for gradients in (False, True):
        with captured(any_family, layers, gradients) as seen:
            hidden = any_family.hidden(batch)
        assert torch.equal(hidden, plain)
        assert hidden.requires_grad is gradients
        assert not seen[layers[0]].keys.requires_grad
        assert seen[layers[0]].output.shape[:2] == batch.input_ids.shape


@torch.no_grad()
def test_gradients_are_to_be_had_under_no_grad(language_model):
    layers = layers_of(language_model)
    keys, deltas = keys_and_deltas(language_model, layers)
    assert not torch.is_grad_enabled()
    with torch.enable_grad():
        expected = weight_gradients(language_model, layers)
    close(products(keys, deltas), expected)


def test_hooks_are_gone_afterwards(any_family):
    layers = layers_of(any_family)
    keys_and_deltas(any_family, layers)
    assert hooks_of(any_family) == 0
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        captured(any_family, layers, gradients=True),
    ):
        raise RuntimeError("in the middle")
    with (
        pytest.raises(ValueError, match="no layer 'mlp'"),
        captured(any_family, [*layers, "mlp"], gradients=True),
    ):
        pass
    assert hooks_of(any_family) == 0


def test_a_layer_that_runs_twice_or_not_at_all_is_an_error(language_model):
    layer, batch = language_model.layer("mlp_out", 1), language_model.encode(PROMPTS, TARGETS)
    with captured(language_model, [layer], gradients=False) as seen:
        for field in ("keys", "output"):
            with pytest.raises(ValueError, match=r"mlp\.c_proj' has not run"):
                getattr(seen[layer], field)
        language_model.hidden(batch)
        with pytest.raises(ValueError, match=r"mlp\.c_proj' ran twice"):
            language_model.hidden(batch)
    with (
        pytest.raises(ValueError, match="ran twice"),
        captured(language_model, [layer], gradients=False),
    ):
        language_model.generate(["Lagos is"])
    assert hooks_of(language_model) == 0


def test_inference_mode_is_refused(language_model):
    layer = language_model.layer("mlp_out", 1)
    with torch.inference_mode():
        with (
            pytest.raises(ValueError, match=r"no gradients under torch\.inference_mode\(\)"),
            captured(language_model, [layer], gradients=True),
        ):
            pass
        with captured(language_model, [layer], gradients=False) as seen:
            language_model.hidden(language_model.encode(PROMPTS, None))
    assert seen[layer].keys.shape[0] == 3
