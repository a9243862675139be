"""Losses taken part by part have the gradient of one graph, for every kind of hypernetwork."""

import numpy as np
import pytest
import torch

from editors.meta_learning.decoupled import decoupled
from editors.meta_learning.outer_loss import outer_losses, outer_parts, shares
from editors.meta_learning.training import HypernetworkTraining, questions


def asked(editor, records, joint):
    drawn = questions(
        records, HypernetworkTraining(locality_probes=2), np.random.default_rng(0), joint
    )
    owner = [record // joint for record in drawn.record]
    prompts, targets = zip(*((p.prompt, p.target) for p in drawn.probes), strict=True)
    return editor.language_model.encode(prompts, targets), owner, drawn.outer


def gradients(editor, loss):
    editor.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in editor.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("joint", [1, 3, 7])
@pytest.mark.parametrize("method", ["mend", "malmen", "ke"])
def test_parts_give_the_gradient_of_one_graph(method, joint, exact, records, request):
    settings = {"objective": "constrained"} if method == "ke" else {"edit_lr": 0.1}
    if method == "malmen":
        settings |= {"rows_per_pass": 3, "tokens": "all"}
    editor = request.getfixturevalue(method)(exact, questions_per_batch=4, **settings).double()
    requests = [record.requests[0] for record in records]
    editor.collect(requests)
    batch, owner, outer = asked(editor, records, joint)
    rows = editor.factors(requests)

    def edit():
        groups = [requests[at : at + joint] for at in range(0, len(requests), joint)]
        return editor._of_batch(groups, rows, together=joint > 1)

    assert len(edit()) == -(-len(records) // joint)
    positions = editor.training_settings.kl_positions
    plain = outer_losses(exact, edit(), batch, owner, outer, positions, smoothing=smooth(editor))
    expected = gradients(editor, editor.objective(*plain))
    weights = shares(torch.tensor(owner), outer, len(edit()))
    parts = outer_parts(exact, batch, owner, outer, weights, editor.training_settings)
    assert len(parts) > 5
    edit_loss, locality_loss, loss = decoupled(edit(), parts, editor.objective)
    found = gradients(editor, loss)
    torch.testing.assert_close((edit_loss, locality_loss), tuple(x.detach() for x in plain))
    torch.testing.assert_close(loss, editor.objective(*plain))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.any() or name.endswith((".b", ".scale")), name
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11)


def smooth(editor):
    return editor.training_settings.smoothing


def test_a_part_that_is_not_finite_spoils_the_whole_gradient(exact, records, malmen):
    editor = malmen(exact).double()
    requests = [record.requests[0] for record in records]
    editor.collect(requests)

    def part(edit):
        first = next(iter(edit.updates.values())).dense()
        return first.sum(), first.square().sum() * torch.inf

    edit = editor.propose(requests, editor.factors(requests), joint=True)
    _, _, loss = decoupled(edit, [part], torch.add)
    assert not loss.isfinite()
    assert not gradients(editor, loss)["eta"].isfinite().all()
