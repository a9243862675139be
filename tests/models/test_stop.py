"""A generated text ends before the first of the strings it is to stop at."""

from itertools import pairwise

import pytest
import torch
from answers import ANSWERS

from edits.updates import LowRank
from edits.weights import WeightEdit
from models.generation import cut

PROMPTS = ["The Eiffel Tower is in", "Lagos", "Which country is Lagos in? It is in", "Zürich"]
NEW = 12


def continuations(lm, **options):
    return lm.generate(PROMPTS, max_new_tokens=NEW, **options)


def strings_in(text):
    """Strings of a text: within a token, across tokens, at its start and at its end."""
    assert len(text) > 8
    return [text[2:3], text[1:6], text[:2], text[-3:]]


@pytest.mark.parametrize("tokens_per_batch", [1, 60, 4096])
def test_a_text_ends_before_the_first_stop_string(any_family, tokens_per_batch):
    whole = continuations(any_family)
    for text in whole:
        for stop in ([one] for one in strings_in(text)):
            got = continuations(any_family, stop=stop, tokens_per_batch=tokens_per_batch)
            assert got == [cut(each, stop) for each in whole]
            assert not any(stop[0] in each for each in got)


def test_a_string_may_lie_across_tokens(language_model):
    lm = language_model
    whole = continuations(lm)[0]
    ids = lm.tokenizer(whole)["input_ids"]
    pieces = [lm.tokenizer.decode([i]) for i in ids]
    first, second = next((a, b) for a, b in pairwise(pieces) if a.isascii() and b.isascii())
    stop = first[-1] + second[0]
    assert all(stop not in piece for piece in pieces[: pieces.index(first) + 2])
    assert continuations(lm, stop=[stop])[0] == whole[: whole.index(stop)]


def test_of_several_strings_the_first_in_the_text_counts(language_model):
    whole = continuations(language_model)
    stop = [whole[0][6:9], whole[0][3:5], "never said"]
    assert continuations(language_model, stop=stop) == [cut(text, stop) for text in whole]
    assert continuations(language_model, stop=["never said"]) == whole


def test_batched_is_one_by_one(any_family):
    stop = [text[4:6] for text in continuations(any_family)]
    alone = [any_family.generate([p], max_new_tokens=NEW, stop=stop)[0] for p in PROMPTS]
    assert continuations(any_family, stop=stop) == alone


def test_no_more_steps_are_made_once_all_rows_have_stopped(language_model):
    lm, calls = language_model, []
    first = [text[:1] for text in continuations(lm)]
    hook = lm.model.base_model.register_forward_hook(lambda *_: calls.append(1))
    try:
        assert continuations(lm, stop=first) == [""] * len(PROMPTS)
    finally:
        hook.remove()
    assert len(calls) < NEW / 2


def test_an_edited_model_stops_too(language_model):
    lm = language_model
    layer = lm.layer("mlp_out", 1)
    d_in, d_out = lm.shape(layer)
    factors = torch.randn(2, d_in, 1), torch.randn(2, 1, d_out)
    edited = WeightEdit({layer: LowRank(*factors)}, "random", lm.fingerprint).edited(lm)
    rows = [0, 1, -1, 0]
    whole = continuations(edited, rows=rows)
    assert whole != continuations(lm) and whole[2] == continuations(lm)[2]
    stop = [text[3:6] for text in whole]
    assert continuations(edited, rows=rows, stop=stop) == [cut(text, stop) for text in whole]


def test_an_encoder_decoder_stops_too(any_answering):
    prompts = [prompt for prompt, _ in ANSWERS]
    answers = any_answering.generate(prompts)
    stop = [answers[0][1:4], answers[-1][-1]]
    stopped = any_answering.generate(prompts, stop=stop)
    assert stopped == [cut(answer, stop) for answer in answers] != answers


@pytest.mark.parametrize("stop", ["\n", [""], ["a", ""]])
def test_bad_stop_strings(language_model, stop):
    with pytest.raises(ValueError, match="stop: expected a list of strings that are not empty"):
        language_model.generate(PROMPTS, stop=stop)
