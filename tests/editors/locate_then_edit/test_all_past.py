"""With all past keys kept, edits one after another are the joint edit; BetaEdit's null space."""

import pytest
import torch
from samples import AT_THE_END, MOMENTS, in_float64

from datamodules.records import Request
from editors.locate_then_edit.alphaedit import AlphaEdit
from editors.locate_then_edit.memit import Memit
from editors.locate_then_edit.refresh import Refresh
from editors.locate_then_edit.search.contexts import Contexts

REQUESTS = [*AT_THE_END, Request("We live in Nigeria", "Nigeria", "Berlin")]
BARE = {"moments": MOMENTS, "contexts": Contexts(["{}"]), "layers": [0]}


@pytest.fixture
def lm(tiny):
    return in_float64(tiny("gpt2"))


def with_fixed_values(method):
    """The method, whose values do not depend on what was edited before."""

    class Fixed(method):
        def values(self, requests, edits, subjects=None):
            width = self.language_model.shape(self.layers[0])[1]
            seeds = [REQUESTS.index(request) for request in requests]
            generators = (torch.Generator().manual_seed(seed) for seed in seeds)
            rows = [torch.randn(width, generator=g, dtype=torch.float64) for g in generators]
            return torch.stack(rows)

    return Fixed


def change(edit):
    [update] = edit.updates.values()
    return update.dense()


def in_a_row(editor, steps):
    edit = None
    for requests in steps:
        edit = editor.edit(requests, edit)
    return edit


CASES = {
    "memit": (Memit, {"history": True, "covariance_weight": 2.0}),
    "alphaedit": (AlphaEdit, {"threshold": 0.05, "ridge": 0.1}),
    "betaedit": (AlphaEdit, {"threshold": 0.05, "ridge": 0.1, "refresh": Refresh(100, 2.0)}),
}


@pytest.mark.parametrize("case", CASES)
def test_one_after_another_is_all_at_once(lm, case):
    """OTE-SE, 2026, https://arxiv.org/abs/2605.26670: of one layer and fixed values."""
    method, settings = CASES[case]
    editor = with_fixed_values(method)(lm, **BARE, **settings)
    joint = change(editor.edit(REQUESTS))
    for steps in ([REQUESTS[:1], REQUESTS[1:3], REQUESTS[3:]], [[r] for r in REQUESTS]):
        torch.testing.assert_close(change(in_a_row(editor, steps)), joint, rtol=1e-7, atol=1e-10)


def test_without_the_past_it_is_not(lm):
    editor = with_fixed_values(Memit)(lm, **BARE, covariance_weight=2.0)
    apart = change(in_a_row(editor, [REQUESTS[:2], REQUESTS[2:]]))
    assert (apart - change(editor.edit(REQUESTS))).norm() > 1e-3 * apart.norm()


def test_betaedit_is_its_formula(lm):
    """Before and after past keys have entered the null space."""
    settings = {"threshold": 0.05, "ridge": 0.1}
    editor = with_fixed_values(AlphaEdit)(lm, **BARE, **settings, refresh=Refresh(2, 3.0))
    assert editor.name == "betaedit"
    first = editor.edit(REQUESTS[:2])
    both = editor.edit(REQUESTS[2:], first)
    [layer] = editor.layers
    moment = editor.moments.of(lm, [layer])[layer].mean.double()
    past = first.past_keys[layer][0]
    before = change(first)[0] * 0
    for requests, seen in ((REQUESTS[:2], past[:0]), (REQUESTS[2:], past)):
        mixed = (seen.T @ seen / 2 + 3 * moment) / 4 if len(seen) else moment
        values, vectors = torch.linalg.eigh(mixed)
        free = vectors[:, values < 0.05]
        pairs = editor.activations(editor.subjects(requests), [layer, *editor.sites()])
        keys = pairs[layer][0][:, 0]
        said = pairs[editor.sites()[0]][1][:, 0] + keys @ before
        residuals = editor.values(requests, 1) - said
        inner = keys.T @ keys + seen.T @ seen + 3 * moment
        inner = free.T @ inner @ free + 0.1 * torch.eye(free.shape[1]).double()
        before = before + free @ torch.linalg.solve(inner, free.T @ keys.T @ residuals)
    torch.testing.assert_close(change(both)[0], before, rtol=1e-6, atol=1e-9)


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="every"):
        Refresh(every=0)
    with pytest.raises(ValueError, match="leak"):
        Refresh(leak=0)
