"""What of a solved update is written: RECT's entries, PRUNE's singular values, SPHERE's rest."""

import numpy as np
import pytest
import torch
from samples import AT_THE_END, CONTEXTS, MOMENTS, bundled, in_float64

from editors.locate_then_edit.limits import Prune, Rect, Sphere
from editors.locate_then_edit.memit import Memit
from edits.updates import LowRank

SETTINGS = {
    "moments": MOMENTS, "contexts": CONTEXTS, "layers": [0, 1], "steps": 8, "lr": 0.1,
    "clamp": 50.0, "weight_decay": 0.0, "covariance_weight": 0.1,
}  # fmt: skip


def editor(lm, limit=None, **settings):
    return Memit(lm, limit=limit, **bundled({**SETTINGS, **settings}))


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
    whole = editor(lm).edit_each(AT_THE_END)
    rect = editor(lm, Rect(keep))
    part, layer = rect.edit_each(AT_THE_END), rect.layers[0]
    weight = lm.weight(layer).numpy()
    for number in range(len(AT_THE_END)):
        change = whole.updates[layer].dense()[number].numpy()
        kept = part.updates[layer].dense()[number].numpy()
        np.testing.assert_array_equal(kept, largest(change, weight, keep))
        assert (kept != 0).mean() == pytest.approx(keep, abs=1e-3)


def test_what_a_layer_lacks_is_left_to_the_layers_above(tiny):
    lm = in_float64(tiny("gpt2"))
    rect = editor(lm, Rect())
    edit, (low, high) = rect.edit(AT_THE_END[:1]), rect.layers
    whole = editor(lm).edit(AT_THE_END[:1])
    assert edit.updates.keys() == {low, high}
    longer, usual = (e.updates[high].norm() for e in (edit, whole))
    assert longer > 0.4 * usual


def test_an_edit_after_another_compares_with_the_weight_as_it_now_is(tiny):
    lm = in_float64(tiny("gpt2"))
    rect, memit = (editor(lm, limit, layers=[0]) for limit in (Rect(), None))
    before, (layer,) = rect.edit(AT_THE_END[:1]), rect.layers
    whole = memit.edit(AT_THE_END[1:2], after=before).updates[layer].dense()[0]
    change = (whole - before.updates[layer].dense()[0]).numpy()
    weight = (lm.weight(layer) + before.updates[layer].dense()[0]).numpy()
    part = rect.edit(AT_THE_END[1:2], after=before).updates[layer].dense()[0]
    kept = (part - before.updates[layer].dense()[0]).numpy()
    np.testing.assert_allclose(kept, largest(change, weight, 0.4), atol=1e-12)


def test_keeping_all_is_memit(tiny):
    lm = in_float64(tiny("gpt2"))
    one, other = (editor(lm, limit).edit(AT_THE_END) for limit in (Rect(keep=1.0), None))
    for layer, update in other.updates.items():
        torch.testing.assert_close(one.updates[layer].dense(), update.dense(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.5])
def test_a_share_that_is_none_is_refused(keep):
    with pytest.raises(ValueError, match="keep must be"):
        Rect(keep=keep)


# PRUNE


def update_of(change):
    return LowRank(torch.as_tensor(change)[None], torch.eye(change.shape[1]).double()[None])


def test_singular_values_above_the_weights_largest_are_restrained():
    left, right = (torch.linalg.qr(torch.randn(6, 6).double())[0] for _ in range(2))
    weight = left @ torch.diag(torch.tensor([2.0, 1, 1, 1, 1, 1]).double()) @ right
    values = torch.tensor([50.0, 2.5, 2, 1.5, 0.5, 0]).double()
    change = left @ torch.diag(values) @ right
    written = Prune().written(update_of(change), weight, torch.zeros(6, 6).double()).dense()[0]
    expected = [2 + np.log(25.0), 2 + np.log(1.25), 2, 1.5, 0.5, 0]
    np.testing.assert_allclose(torch.linalg.svdvals(written).numpy(), expected, atol=1e-12)


def test_the_whole_change_is_restrained_and_counted_once():
    weight, before = torch.eye(5).double(), 3 * torch.eye(5).double()
    written = Prune().written(update_of(2 * torch.eye(5).double()), weight, before)
    whole = before + written.dense()[0]
    np.testing.assert_allclose(torch.linalg.svdvals(whole).numpy(), 1 + np.log(5), atol=1e-12)


def test_a_small_change_is_as_it_was():
    update = update_of(0.1 * torch.randn(5, 5).double())
    assert Prune().written(update, 10 * torch.eye(5).double(), torch.zeros(5, 5)) is update


# SPHERE


def test_leading_directions_of_the_rows_are_left_out():
    weight = torch.randn(6, 4).double()
    weight[:, 0] *= 100  # rows count by their direction, not by their length
    rows = (weight / weight.norm(dim=0)).numpy()
    values, vectors = np.linalg.eigh(rows @ rows.T)
    order = np.argsort(-values)
    count = int((values[order].cumsum() / values.sum() <= 0.5).sum()) + 1
    leading = vectors[:, order[:count]]
    change = torch.randn(6, 4).double()
    written = Sphere(strength=0.7).written(update_of(change), weight, torch.zeros(6, 4))
    expected = change.numpy() - 0.7 * leading @ leading.T @ change.numpy()
    np.testing.assert_allclose(written.dense()[0].numpy(), expected, atol=1e-12)


def test_all_strength_leaves_nothing_of_them():
    weight, limit = torch.randn(6, 4).double(), Sphere(strength=1.0)
    written = limit.written(update_of(torch.randn(6, 4).double()), weight, torch.zeros(6, 4))
    assert (limit.directions(weight).T @ written.dense()[0]).abs().max() < 1e-12


@pytest.mark.parametrize("limit", [Prune(), Sphere(), Rect()])
def test_a_limit_on_a_whole_edit(tiny, limit):
    lm = in_float64(tiny("llama"))
    limited = editor(lm, limit)
    edit = limited.edit(AT_THE_END[1:2], after=limited.edit(AT_THE_END[:1]))
    assert edit.updates.keys() == set(limited.layers)
    assert limited.identity()["limit"] == vars(limit)
