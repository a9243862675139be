"""Hooks see what modules are given and say, may change it, and are gone with their block."""

import pytest
import torch
from torch import nn

from models.hooks import (
    compute_dtype,
    full_precision,
    hidden_of,
    hooked,
    recorded,
    unflattened,
    widened,
    with_hidden,
)

PROMPTS = ["The capital of Sweden is", "Paris"]


def modules_of(lm):
    return lm.modules_of([lm.layer("mlp_out", 0), lm.layer("attn_out", 2), lm.block(1)])


def states(lm):
    return lm.hidden(lm.encode(PROMPTS, None))


def hooks_of(modules):
    return sum(len(module._forward_hooks) for module in modules.values())


def test_a_look_sees_input_and_output_and_leaves_them(any_family):
    lm, seen = any_family, {}
    modules, expected = modules_of(lm), states(any_family)

    def look(name, given, output):
        seen[name] = given, output

    with hooked(modules, look):
        assert torch.equal(states(lm), expected)
    assert seen.keys() == modules.keys()
    layer = lm.layer("mlp_out", 0)
    given, output = seen[layer]
    assert torch.equal(modules[layer](given), output)
    assert hooks_of(modules) == 0


def test_what_a_look_returns_goes_on(any_family):
    lm, block = any_family, any_family.block(1)

    def zero(name, given, output):
        return with_hidden(output, torch.zeros_like(hidden_of(output)))

    with hooked(lm.modules_of([block]), zero), recorded(lm.modules_of([block])) as said:
        states(lm)
    assert not hidden_of(said[block]).any()  # hooks run in the order in which they came


def test_recorded_holds_the_last_pass(any_family):
    lm, block = any_family, any_family.block(2)
    with recorded(lm.modules_of([block])) as said:
        assert said == {}
        states(lm)
        first = hidden_of(said[block])
        lm.hidden(lm.encode(PROMPTS[1:], None))
    assert hidden_of(said[block]).shape[0] == 1 and first.shape[0] == 2


def test_an_exception_removes_the_hooks(language_model):
    modules = modules_of(language_model)

    def fail(name, given, output):
        raise RuntimeError(name)

    with pytest.raises(RuntimeError, match="mlp"), hooked(modules, fail):
        states(language_model)
    with pytest.raises(KeyError), recorded(modules):
        raise KeyError
    assert hooks_of(modules) == 0


def test_the_input_may_be_passed_by_name():
    class Named(nn.Module):
        def forward(self, *, value):
            return value + 1

    seen = []
    module = Named()
    with hooked({"named": module}, lambda *look: seen.append(look)):
        module(value=torch.zeros(2))
    ((name, given, output),) = seen
    assert name == "named" and given.tolist() == [0, 0] and output.tolist() == [1, 1]


@pytest.mark.parametrize("rest", [None, ("cache", 1)])
def test_hidden_states_keep_the_form_of_their_output(rest):
    old, new = torch.zeros(2, 3), torch.ones(2, 3)
    output = old if rest is None else (old, *rest)
    assert hidden_of(output) is old
    changed = with_hidden(output, new)
    assert hidden_of(changed) is new
    assert changed is new if rest is None else changed[1:] == rest


def test_flat_states_get_their_rows_back():
    x = torch.randn(2, 5, 3)
    assert torch.equal(unflattened(x.flatten(0, 1), 2), x)
    assert unflattened(x, 2) is x


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_edits_are_computed_in_float32_at_least(given, expected):
    assert compute_dtype(given) == widened(torch.ones(1, dtype=given)).dtype == expected


def test_full_precision_is_undone():
    cpu, x = torch.device("cpu"), torch.ones(2, 2)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            with pytest.raises(RuntimeError, match="leave"), full_precision(cpu):
                assert torch.get_float32_matmul_precision() == "highest"
                assert (x @ x).dtype == torch.float32
                assert not torch.is_inference_mode_enabled()
                raise RuntimeError("leave")
            assert (x @ x).dtype == torch.bfloat16 and torch.is_inference_mode_enabled()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
