"""Edits of an encoder-decoder by hooks are edits of its weights, in both stacks."""

import pytest
import torch
from random_edits import digest, double, hooks_of, random_edit, written
from torch import nn

from edits.loading import load
from edits.weights import LowRank, WeightEdit
from models import LanguageModel
from models.capture import captured

PROMPTS = ["Lagos is a city in", "The capital of Sweden is", "Tokyo is", "In", "In Asia, the"]
TARGETS = ["Nigeria", "Stockholm", "the capital of Japan", "Europe", "yen is"]
ROWS = [1, -1, 0, 1, 0]
TOLERANCE = {"bart": 1e-10}  # T5 computes norms and softmax in float32 inside
SIDES = [(True,), (False,), (True, False)]


def edit_of(lm, encoders=(True, False), count=1, scale=0.3, seed=0):
    """Random updates of each stack's first and last block."""
    generator = torch.Generator().manual_seed(seed)
    updates = {}
    for encoder in encoders:
        for role in lm.family.roles:
            for block in (0, 2):
                name = lm.layer(role, block, encoder)
                d_in, d_out = lm.shape(name)
                factors = (
                    scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
                    for shape in ((count, d_in, 2), (count, 2, d_out))
                )
                updates[name] = LowRank(*(factor.to(lm.dtype) for factor in factors))
    return WeightEdit(updates, "random", lm.fingerprint)


def close(lm, actual, expected):
    tolerance = TOLERANCE.get(lm.family.name, 1e-5)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def states(lm, rows=slice(None)):
    """Hidden states ``[B, T, d]`` of the decoder, zero where there is padding."""
    batch = lm.encode(PROMPTS, TARGETS).rows(rows)
    return lm.hidden(batch) * batch.attention_mask[..., None]


@pytest.mark.parametrize("encoders", SIDES)
def test_hooks_equal_written_weights(any_encoder_decoder, encoders):
    lm = double(any_encoder_decoder)
    edit = edit_of(lm, encoders)
    with edit.hooks(lm):
        actual = states(lm)
    close(lm, actual, states(written(lm, edit)))
    assert (actual - states(lm)).abs().max() > 0.01


@pytest.mark.parametrize("encoders", SIDES)
def test_each_row_sees_its_own_edit(any_encoder_decoder, encoders):
    lm = double(any_encoder_decoder)
    edit = edit_of(lm, encoders, count=2)
    before, sha = states(lm), digest(lm)
    with edit.hooks(lm, ROWS):
        together = states(lm)
    for b, row in enumerate(ROWS):
        own = before if row < 0 else states(written(lm, edit, row))
        close(lm, together[b], own[b])
    assert torch.equal(together[1], before[1])
    assert torch.equal(states(lm), before) and hooks_of(lm) == 0 and digest(lm) == sha


@pytest.mark.parametrize("tokens_per_batch", [40, 4096])
def test_both_questions_are_answered_by_each_rows_own_model(any_encoder_decoder, tokens_per_batch):
    lm = double(any_encoder_decoder)
    edit = edit_of(lm, count=2)
    models = {-1: lm, **{n: written(lm, edit, n) for n in (0, 1)}}
    edited = edit.edited(lm)
    scores = edited.score(PROMPTS, TARGETS, rows=ROWS, tokens_per_batch=tokens_per_batch)
    texts = edited.generate(PROMPTS, rows=ROWS, max_new_tokens=6, tokens_per_batch=tokens_per_batch)
    for i, row in enumerate(ROWS):
        alone = models[row].score([PROMPTS[i]], [TARGETS[i]])
        torch.testing.assert_close(scores.log_probs[i], alone.log_probs[0], rtol=1e-4, atol=1e-4)
        assert texts[i] == recomputed(models[row], PROMPTS[i], 6)
    assert len(set(texts)) > 1


@torch.no_grad()
def recomputed(lm, prompt, steps):
    """Greedy decoding without a cache."""
    ids, said = lm.encode([prompt], None).source.input_ids, lm.encode([prompt], None).input_ids
    for _ in range(steps):
        new = lm.model(input_ids=ids, decoder_input_ids=said, use_cache=False).logits[:, -1:]
        if new.argmax(-1).item() == lm.tokenizer.eos_token_id:
            break
        said = torch.cat([said, new.argmax(-1)], dim=1)
    return lm.tokenizer.decode(said[0, 1:], skip_special_tokens=True).strip()


def test_rows_of_minus_one_answer_as_the_unedited_model_to_the_bit(any_encoder_decoder):
    lm = any_encoder_decoder
    edited = edit_of(lm, count=2).edited(lm)
    plain, rows = lm.score(PROMPTS, TARGETS), [-1, 0, -1, 1, -1]
    some = edited.score(PROMPTS, TARGETS, rows=rows)
    none = edited.score(PROMPTS, TARGETS, rows=[-1] * 5)
    assert all(map(torch.equal, none.log_probs, plain.log_probs))
    for i, row in enumerate(rows):
        assert torch.equal(some.log_probs[i], plain.log_probs[i]) == (row < 0)
    assert edited.generate(PROMPTS, rows=[-1] * 5) == lm.generate(PROMPTS)


# gradients


def sum_of_means(lm):
    batch = lm.encode(PROMPTS, TARGETS)
    logits, ids, row = lm.target_logits(batch)
    nll = nn.functional.cross_entropy(logits, ids, reduction="none")
    return (nll / torch.bincount(row)[row]).sum()


def test_key_times_delta_is_the_weight_gradient_in_both_stacks(any_encoder_decoder):
    lm, oracle = any_encoder_decoder, written(any_encoder_decoder, edit_of(any_encoder_decoder))
    layers = [lm.layer(r, b, e) for e in (True, False) for r in lm.family.roles for b in (1, 2)]
    with edit_of(lm).hooks(lm), captured(lm, layers, gradients=True) as seen:
        deltas = torch.autograd.grad(sum_of_means(lm), [seen[layer].output for layer in layers])
    weights = [oracle.module(layer).weight.requires_grad_() for layer in layers]
    gradients = torch.autograd.grad(sum_of_means(oracle), weights)
    batch = lm.encode(PROMPTS, TARGETS)
    for layer, delta, gradient in zip(layers, deltas, gradients, strict=True):
        keys = seen[layer].keys
        product = torch.einsum("bti,bto->oi", keys, delta)
        torch.testing.assert_close(product, gradient, rtol=1e-4, atol=1e-4)
        mask = (batch.source if lm.in_encoder(layer) else batch).attention_mask
        assert keys.shape[:2] == mask.shape and (mask == 0).any()
        assert delta[mask == 0].eq(0).all()


# folders


def test_edits_survive_a_file_and_merged_folders_answer_alike(any_encoder_decoder, tmp_path):
    lm = double(any_encoder_decoder)
    edit, sha = edit_of(lm), digest(lm)
    edit.save(tmp_path / "edit.safetensors")
    again = load(tmp_path / "edit.safetensors", lm)
    edit.merge(lm, tmp_path / "merged")
    merged = LanguageModel.load(str(tmp_path / "merged"), dtype="float64")
    hooked, loaded = (e.edited(lm).score(PROMPTS, TARGETS) for e in (edit, again))
    assert all(map(torch.equal, hooked.log_probs, loaded.log_probs))
    written_scores = merged.score(PROMPTS, TARGETS)
    for ours, theirs in zip(hooked.log_probs, written_scores.log_probs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert edit.edited(lm).generate(PROMPTS, max_new_tokens=6) == merged.generate(
        PROMPTS, max_new_tokens=6
    )
    assert digest(lm) == sha


def test_an_edit_of_another_model_is_refused(any_encoder_decoder, language_model):
    with pytest.raises(ValueError, match="this edit belongs to the model with fingerprint"):
        random_edit(language_model).edited(any_encoder_decoder)
