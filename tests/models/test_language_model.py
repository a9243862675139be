"""The two questions have exact answers, whoever shares a batch, in every family."""

import copy
from contextlib import contextmanager

import pytest
import torch

from models import LanguageModel

PROMPTS = [
    "The Eiffel Tower is in the city of",
    "Lagos",
    "Which country is Lagos in? Lagos is in the country of",
    "Marie Curie was born in",
    "Z\u00fcrich",
    "The currency of Japan is the",
]
TARGETS = ["Paris, France", "Nigeria", "Nigeria", "Warsaw", "is a city in Switzerland", "yen"]


def plain_scores(lm, prompt, target):
    """All logits of one row, without padding, through the model's own forward."""
    prompt_ids = lm.tokenizer(prompt)["input_ids"]
    target_ids = torch.tensor(lm.tokenizer(f" {target}")["input_ids"])
    ids = torch.cat([torch.tensor(prompt_ids), target_ids])
    with torch.no_grad():
        logits = lm.model(input_ids=ids[None]).logits[0].float()[len(prompt_ids) - 1 : -1]
    log_probs = logits.log_softmax(-1)[torch.arange(len(target_ids)), target_ids]
    return log_probs, logits.argmax(-1), target_ids


def plain_generation(lm, prompt, max_new_tokens):
    """Greedy decoding of one row without padding and without a cache."""
    ids = lm.tokenizer(prompt, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    for _ in range(max_new_tokens):
        with torch.no_grad():
            new = lm.model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)
        if new.item() == lm.tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, new], dim=1)
    return lm.tokenizer.decode(ids[0, start:])


def assert_same(ours, theirs, atol=1e-5):
    for a, b in zip(ours.log_probs, theirs.log_probs, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0)
    for name in ("predicted", "targets"):
        for a, b in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            assert torch.equal(a, b)


# score


@pytest.mark.parametrize("tokens_per_batch", [1, 40, 4096])
def test_scores_are_those_of_plain_logits(any_family, tokens_per_batch):
    scores = any_family.score(PROMPTS, TARGETS, tokens_per_batch=tokens_per_batch)
    for row, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
        log_probs, predicted, targets = plain_scores(any_family, prompt, target)
        torch.testing.assert_close(scores.log_probs[row], log_probs, atol=2e-5, rtol=0)
        assert torch.equal(scores.predicted[row], predicted)
        assert torch.equal(scores.targets[row], targets)


def test_scores_do_not_depend_on_order_or_company(any_family):
    together = any_family.score(PROMPTS, TARGETS)
    backwards = any_family.score(PROMPTS[::-1], TARGETS[::-1], tokens_per_batch=30)
    for name in ("log_probs", "predicted", "targets"):
        getattr(backwards, name).reverse()
    assert_same(together, backwards)


def test_scores_are_finite_negative_and_on_the_cpu(language_model):
    scores = language_model.score(PROMPTS, TARGETS)
    for log_probs in scores.log_probs:
        assert log_probs.dtype == torch.float32
        assert log_probs.isfinite().all()
        assert (log_probs < 0).all()
        assert log_probs.device.type == "cpu"


def test_no_rows_no_answers(language_model):
    scores = language_model.score([], [])
    assert (scores.log_probs, scores.predicted, scores.targets) == ([], [], [])
    assert language_model.generate([]) == []
    assert language_model.encode([], []).input_ids.shape == (0, 0)


def test_half_precision_scores_are_close(tiny):
    exact = tiny("llama").score(PROMPTS, TARGETS)
    half = LanguageModel(copy.deepcopy(tiny("llama").model).bfloat16(), tiny("llama").tokenizer)
    for a, b in zip(exact.log_probs, half.score(PROMPTS, TARGETS).log_probs, strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=0.2, rtol=0)


# generate


@pytest.mark.parametrize("tokens_per_batch", [1, 60, 4096])
def test_padded_generation_is_row_by_row_greedy_decoding(any_family, tokens_per_batch):
    texts = any_family.generate(PROMPTS, max_new_tokens=8, tokens_per_batch=tokens_per_batch)
    assert texts == [plain_generation(any_family, prompt, 8) for prompt in PROMPTS]


def test_generation_stops_at_each_end_token(tiny):
    lm = tiny("gpt_neox")
    texts = lm.generate(PROMPTS, max_new_tokens=8)
    plain = [plain_generation(lm, prompt, 8) for prompt in PROMPTS]
    assert texts == plain
    ids = lm.encode([PROMPTS[0]], None).input_ids
    logits = lm.model(ids).logits[0, -1]
    first = int(logits.argmax())
    stopping = LanguageModel(copy.deepcopy(lm.model), lm.tokenizer)
    stopping.model.generation_config.eos_token_id = [first, lm.tokenizer.eos_token_id]
    word = lm.tokenizer.decode([first])
    assert stopping.generate(PROMPTS, max_new_tokens=8)[0] == ""
    for text, whole in zip(stopping.generate(PROMPTS, max_new_tokens=8), texts, strict=True):
        assert whole.startswith(text)
        assert word not in text


def test_all_rows_ended_ends_the_work(tiny):
    lm = LanguageModel(copy.deepcopy(tiny("gpt2").model), tiny("gpt2").tokenizer)
    lm.model.generation_config.eos_token_id = list(range(len(lm.tokenizer)))
    calls = []
    lm.model.base_model.register_forward_hook(lambda *_: calls.append(1))
    assert lm.generate(PROMPTS, max_new_tokens=8) == [""] * len(PROMPTS)
    assert len(calls) == 1


def test_the_tokenizer_keeps_its_padding_side(any_family):
    before = any_family.tokenizer.padding_side
    any_family.generate(PROMPTS, max_new_tokens=2)
    assert any_family.tokenizer.padding_side == before


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one_new_token(language_model, count):
    with pytest.raises(ValueError, match=f"max_new_tokens must be at least 1, got {count}"):
        language_model.generate(PROMPTS, max_new_tokens=count)


# around


def shifted_by_row(lm, seen, first=0):
    """An ``around`` that adds 0.3 times each row's number (plus ``first``) to an output."""

    @contextmanager
    def around(batch):
        seen.append(batch.rows.tolist())
        shift = 0.3 * (batch.rows + first)[:, None, None]
        layer = lm.module(lm.layer("mlp_out", 1))
        hook = layer.register_forward_hook(lambda _module, _inputs, output: output + shift)
        try:
            yield
        finally:
            hook.remove()

    return around


@pytest.mark.parametrize("tokens_per_batch", [1, 40, 4096])
def test_around_knows_the_rows_of_each_micro_batch(language_model, tokens_per_batch):
    lm, seen = language_model, []
    options = {"around": shifted_by_row(lm, seen), "tokens_per_batch": tokens_per_batch}
    scores = lm.score(PROMPTS, TARGETS, **options)
    texts = lm.generate(PROMPTS, max_new_tokens=4, **options)
    assert sorted(row for rows in seen for row in rows) == sorted([*range(6), *range(6)])
    for row, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
        alone = shifted_by_row(lm, [], first=row)
        (log_probs,) = lm.score([prompt], [target], around=alone).log_probs
        torch.testing.assert_close(scores.log_probs[row], log_probs, atol=1e-5, rtol=0)
        assert [texts[row]] == lm.generate([prompt], max_new_tokens=4, around=alone)


def test_around_is_entered_once_for_each_micro_batch(language_model):
    seen = []
    language_model.generate(PROMPTS, max_new_tokens=4, around=shifted_by_row(language_model, seen))
    assert len(seen) == 1
    around = shifted_by_row(language_model, seen)
    language_model.score(PROMPTS, TARGETS, around=around, tokens_per_batch=1)
    assert len(seen) == 1 + len(PROMPTS)


# gradients


def test_target_logits_are_the_plain_ones_in_row_order(any_family):
    batch = any_family.encode(PROMPTS, TARGETS)
    logits, targets, rows = any_family.target_logits(batch)
    expected = [plain_scores(any_family, p, t) for p, t in zip(PROMPTS, TARGETS, strict=True)]
    assert torch.equal(targets, torch.cat([t for _, _, t in expected]))
    assert rows.tolist() == [i for i, (_, _, t) in enumerate(expected) for _ in t]
    log_probs = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
    torch.testing.assert_close(log_probs, torch.cat([x for x, _, _ in expected]), atol=2e-5, rtol=0)


def test_gradients_reach_a_layers_output_but_no_parameter(any_family):
    lm, seen = any_family, {}

    def record(_module, _inputs, output):
        seen["output"] = output.detach().requires_grad_()
        return seen["output"]

    hook = lm.module(lm.layer("mlp_out", 0)).register_forward_hook(record)
    try:
        logits, targets, _ = lm.target_logits(lm.encode(PROMPTS, TARGETS))
    finally:
        hook.remove()
    loss = torch.nn.functional.cross_entropy(logits, targets)
    (delta,) = torch.autograd.grad(loss, seen["output"])
    assert delta.abs().sum() > 0
    assert not any(weight.requires_grad or weight.grad is not None for weight in lm.parameters())


def test_feed_forward_outputs_of_opt_are_flat_and_others_are_not(any_family):
    shapes = []
    layer = any_family.module(any_family.layer("mlp_out", 0))
    hook = layer.register_forward_hook(lambda _m, _i, out: shapes.append(out.dim()))
    try:
        any_family.hidden(any_family.encode(PROMPTS, TARGETS))
    finally:
        hook.remove()
    assert shapes == [2 if any_family.family.name == "opt" else 3]


# the model itself


def test_a_frozen_model_stays_in_evaluation_mode(language_model):
    outer = torch.nn.ModuleDict({"language_model": language_model}).train()
    assert outer.training
    assert not any(module.training for module in language_model.modules())


def test_questions_leave_the_model_as_it_was(any_family):
    before = {name: weight.clone() for name, weight in any_family.model.state_dict().items()}
    any_family.score(PROMPTS, TARGETS)
    any_family.generate(PROMPTS, max_new_tokens=3)
    after = any_family.model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_the_fingerprint_tells_models_apart(any_family, tiny):
    lm = any_family
    twin = LanguageModel(copy.deepcopy(lm.model), lm.tokenizer, name="another name")
    assert len(lm.fingerprint) == 16
    assert twin.fingerprint == lm.fingerprint
    assert tiny(lm.family.name, seed=1).fingerprint != lm.fingerprint
    changed = copy.deepcopy(lm.model)
    weight = changed.get_submodule(lm.layer("mlp_out", 2)).weight
    weight.view(-1)[-1] += 1e-6
    assert LanguageModel(changed, lm.tokenizer).fingerprint != lm.fingerprint
    half = LanguageModel(copy.deepcopy(lm.model).bfloat16(), lm.tokenizer)
    assert half.fingerprint != lm.fingerprint


def test_tied_weights_count_once(tiny):
    tied, untied = tiny("llama", tie_word_embeddings=True), tiny("llama")
    assert "lm_head.weight" not in dict(tied.model.named_parameters())
    assert tied.fingerprint != untied.fingerprint


def test_blocks_are_named_in_order(any_family):
    assert any_family.blocks == 3
    blocks = [any_family.module(any_family.block(i)) for i in range(3)]
    assert len({id(block) for block in blocks}) == 3
    for index in range(3):
        assert any_family.layer("mlp_in", index).startswith(any_family.block(index) + ".")


def test_a_tokenizer_larger_than_its_model(tiny):
    with pytest.raises(ValueError, match="the tokenizer has 384 tokens, the model only 100"):
        tiny("gpt2", vocab_size=100, eos_token_id=0, bos_token_id=0)


def test_an_unknown_family_is_refused(language_model):
    model = copy.deepcopy(language_model.model)
    model.config.model_type = "martian"
    with pytest.raises(ValueError, match="unknown model family 'martian'"):
        LanguageModel(model, language_model.tokenizer)
