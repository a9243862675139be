"""Training on streams and of several rounds: what is judged, and where its gradient goes."""

import numpy as np
import pytest
import torch

from editors.meta_learning.decoupled import constant, decoupled
from editors.meta_learning.least_squares import least_squares
from editors.meta_learning.outer_loss import outer_losses, outer_parts, shares
from editors.meta_learning.training import HypernetworkTraining, questions
from editors.meta_learning.turns import turns

STREAM = {"stream": True, "joint_edits": [2]}


def test_without_a_stream_all_groups_take_one_turn():
    group = torch.tensor([0, 1, 2, 0, 2])
    [turn] = turns(group, 3, 3, HypernetworkTraining())
    assert turn.groups == slice(0, 3)
    assert torch.equal(turn.owner, group) and torch.equal(turn.rows, torch.arange(5))
    assert torch.equal(turn.weights, shares(group, 3, 3))


def test_an_edit_of_a_stream_is_judged_with_those_before_it():
    group = torch.tensor([0, 1, 2, 0, 1, 1])  # three outer questions, one probe, two probes
    settings = HypernetworkTraining(stream=True, look_back=1, fading=0.5)
    first, second, third = turns(group, 3, 3, settings)
    assert [turn.groups for turn in (first, second, third)] == [
        slice(0, 1), slice(1, 2), slice(2, 3)
    ]  # fmt: skip
    assert first.rows.tolist() == [0, 3] and first.weights.tolist() == [1, 1]
    assert second.rows.tolist() == [0, 1, 3, 4, 5] and not second.owner.any()
    expected = torch.tensor([1 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3]).double()  # 1 to 2, by age
    torch.testing.assert_close(second.weights, expected)
    assert third.rows.tolist() == [1, 2, 4, 5]


def test_a_sparing_update_leaves_past_keys_where_they_are():
    keys, past = torch.randn(1, 3, 8).double(), 100 * torch.randn(1, 4, 8).double()
    changes, ridge = torch.randn(1, 3, 5).double(), torch.tensor(1e-3).double()
    update = least_squares(keys, changes, ridge, past).dense()
    stacked, target = torch.cat([past, keys], 1)[0], torch.cat([torch.zeros(4, 5), changes[0]])
    gram = stacked.T @ stacked + ridge * torch.eye(8)
    torch.testing.assert_close(update[0], torch.linalg.solve(gram, stacked.T @ target.double()))
    free = least_squares(keys, changes, ridge).dense()
    assert (past @ update).norm() < 1e-3 * (past @ free).norm()


def test_edits_that_remember_spare_the_keys_of_those_before(exact, malmen, requests):
    settings = {"history": True, "ridge": 1e-6, "tokens": "all"}
    editor = malmen(exact, **settings).double()
    editor.collect(requests)
    forgetful = malmen(exact, **settings | {"history": False}).double()
    forgetful.load_state_dict(editor.state_dict())
    first = editor.edit(requests[:1])
    keys = first.past_keys
    for layer, rows in editor.factors(requests[:1], first).items():
        torch.testing.assert_close(keys[layer][0], rows.keys)
    both, without = (e.edit(requests[1:3], first) for e in (editor, forgetful))
    moved = {True: 0.0, False: 0.0}
    for layer, update in first.updates.items():
        for spared, edit in ((True, both), (False, without)):
            change = edit.updates[layer].dense() - update.dense()
            moved[spared] += float((keys[layer] @ change).norm())
        assert both.past_keys[layer].shape[1] > keys[layer].shape[1]
        assert torch.equal(without.past_keys[layer], keys[layer])
    assert moved[True] < 0.01 * moved[False]


def test_each_of_several_edits_remembers_its_own_keys(exact, malmen, requests):
    editor = malmen(exact, history=True).double()
    editor.collect(requests)
    each = editor.edit_each(requests[:3])
    alone = editor.edit_each(requests[1:2])
    for layer, keys in alone.past_keys.items():
        ours = each.past_keys[layer][1]
        torch.testing.assert_close(ours[ours.any(1)], keys[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("history", [False, True])
def test_a_turn_has_the_gradient_of_one_graph(exact, malmen, records, history):
    """The edit on top of another, of two rounds, against the losses of the sum in one graph."""
    editor = malmen(exact, history=history, passes=2, tokens="all", questions_per_batch=3).double()
    requests = [record.requests[0] for record in records]
    editor.collect(requests)
    with torch.no_grad():
        now = editor._stands([requests[:2]], editor._edits([requests[:2]], None, True), None)
    asked = questions(records[2:5], HypernetworkTraining(), np.random.default_rng(0), 3)
    batch = exact.encode([p.prompt for p in asked.probes], [p.target for p in asked.probes])
    owner = torch.zeros(len(asked.probes), dtype=torch.long)
    weights = shares(owner, asked.outer, 1)
    edit = editor._edits([requests[2:5]], now, together=True)
    plain = outer_losses(exact, now.plus(edit), batch, owner, asked.outer, "all")
    editor.objective(*plain).backward()
    expected = {n: p.grad.clone() for n, p in editor.named_parameters() if p.grad is not None}
    editor.zero_grad()
    edit = editor._edits([requests[2:5]], now, together=True)
    parts = outer_parts(exact, batch, owner, asked.outer, weights, editor.training_settings, now)
    *_, loss = decoupled(edit, parts, editor.objective)
    torch.testing.assert_close(loss, editor.objective(*plain))
    loss.backward()
    for name, gradient in expected.items():
        found = dict(editor.named_parameters())[name].grad
        torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-11)
    assert expected["eta"].all()


def test_rounds_of_training_are_those_of_editing(exact, malmen, requests):
    """Two passes are two rounds of a joint edit that has failed once."""
    editor = malmen(exact, passes=2, rounds=2, tokens="all", edit_lr=1e-6).double()
    editor.collect(requests)
    with torch.no_grad():
        [trained, made] = editor._edits([requests], None, True), editor.edit(requests)
    for layer, update in made.updates.items():
        ours = trained.updates[layer].dense()
        torch.testing.assert_close(ours, update.dense(), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("method", ["mend", "malmen", "ke"])
@pytest.mark.parametrize("settings", [STREAM, {"passes": 2}, {**STREAM, "passes": 2}])
def test_training(method, settings, language_model, records, trainer, data, request):
    editor = request.getfixturevalue(method)(
        language_model, **settings, locality_probes=0, norm_weight=0.1
    )
    before = {name: weight.clone() for name, weight in editor.named_parameters()}
    trainer(max_steps=2, num_sanity_val_steps=0).fit(editor, data(records, 4))
    assert editor.skipped_steps == 0
    assert any(not torch.equal(p, before[n]) for n, p in editor.named_parameters())


def test_a_norm_that_weighs_shortens_updates(exact, malmen, records):
    requests = [record.requests[0] for record in records]
    editor = malmen(exact, tokens="all").double()
    editor.collect(requests)
    edit = editor.propose(requests, editor.factors(requests), joint=True)
    size = sum(update.squared().sum() for update in edit.updates.values())
    torch.testing.assert_close(size, sum(n.square().sum() for n in edit.norms().values()))
    size.backward()
    assert (editor.eta.grad > 0).all()  # longer steps, longer updates
    assert not any(update.squared().requires_grad for update in constant(edit).updates.values())
