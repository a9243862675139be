"""An edited model answers the same two questions as the model itself."""

import pytest
import torch
from random_edits import double, hooks_of, random_edit, written

PROMPTS = ["Lagos is a city in", "The capital of Sweden is", "Tokyo is", "In", "In Asia, the"]
TARGETS = ["Nigeria", "Stockholm", "the capital of Japan", "Europe", "yen is"]
ROWS = [1, -1, 0, 1, 0]


def edited_and_written(language_model):
    """A model with two edits, and each row's own model."""
    edit = random_edit(language_model, count=2)
    models = {-1: language_model, **{n: written(language_model, edit, n) for n in (0, 1)}}
    return edit.edited(language_model), [models[row] for row in ROWS]


@pytest.mark.parametrize("tokens_per_batch", [16, 4096])
def test_scores_are_those_of_each_rows_own_model(any_family, tokens_per_batch):
    model, models = edited_and_written(double(any_family))
    scores = model.score(PROMPTS, TARGETS, rows=ROWS, tokens_per_batch=tokens_per_batch)
    for i, own in enumerate(models):
        alone = own.score([PROMPTS[i]], [TARGETS[i]])
        torch.testing.assert_close(scores.log_probs[i], alone.log_probs[0], rtol=1e-4, atol=1e-4)
        assert torch.equal(scores.predicted[i], alone.predicted[0])
        assert torch.equal(scores.targets[i], alone.targets[0])
    assert hooks_of(model.language_model) == 0


@pytest.mark.parametrize("tokens_per_batch", [16, 4096])
def test_generation_with_the_cache_equals_full_recomputation(any_family, tokens_per_batch):
    model, models = edited_and_written(any_family)
    texts = model.generate(PROMPTS, rows=ROWS, max_new_tokens=6, tokens_per_batch=tokens_per_batch)
    for text, prompt, own in zip(texts, PROMPTS, models, strict=True):
        assert text == recomputed(own, prompt, steps=6)
    assert hooks_of(model.language_model) == 0


@torch.no_grad()
def recomputed(language_model, prompt, steps):
    """Greedy continuation without a cache: the whole sequence anew for each token."""
    ids = language_model.encode([prompt], None).input_ids
    start = ids.shape[1]
    for _ in range(steps):
        token = language_model.model(ids, use_cache=False).logits[:, -1:].argmax(-1)
        if token.item() == language_model.tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, token], dim=1)
    return language_model.tokenizer.decode(ids[0, start:], skip_special_tokens=True)


def test_without_rows_all_prompts_see_the_one_edit(language_model):
    edit = random_edit(language_model, count=2)
    alone = edit.select(1).edited(language_model)
    rows = edit.edited(language_model)
    shared, own = alone.score(PROMPTS, TARGETS), rows.score(PROMPTS, TARGETS, rows=[1] * 5)
    for i in range(5):
        torch.testing.assert_close(shared.log_probs[i], own.log_probs[i], rtol=1e-5, atol=1e-5)
    assert alone.generate(PROMPTS) == rows.generate(PROMPTS, rows=torch.tensor([1] * 5))


def test_unedited_rows_answer_as_the_model_does(language_model):
    model = random_edit(language_model, count=2).edited(language_model)
    scores, plain = (
        model.score(PROMPTS, TARGETS, rows=[-1] * 5),
        language_model.score(PROMPTS, TARGETS),
    )
    assert all(map(torch.equal, scores.log_probs, plain.log_probs))
    assert model.generate(PROMPTS, rows=[-1] * 5) == language_model.generate(PROMPTS)


def test_rows_must_fit_the_prompts(language_model):
    model = random_edit(language_model, count=2).edited(language_model)
    with pytest.raises(ValueError, match="5 prompts but 4 rows"):
        model.score(PROMPTS, TARGETS, rows=[0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"rows must lie in \[-1, 2\)"):
        model.generate(PROMPTS, rows=[0, 0, 1, 1, 2])
    with pytest.raises(ValueError, match="2 edits: rows must say"):
        model.score(PROMPTS, TARGETS)
