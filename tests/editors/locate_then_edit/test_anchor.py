"""NAS writes AlphaEdit's values, all of one length."""

import logging

import pytest
import torch
from samples import AT_THE_END, CONTEXTS, MOMENTS, bundled, in_float64

from datamodules.editing import EditingData
from datamodules.pool import Pool
from datamodules.records import Record
from editors.locate_then_edit.alphaedit import AlphaEdit
from editors.locate_then_edit.anchor import Anchor

SETTINGS = {
    "moments": MOMENTS, "contexts": CONTEXTS, "layers": [0, 1], "steps": 8, "lr": 0.1,
    "clamp": 50.0, "weight_decay": 0.0, "threshold": 0.05, "ridge": 0.01,
}  # fmt: skip


class Pilots(EditingData):
    name = "pilots"

    def load(self):
        return {"train": [Record(r.subject, (r,)) for r in AT_THE_END]}


def nas(lm, **anchor):
    return AlphaEdit(lm, **bundled(SETTINGS), anchor=Anchor(**anchor))


def spoken(editor, requests):
    """What the last edited feed-forward part and its block say at the subject, unedited."""
    layer, (site,) = editor.layers[-1], editor.sites()
    seen = editor.activations(editor.subjects(requests), [layer, site])
    return seen[layer][1][:, 0], seen[site][1][:, 0]


@pytest.fixture
def lm(tiny):
    return in_float64(tiny("gpt2"))


def test_each_value_has_the_anchors_length_and_keeps_its_direction(lm):
    editor = nas(lm, norm=3.0, reject_above=None)
    editor.prepare()
    values = editor.values(AT_THE_END, 3)
    part, block = spoken(editor, AT_THE_END)
    before, after = (part + x - block for x in (values, editor.target(values, AT_THE_END)))
    torch.testing.assert_close(after.norm(dim=1), torch.full((3,), 3.0).double())
    cosines = torch.nn.functional.cosine_similarity(before, after)
    torch.testing.assert_close(cosines, torch.ones(3).double())


def test_a_value_that_is_too_long_is_not_written_and_named(lm, caplog):
    editor = nas(lm, norm=1e-3)
    editor.prepare()
    _, block = spoken(editor, AT_THE_END)
    with caplog.at_level(logging.WARNING):
        target = editor.target(editor.values(AT_THE_END, 3), AT_THE_END)
    torch.testing.assert_close(target, block)
    assert caplog.text.count("its value is too long; not made") == 3
    assert repr(AT_THE_END[0].prompt) in caplog.text


def test_the_anchor_is_the_mean_length_over_the_pilots_of_the_unedited_model(lm):
    editor = nas(lm, pool=Pool(Pilots()), pilots=2, reject_above=None)
    before = editor.identity()
    edit = editor.edit(AT_THE_END[2:])
    part, block = spoken(editor, AT_THE_END[:2])
    lengths = (part + editor.values(AT_THE_END[:2], 2) - block).norm(dim=1)
    fixed = nas(lm, norm=float(lengths.mean()), reject_above=None).edit(AT_THE_END[2:])
    for layer, update in fixed.updates.items():
        torch.testing.assert_close(edit.updates[layer].dense(), update.dense())
    assert editor.identity() == before
    assert before["anchor"]["pool"] == editor.anchor.pool.fingerprint


def test_with_the_values_own_length_it_is_alphaedit(lm):
    request = AT_THE_END[:1]
    alpha = AlphaEdit(lm, **bundled(SETTINGS))
    alpha.prepare()
    part, block = spoken(alpha, request)
    own = float((part + alpha.values(request, 1) - block).norm())
    one, other = nas(lm, norm=own).edit(request), alpha.edit(request)
    assert one.past_keys.keys() == other.past_keys.keys()
    for layer, update in other.updates.items():
        torch.testing.assert_close(one.updates[layer].dense(), update.dense())


def test_an_anchor_needs_pilots_or_a_length(lm):
    with pytest.raises(ValueError, match=r"the anchor of a pool: pool=records, or anchor\.norm"):
        nas(lm).edit(AT_THE_END)
    with pytest.raises(ValueError, match="norm must be more than 0, got -1"):
        Anchor(norm=-1)
