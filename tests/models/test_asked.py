"""A prompt read once for all of its targets gives the answers of a prompt read for each."""

from contextlib import contextmanager

import pytest
import torch

from edits.updates import LowRank
from edits.weights import WeightEdit
from models.asked import branched

FAMILIES = ["gpt2", "gptj", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma"]
PROMPTS = [
    "The Eiffel Tower is in the city of",
    "Lagos",
    "Which country is Lagos in? Lagos is in the country of",
    "Marie Curie was born in",
    "Z\u00fcrich",
    "The currency of Japan is the",
]
BEHIND = [0, 2, 0, 5, 0, 2, 4]
TARGETS = [
    "Paris, France",
    "Nigeria",
    "Rome",
    "yen",
    "Lyon in France",
    "the country of Poland",
    "is",
]


@pytest.fixture(params=[*FAMILIES, "t5", "t5_gated", "bart"])
def any_model(request, tiny):
    return tiny(request.param)


def assert_same(ours, theirs):
    for name in ("log_probs", "predicted", "targets"):
        for a, b in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


def in_pairs(model, **options):
    """Each target behind a prompt of its own."""
    return model.score([PROMPTS[number] for number in BEHIND], TARGETS, **options)


@pytest.mark.parametrize("tokens_per_batch", [1, 60, 4096])
def test_targets_of_a_prompt_do_not_see_each_other(any_model, tokens_per_batch):
    options = {"tokens_per_batch": tokens_per_batch}
    together = any_model.score(PROMPTS, TARGETS, behind=BEHIND, **options)
    assert_same(together, in_pairs(any_model))


def test_nor_with_pytorchs_own_attention(tiny):
    lm = tiny("llama")
    lm.model.set_attn_implementation("sdpa")
    try:
        assert_same(lm.score(PROMPTS, TARGETS, behind=BEHIND), in_pairs(lm))
    finally:
        lm.model.set_attn_implementation("eager")


def test_around_is_told_of_prompts(language_model):
    lm, seen = language_model, []
    layer = lm.module(lm.layer("mlp_out", 1))

    @contextmanager
    def around(batch):
        seen.extend(batch.rows.tolist())
        shift = 0.3 * batch.rows[:, None, None]
        hook = layer.register_forward_hook(lambda _module, _inputs, output: output + shift)
        yield
        hook.remove()

    together = lm.score(PROMPTS, TARGETS, behind=BEHIND, around=around)
    assert sorted(seen) == [0, 2, 4, 5]
    for number, (row, target) in enumerate(zip(BEHIND, TARGETS, strict=True)):
        (alone,) = lm.score(PROMPTS, [target], behind=[row], around=around).log_probs
        torch.testing.assert_close(together.log_probs[number], alone, atol=1e-5, rtol=0)


def test_each_prompt_sees_its_own_edit(any_model):
    torch.manual_seed(1)
    layer = any_model.layer("mlp_out", 1)
    d_in, d_out = any_model.shape(layer)
    update = LowRank(0.1 * torch.randn(3, d_in, 1), torch.randn(3, 1, d_out))
    edited = WeightEdit({layer: update}, "random", any_model.fingerprint).edited(any_model)
    rows = [0, 1, -1, 2, 0, 1]
    together = edited.score(PROMPTS, TARGETS, behind=BEHIND, rows=rows)
    assert_same(together, in_pairs(edited, rows=[rows[number] for number in BEHIND]))


def test_a_prompt_takes_its_tokens_once(language_model):
    passes = []
    hook = language_model.model.base_model.register_forward_hook(
        lambda _module, _args, output: passes.append(output.last_hidden_state.shape)
    )
    try:
        language_model.score(PROMPTS[:1], ["Paris", "Paris, France"], behind=[0, 0])
    finally:
        hook.remove()
    prompt = language_model.lengths(PROMPTS[:1], None)[0]
    counts = language_model.answer_lengths(PROMPTS[:1] * 2, ["Paris", "Paris, France"])
    assert [shape[:2] for shape in passes] == [(1, prompt + sum(counts) - 2)]


def test_places_of_tokens():
    asked = branched([[5, 6], [7]], [[[1, 2, 3], [4], [8, 9]], [[1, 2]]], pad_id=0)
    assert asked.batch.input_ids.tolist() == [[5, 6, 1, 2, 8], [7, 1, 0, 0, 0]]
    assert asked.branch.tolist() == [[0, 0, 1, 1, 3], [0, 1, 0, 0, 0]]
    assert asked.positions[0].tolist() == [0, 1, 2, 3, 2]
    assert asked.positions[1, :2].tolist() == [0, 1]
    assert asked.place.tolist() == [1, 2, 3, 1, 1, 4, 0, 1]
    sees = asked.bias(torch.float32)[0, 0] == 0
    assert sees[4].tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("behind", [[0, 1], [0] * 6 + [6], [0] * 6 + [-1]])
def test_each_target_needs_a_prompt(language_model, behind):
    with pytest.raises(ValueError, match="behind: expected the number of one of 6 prompts"):
        language_model.score(PROMPTS, TARGETS, behind=behind)
