"""What UltraEdit does by its definition: running statistics, proposals, ridge solutions."""

from types import SimpleNamespace

import pytest
import torch

from datamodules.records import Request
from editors.meta_learning.sums import Sums
from editors.meta_learning.ultraedit import UltraEdit
from edits import load
from edits.journal import journaled
from scoring.known import says


@pytest.fixture
def editor(exact):
    layers = [exact.layer("mlp_out", 0), exact.layer("mlp_in", 1)]
    return UltraEdit(exact, layers=layers, tokens="all", lr=0.01)


def dense(edit):
    return {layer: update.dense() for layer, update in edit.updates.items()}


def assert_same(ours, theirs):
    for layer, update in dense(theirs).items():
        torch.testing.assert_close(dense(ours)[layer], update, rtol=1e-9, atol=1e-12)


# sums


def test_sums_of_parts_are_those_of_all_rows():
    rows = 3 + torch.randn(50, 4, dtype=torch.float64)
    whole = Sums.of(rows, products=True)
    parts = Sums.of(rows[:1], True).plus(Sums.of(rows[1:20], True)).plus(Sums.of(rows[20:], True))
    for name, tensor in whole.state("x").items():
        torch.testing.assert_close(parts.state("x")[name], tensor, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.std, rows.std(0), rtol=1e-12, atol=0)


def test_whitened_rows_have_the_identity_as_covariance():
    mixed = torch.randn(400, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
    sums = Sums.of(mixed, products=True)
    white = sums.whitened(mixed, 0.0)
    covariance = white.T @ white / (sums.count - 5 - 1)
    torch.testing.assert_close(covariance, torch.eye(5).double(), rtol=0, atol=1e-9)


def test_few_rows_are_standardised_where_they_cannot_be_whitened():
    rows = torch.randn(5, 5, dtype=torch.float64)
    sums = Sums.of(rows, products=True)
    assert torch.equal(sums.whitened(rows, 0.1), sums.standardised(rows, 0.1))


def test_one_row_has_no_deviation():
    with pytest.raises(ValueError, match="2 rows or more"):
        _ = Sums.of(torch.ones(1, 3)).std


# the rule


def rows_of(model, settings, requests):
    rows = UltraEdit(model, **settings).read(requests).factors
    return len(rows[settings["layers"][0]].keys)


def test_an_update_is_the_ridge_regression_on_what_rows_propose(editor, requests):
    edit, rows = editor.edit(requests), editor.read(requests).factors
    for layer, part in rows.items():
        keys, deltas = part.keys, part.deltas
        normed = [(x - x.mean(0)) / (x.std(0) + 2.3e-16) for x in (keys, deltas)]
        wanted = -0.01 * normed[0].square().sum(1, keepdim=True) * normed[1]
        gram = keys.T @ keys + torch.eye(keys.shape[1]).double()
        expected = torch.linalg.solve(gram, keys.T @ wanted)
        torch.testing.assert_close(edit.updates[layer].dense()[0], expected, rtol=1e-8, atol=1e-12)


def test_edits_made_together_are_those_made_alone(editor, requests):
    each = editor.edit_each(requests)
    for number, request in enumerate(requests):
        assert_same(each.select(number), editor.edit([request]))


def test_statistics_go_on_with_the_edit(editor, exact, requests):
    first = editor.edit(requests[:2])
    both = editor.edit(requests[2:], first)
    with first.hooks(exact):
        rows = editor.read(requests[2:]).factors
    for name, part in zip(("64x32", "32x64"), rows.values(), strict=True):
        keys = f"{name}.keys"
        assert both.sums[f"{keys}.count"] - first.sums[f"{keys}.count"] == len(part.keys)
        added = both.sums[f"{keys}.total"] - first.sums[f"{keys}.total"]
        torch.testing.assert_close(added[0], part.keys.sum(0), rtol=1e-9, atol=1e-9)


def test_statistics_survive_a_file_and_a_cut(editor, exact, requests, tmp_path):
    first = journaled(editor.edit(requests[:2]), None)
    both = journaled(editor.edit(requests[2:], first), first)
    both.save(tmp_path / "edit.safetensors")
    loaded = load(tmp_path / "edit.safetensors", exact)
    cut = loaded.cut(1)
    for name, tensor in first.sums.items():
        assert torch.equal(cut.sums[name], tensor)
        assert torch.equal(loaded.sums[name], both.sums[name])


def test_history_spares_the_keys_of_earlier_edits(exact, requests):
    moved = {}
    for history in (False, True):
        editor = UltraEdit(
            exact, layers=[exact.layer("mlp_out", 0)], lr=0.01, ridge=1e-6, history=history
        )
        first = editor.edit(requests[:2])
        [layer] = editor.layers
        keys = editor.read(requests[:2]).factors[layer].keys
        both = editor.edit(requests[2:], first)
        change = both.updates[layer].dense()[0] - first.updates[layer].dense()[0]
        moved[history] = float((keys @ change).norm())
    assert moved[True] < 0.05 * moved[False]


def test_turns_and_rounds_are_edits_one_after_another(exact, requests):
    settings = {"layers": [exact.layer("mlp_out", 0)], "tokens": "all", "lr": 0.01}
    one = UltraEdit(exact, **settings)
    by_turns = UltraEdit(exact, **settings, turn=4).edit(requests)
    assert_same(by_turns, one.edit(requests[4:], one.edit(requests[:4])))
    twice = UltraEdit(exact, **settings, rounds=2).edit(requests)
    assert_same(twice, one.edit(requests, one.edit(requests)))  # not all was true after one


def test_a_second_round_does_not_spare_what_the_first_wrote(exact, requests):
    settings = {"layers": [exact.layer("mlp_out", 0)], "tokens": "all", "lr": 0.01, "rounds": 2}
    spared, free = (UltraEdit(exact, **settings, history=h).edit(requests) for h in (True, False))
    assert_same(spared, free)
    [layer] = settings["layers"]
    assert spared.past_keys[layer].shape[1] == rows_of(exact, settings, requests)


def test_rounds_make_requests_true(language_model, requests):
    layers = [language_model.layer("mlp_out", block) for block in range(language_model.blocks)]
    true = {}
    for rounds in (1, 20):
        editor = UltraEdit(language_model, layers=layers, tokens="all", lr=0.02, rounds=rounds)
        true[rounds] = sum(says(editor.edit(requests).edited(language_model), requests))
    assert true[20] >= len(requests) - 1 > true[1]


def test_a_single_row_needs_a_pool(exact):
    request = Request("The capital of Japan is", "Japan", "Paris")
    editor = UltraEdit(exact, layers=[exact.layer("mlp_out", 0)])
    if len(editor.read([request]).factors[editor.layers[0]].keys) == 1:
        with pytest.raises(ValueError, match="warm up with a pool"):
            editor.edit([request])


def test_a_warm_up_of_nothing_is_refused(exact, requests):
    pool = SimpleNamespace(records=(), fingerprint="empty")
    with pytest.raises(ValueError, match="no request to warm up with"):
        UltraEdit(exact, pool=pool).edit(requests)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transform": "whole"}, "transform"),
        ({"transform": "whiten", "variance": "chunks"}, "exact"),
        ({"ridge": 0.0}, "ridge"),
        ({"lr": float("inf")}, "lr"),
        ({"turn": 0}, "turn"),
    ],
)
def test_settings_that_make_no_sense(exact, settings, message):
    with pytest.raises(ValueError, match=message):
        UltraEdit(exact, **settings)


def test_history_is_the_same_in_keys_and_in_products(exact, requests):
    """Of few rows an edit keeps the keys, of many what these come to."""
    settings = {"layers": [exact.layer("mlp_out", 0)], "tokens": "all", "lr": 0.01}
    editor = UltraEdit(exact, **settings, history=True)
    [layer] = editor.layers
    first = editor.edit(requests)
    keys = editor.read(requests).factors[layer].keys
    width = keys.shape[1]
    assert (layer in first.past_keys) == (len(keys) <= width)
    many = editor.edit([*requests, *requests])
    assert f"{layer}.spared" in many.sums and not many.past_keys
    twice = torch.cat([keys, keys])
    torch.testing.assert_close(
        many.sums[f"{layer}.spared"][0], twice.T @ twice, rtol=1e-9, atol=1e-12
    )
