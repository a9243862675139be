"""MeLLo's editor: what it remembers, and what it refuses."""

import pytest
import torch

from datamodules.records import Request
from editors.memory.mello import Mello
from edits.steps import Steps

FEW = Steps(rounds=2, tokens=6)


@pytest.fixture
def mello(language_model):
    return Mello(language_model, steps=FEW)


def test_edits_made_in_one_batch_are_those_made_alone(mello, requests):
    together = mello.edit_each(requests[:3])
    for number, request in enumerate(requests[:3]):
        alone = mello.edit([request])
        assert together.select(number).memories == alone.memories
        assert torch.allclose(together.select(number).embedded, alone.embedded, atol=1e-5)


def test_edits_one_after_another_are_the_edit_of_all(mello, requests):
    edit = None
    for request in requests[:3]:
        edit = mello.edit([request], edit)
    whole = mello.edit(requests[:3])
    assert edit.memories == whole.memories
    assert torch.allclose(edit.embedded, whole.embedded, atol=1e-5)
    assert edit.without([requests[1].prompt]).memories == mello.edit(requests[0:3:2]).memories


def test_a_saved_edit_is_read_by_its_editor(mello, requests, language_model, tmp_path):
    edit = mello.edit(requests[:2])
    edit.save(tmp_path / "edit.safetensors", "tiny")
    again = mello.load(tmp_path / "edit.safetensors")
    asked = ["Gothenburg is in", "Lagos is in"]
    assert again.edited(language_model).generate(asked) == edit.edited(language_model).generate(
        asked
    )
    assert mello.identity()["steps"] == {"task": "", "question": FEW.question} | {
        "rounds": 2,
        "tokens": 6,
    }


def test_requests_that_contradict_each_other_are_settled(language_model, requests):
    later = Request(requests[0].prompt, requests[0].subject, "Poland")
    [memory] = Mello(language_model, steps=FEW).edit([*requests[:2], later]).memories
    assert [fact.target for fact in memory] == [requests[1].target, "Poland"]
    with pytest.raises(ValueError, match="conflicts=refuse: 'Gothenburg is in' is to be 'Japan'"):
        Mello(language_model, conflicts="refuse").edit([requests[0], later])
    with pytest.raises(ValueError, match="conflicts is 'none', expected one of last, refuse"):
        Mello(language_model, conflicts="none")


def test_what_its_edits_cannot_is_refused(mello, requests, language_model, tmp_path):
    edit = mello.edit(requests[:1])
    with pytest.raises(ValueError, match="an edit of mello changes no weights, so it cannot be me"):
        edit.merge(language_model, tmp_path / "merged")
    other = Mello(language_model, steps=Steps(rounds=3)).edit(requests[1:2])
    with pytest.raises(ValueError, match="an edit of mello goes on from edits of the same setting"):
        edit.plus(other)


def test_an_encoder_decoder_is_edited_too(any_encoder_decoder, requests):
    edit = Mello(any_encoder_decoder, steps=FEW).edit(requests[:2])
    assert len(edit.edited(any_encoder_decoder).generate(["Lagos is in"])) == 1
