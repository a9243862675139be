"""RECT keeps of MEMIT's update the entries that change most relative to the weight."""

import numpy as np
import pytest
import torch
from samples import AT_THE_END, CONTEXTS, MOMENTS, bundled, in_float64

from editors.locate_then_edit.memit import Memit
from editors.locate_then_edit.rect import Rect

SETTINGS = {
    "moments": MOMENTS, "contexts": CONTEXTS, "layers": [0, 1], "steps": 8, "lr": 0.1,
    "clamp": 50.0, "weight_decay": 0.0, "covariance_weight": 0.1,
}  # fmt: skip


def editor(cls, lm, **settings):
    return cls(lm, **bundled({**SETTINGS, **settings}))


def largest(change, weight, keep):
    """The change with all but the share of entries of the largest ratio zero, by sorting."""
    ratios = np.abs(change / (weight + 1e-8)).ravel()
    order = np.argsort(-ratios, kind="stable")[: round(keep * ratios.size)]
    mask = np.zeros(ratios.size)
    mask[order] = 1
    return change * mask.reshape(change.shape)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("keep", [0.4, 0.05])
def test_each_edit_keeps_its_own_largest_entries_of_the_first_layer(tiny, family, keep):
    lm = in_float64(tiny(family))
    whole = editor(Memit, lm).edit_each(AT_THE_END)
    rect = editor(Rect, lm, keep=keep)
    part, layer = rect.edit_each(AT_THE_END), rect.layers[0]
    weight = lm.weight(layer).numpy()
    for number in range(len(AT_THE_END)):
        change = whole.updates[layer].dense()[number].numpy()
        kept = part.updates[layer].dense()[number].numpy()
        np.testing.assert_array_equal(kept, largest(change, weight, keep))
        assert (kept != 0).mean() == pytest.approx(keep, abs=1e-3)


def test_what_a_layer_lacks_is_left_to_the_layers_above(tiny):
    lm = in_float64(tiny("gpt2"))
    rect = editor(Rect, lm)
    edit, (low, high) = rect.edit(AT_THE_END[:1]), rect.layers
    whole = editor(Memit, lm).edit(AT_THE_END[:1])
    assert edit.updates.keys() == {low, high}
    longer, usual = (e.updates[high].norm() for e in (edit, whole))
    assert longer > 0.4 * usual


def test_an_edit_after_another_compares_with_the_weight_as_it_now_is(tiny):
    lm = in_float64(tiny("gpt2"))
    rect, memit = (editor(cls, lm, layers=[0]) for cls in (Rect, Memit))
    before, (layer,) = rect.edit(AT_THE_END[:1]), rect.layers
    whole = memit.edit(AT_THE_END[1:2], after=before).updates[layer].dense()[0]
    change = (whole - before.updates[layer].dense()[0]).numpy()
    weight = (lm.weight(layer) + before.updates[layer].dense()[0]).numpy()
    part = rect.edit(AT_THE_END[1:2], after=before).updates[layer].dense()[0]
    kept = (part - before.updates[layer].dense()[0]).numpy()
    np.testing.assert_allclose(kept, largest(change, weight, 0.4), atol=1e-12)


def test_keeping_all_is_memit(tiny):
    lm = in_float64(tiny("gpt2"))
    one, other = (
        editor(cls, lm, **own).edit(AT_THE_END) for cls, own in ((Rect, {"keep": 1.0}), (Memit, {}))
    )
    for layer, update in other.updates.items():
        torch.testing.assert_close(one.updates[layer].dense(), update.dense(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.5])
def test_a_share_that_is_none_is_refused(tiny, keep):
    with pytest.raises(ValueError, match="keep must be"):
        editor(Rect, tiny("gpt2"), keep=keep)
