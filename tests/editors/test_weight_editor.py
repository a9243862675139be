"""What editors of weights need not think of: what was there before, turns, groups of any size."""

import pytest
import torch

from datamodules.records import Request
from editors.weight_editor import WeightEditor
from edits.updates import Dense
from edits.weights import WeightEdit

REQUESTS = [
    Request(f"{city} is in", city, country)
    for city, country in [
        ("Paris", "Japan"),
        ("Lagos", "Peru"),
        ("Tokyo", "Mali"),
        ("Rome", "Oman"),
    ]
]


class Writer(WeightEditor):
    """Adds to a layer what it says now, so that the order of writing and what is in place show."""

    def __init__(self, language_model, by_turns=False):
        self.language_model, self.by_turns = language_model, by_turns
        self.written = []

    def turns(self, groups):
        if not self.by_turns:
            return super().turns(groups)
        return [[[group[at]] for group in groups] for at in range(len(groups[0]))]

    def write(self, groups, after):
        lm = self.language_model
        self.written.append(([[r.subject for r in group] for group in groups], after))
        layer = lm.layer("mlp_out", 1)
        d_in, _ = lm.shape(layer)
        rows = []
        for group in groups:
            prompts = lm.encode([r.prompt for r in group], None)
            rows.append(lm.hidden(prompts).mean((0, 1)).expand(d_in, -1) / d_in)
        return WeightEdit({layer: Dense(torch.stack(rows))}, self.name, lm.fingerprint)


def weight(edit):
    (update,) = edit.updates.values()
    return update.dense()


def subjects(writer):
    return [names for names, _ in writer.written]


def test_groups_of_one_size_are_written_at_once(language_model):
    writer = Writer(language_model)
    edit = writer.make([REQUESTS[:2], REQUESTS[2:]])
    assert subjects(writer) == [[["Paris", "Lagos"], ["Tokyo", "Rome"]]]
    for number, group in enumerate([REQUESTS[:2], REQUESTS[2:]]):
        torch.testing.assert_close(weight(edit)[number], weight(writer.edit(group))[0])


def test_uneven_groups_are_written_one_by_one(language_model):
    groups = [REQUESTS[:1], REQUESTS[1:], REQUESTS[:2]]
    writer = Writer(language_model)
    edit = writer.make(groups)
    assert [len(names) for names in subjects(writer)] == [1, 1, 1]
    assert len(edit) == 3
    alone = torch.cat([weight(writer.edit(group)) for group in groups])
    assert torch.equal(weight(edit), alone)


def test_what_was_there_is_in_place_and_in_the_result(language_model):
    writer = Writer(language_model)
    first = writer.edit(REQUESTS[:1])
    both = writer.edit(REQUESTS[1:], after=first)
    _, given = writer.written[-1]
    assert given is first
    with first.hooks(language_model):
        written = writer.write([REQUESTS[1:]], None)
    assert torch.equal(weight(both), weight(first) + weight(written))
    assert not torch.equal(weight(written), weight(writer.edit(REQUESTS[1:])))
    assert not language_model.module(language_model.layer("mlp_out", 1))._forward_hooks


def test_turns_follow_one_another_each_with_all_before_in_place(language_model):
    writer = Writer(language_model, by_turns=True)
    edit = writer.edit(REQUESTS[:3])
    assert subjects(writer) == [[["Paris"]], [["Lagos"]], [["Tokyo"]]]
    step = None
    for request in REQUESTS[:3]:
        step = Writer(language_model).edit([request], after=step)
    assert torch.equal(weight(edit), weight(step))
    assert not torch.equal(weight(edit), weight(Writer(language_model).edit(REQUESTS[:3])))


def test_groups_by_turns_are_each_groups_own_course(language_model):
    writer = Writer(language_model, by_turns=True)
    groups = [REQUESTS[:2], REQUESTS[2:]]
    edit = writer.make(groups)
    assert subjects(writer) == [[["Paris"]], [["Lagos"]], [["Tokyo"]], [["Rome"]]]
    alone = torch.cat([weight(writer.edit(group)) for group in groups])
    assert torch.equal(weight(edit), alone)


def test_groups_of_one_turn_go_together_also_where_there_could_be_more(language_model):
    writer = Writer(language_model, by_turns=True)
    writer.edit_each(REQUESTS)
    assert subjects(writer) == [[["Paris"], ["Lagos"], ["Tokyo"], ["Rome"]]]


def test_turns_after_an_edit_go_on_from_it(language_model):
    writer = Writer(language_model, by_turns=True)
    first = writer.edit(REQUESTS[:1])
    later = writer.edit(REQUESTS[1:3], after=first)
    assert torch.equal(weight(later), weight(writer.edit(REQUESTS[:3])))


def test_hooks_are_gone_when_writing_fails(language_model):
    class Failing(Writer):
        def write(self, groups, after):
            raise RuntimeError("no such luck")

    first = Writer(language_model).edit(REQUESTS[:1])
    with pytest.raises(RuntimeError, match="no such luck"):
        Failing(language_model).edit(REQUESTS, after=first)
    assert not language_model.module(language_model.layer("mlp_out", 1))._forward_hooks
