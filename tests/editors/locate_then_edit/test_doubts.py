"""What a user may have got wrong is said: once, with its count and its name."""

import logging

import pytest
import torch
from samples import CONTEXTS, MOMENTS, REQUESTS

from datamodules.records import RecordError, Request
from editors.locate_then_edit import rome, spread
from editors.locate_then_edit.closed_form import warn_of_doubtful
from editors.locate_then_edit.memit import Memit
from editors.locate_then_edit.rome import Rome
from editors.locate_then_edit.search.search import Search


def says(lm, prompt: str) -> str:
    """The word that the model puts behind the prompt."""
    hidden = lm.hidden(lm.encode([prompt], None))[0, -1]
    return lm.tokenizer.decode(lm.head(hidden).argmax()).strip()


def something_true(lm) -> Request:
    """A request for what the model says anyway."""
    for prompt in ("Sweden country", "Sweden is", "Sweden and Japan", "Sweden", "In Sweden the"):
        target = says(lm, prompt)
        if target and lm.score([prompt], [target]).exact() == [True]:
            return Request(prompt, "Sweden", target)
    raise AssertionError("the tiny model answers none of the prompts with a word")


def test_requests_for_what_the_model_says_already_are_counted_and_named(language_model, caplog):
    true = something_true(language_model)
    with caplog.at_level(logging.WARNING):
        warn_of_doubtful(language_model, [*REQUESTS, true])
    said = f"1 of 4 requests ask for what the model says already: {true.prompt!r}"
    assert caplog.messages == [said]


def test_subjects_that_are_mentioned_twice_are_counted_and_named(language_model, caplog):
    twice = [Request(f"{n} Lagos, is Lagos in", "Lagos", "Sweden") for n in range(5)]
    with caplog.at_level(logging.WARNING):
        warn_of_doubtful(language_model, [*twice, REQUESTS[0]])
    [said] = caplog.messages
    assert said.startswith("5 of 6 requests mention the subject more than once; the last mention")
    assert said.endswith("1 Lagos, is Lagos in', '2 Lagos, is Lagos in', ...")


def test_an_occurrence_in_a_longer_word_is_no_second_mention():
    assert Request("The Iranian in Iran says", "Iran", "no").mentions == 1
    assert Request("Is paris in Paris?", "Paris", "no").mentions == 1
    assert Request("In Iranian", "Iran", "no").mentions == 1


@pytest.mark.parametrize("module", [rome, spread], ids=["rome", "memit"])
def test_editors_warn_of_the_model_with_the_edit_made_before(language_model, module, monkeypatch):
    made = {rome: Rome, spread: Memit}[module](language_model, moments=MOMENTS, contexts=CONTEXTS)
    probe, asked = (["They went to Lagos"], ["yen"]), []
    monkeypatch.setattr(
        module, "warn_of_doubtful", lambda lm, _: asked.append(lm.score(*probe).log_probs[0])
    )
    first = made.edit([Request("They went to Lagos", "Lagos", "yen")])
    made.edit(REQUESTS[:1], after=first)
    clean, edited = (lm.score(*probe) for lm in (language_model, first.edited(language_model)))
    assert torch.equal(asked[0], clean.log_probs[0])
    assert torch.equal(asked[1], edited.log_probs[0])
    assert not torch.equal(asked[0], asked[1])


def test_statistics_of_too_few_tokens_are_named(language_model, caplog):
    made = Rome(language_model, moments=MOMENTS, contexts=CONTEXTS)
    with caplog.at_level(logging.WARNING):
        made.prepare()
    assert f"second moment {made.layer!r} is of" in caplog.text
    assert "for 64 inputs; give a corpus of 1280 or more" in caplog.text


def test_a_subject_that_is_missing_is_refused():
    with pytest.raises(RecordError, match="'Lagos' is not in the prompt 'Sweden is'"):
        Request("Sweden is", "Lagos", "yen")


def test_warnings_change_no_edit(language_model, monkeypatch):
    made = Rome(language_model, moments=None, contexts=CONTEXTS, search=Search(steps=3))
    warned = made.edit_each(REQUESTS).updates[made.layer].dense()
    monkeypatch.setattr("editors.locate_then_edit.rome.warn_of_doubtful", lambda *_: None)
    assert torch.equal(made.edit_each(REQUESTS).updates[made.layer].dense(), warned)
