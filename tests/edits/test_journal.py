"""A journal is the edit it stands for, and cuts back to any of its steps to the bit."""

from dataclasses import replace

import pytest
import torch
from random_edits import as_dense, digest, random_edit, random_layers
from safetensors.torch import save_file

from edits import NOTHING, Journal, WeightEdit, journaled, load


def increment(language_model, number):
    """Low-rank ones, and a few dense ones with biases."""
    edit = random_edit(language_model, seed=number, scale=0.1)
    if number % 7 == 5:
        edit = as_dense(edit, bias=0.1)
    name = random_layers(language_model)[2]
    keys = torch.full((1, 1, edit.updates[name].shape[0]), float(number))
    return replace(edit, past_keys={name: keys})


@pytest.fixture(scope="module")
def made(language_model):
    """A journal of twenty steps, the third of two increments, and the plain edit after each."""
    journal, states = None, []
    for number in range(20):
        edit = increment(language_model, number)
        plain = edit if journal is None else states[-1].plus(edit)
        journal = Journal.of(edit) if journal is None else journal.plus(edit)
        if number == 2:
            more = increment(language_model, 100)
            journal, plain = journal.plus(more), plain.plus(more)
        states.append(plain)
        journal = journal.ended() if number else journal
    return journal, states


def same(one: WeightEdit, other: WeightEdit) -> bool:
    def tensors(edit):
        for name, update in edit.updates.items():
            for field, value in vars(update).items():
                if value is not None:
                    yield f"{name}.{field}", value
        yield from edit.past_keys.items()

    found, wanted = dict(tensors(one)), dict(tensors(other))
    return found.keys() == wanted.keys() and all(
        torch.equal(value, wanted[name]) for name, value in found.items()
    )


def test_a_journal_is_the_sum(made):
    journal, states = made
    assert journal.steps == len(states) == 20
    assert len(journal.increments) == 21
    assert len(journal) == 1
    assert same(journal, states[-1])


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 19, 20])
def test_it_is_cut_back_to_the_bit(made, steps, language_model):
    journal, states = made
    cut = journal.cut(steps)
    assert cut.steps == steps
    assert same(cut, states[steps - 1])
    prompts, targets = ["Lagos is in"], ["Sweden"]
    one, other = (
        e.edited(language_model).score(prompts, targets) for e in (cut, states[steps - 1])
    )
    assert torch.equal(one.log_probs[0], other.log_probs[0])


def test_it_goes_on_from_a_cut(made, language_model):
    journal, states = made
    again = journal.cut(7)
    for number in range(7, 20):
        again = again.plus(increment(language_model, number)).ended()
    assert same(again, states[-1])


def test_subtraction_would_not_do(made, language_model):
    """Why the increments are kept."""
    _, states = made
    name = random_layers(language_model)[0]
    whole, last = states[7].updates[name].dense(), increment(language_model, 7).updates[name]
    assert not torch.equal(whole - last.dense(), states[6].updates[name].dense())


def test_it_survives_a_file(made, language_model, tmp_path):
    journal, states = made
    journal.save(tmp_path / "edit.safetensors", base="tiny")
    again = load(tmp_path / "edit.safetensors", language_model)
    assert isinstance(again, Journal)
    assert same(again, journal)
    assert again.ends == journal.ends
    for steps in (3, 12):
        assert same(again.cut(steps), states[steps - 1])


def test_steps_are_remembered_by_those_that_can(made, language_model):
    edit = increment(language_model, 0)
    first = journaled(edit, None)
    assert isinstance(first, Journal) and first.steps == 1
    second = journaled(first.plus(increment(language_model, 1)), first)
    assert second.steps == 2 and same(second.cut(1), edit)
    with pytest.raises(ValueError, match="does not hold the steps made before"):
        journaled(increment(language_model, 1), first)
    assert journaled(NOTHING, None) is NOTHING


def test_a_plain_edit_is_loaded_as_one(language_model, tmp_path):
    edit = random_edit(language_model)
    edit.save(tmp_path / "edit")
    again = load(tmp_path / "edit", language_model)
    assert type(again) is WeightEdit
    assert same(again, edit)


def test_files_of_no_edit_are_refused(language_model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no edit at"):
        load(tmp_path / "missing", language_model)
    (tmp_path / "text").write_text("not an edit")
    with pytest.raises(ValueError, match="text is not a safetensors file"):
        load(tmp_path / "text", language_model)
    save_file({"weight": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="holds no edit: its metadata lack 'errata_edit'"):
        load(tmp_path / "other", language_model)


def test_loading_for_another_model_is_refused(made, tiny, tmp_path):
    made[0].save(tmp_path / "edit", base="tiny")
    with pytest.raises(ValueError, match="edit of 'tiny'"):
        load(tmp_path / "edit", tiny("gpt2", seed=1))


@pytest.mark.parametrize("steps", [0, 21])
def test_steps_that_are_not_there(made, steps):
    with pytest.raises(
        ValueError, match=f"cannot cut back to step {steps}: the edit has steps 1 to 20"
    ):
        made[0].cut(steps)


def test_a_selection_and_a_stack_keep_what_they_say(made, language_model):
    journal, states = made
    twice = journal.select([0, 0])
    assert len(twice) == 2 and same(twice.cut(4).select(1), states[3])
    stacked = WeightEdit.stack([journal, states[0]])
    assert type(stacked) is WeightEdit and len(stacked) == 2


def test_the_model_stays_as_it_was(made, language_model):
    sha = digest(language_model)
    made[0].cut(5).edited(language_model).score(["Lagos is in"], ["Sweden"])
    assert digest(language_model) == sha
