"""What MALMEN does by its definition, whatever it has learned."""

import pytest
import torch

from editors.meta_learning.malmen import Malmen
from editors.meta_learning.rounds import failing


def scattered(editor, seed=0):
    """The editor with random networks, steps and ridges."""
    generator = torch.manual_seed(seed)
    with torch.no_grad():
        for weight in (*editor.transforms.parameters(), editor.theta):
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator).to(weight.dtype))
    return editor


def made(malmen, language_model, requests, **settings):
    editor = scattered(malmen(language_model, **settings).double())
    editor.collect(requests)
    return editor


def dense(edit):
    return {layer: update.dense() for layer, update in edit.updates.items()}


def assert_same(ours, theirs, tolerance=1e-10):
    for layer, update in dense(theirs).items():
        torch.testing.assert_close(dense(ours)[layer], update, rtol=tolerance, atol=tolerance)


# the rule


@pytest.mark.parametrize("tokens", ["all", "target"])
def test_a_joint_update_is_the_ridge_regression_on_all_rows(exact, malmen, requests, tokens):
    layers = [exact.layer("mlp_in", 0), exact.layer("mlp_out", 1)]
    editor = made(malmen, exact, requests, tokens=tokens, layers=layers)
    edit, factors = editor.edit(requests), editor.factors(requests)
    assert len(edit) == 1
    more_rows = set()
    for layer, eta, theta in zip(editor.layers, editor.eta, editor.theta, strict=True):
        rows = factors[layer]
        more_rows.add(len(rows.keys) > rows.keys.shape[1])  # which of two systems is solved
        with torch.no_grad():
            keys, deltas = editor.transforms(layer, rows.keys, rows.deltas)
            changes = torch.stack(  # a step -eta k~ g~^T at the row's own key
                [
                    k @ (-eta * torch.outer(pseudo, g))
                    for k, pseudo, g in zip(rows.keys, keys, deltas, strict=True)
                ]
            )
            gram = rows.keys.T @ rows.keys + theta.exp() * torch.eye(len(rows.keys.T)).double()
            expected = torch.linalg.solve(gram, rows.keys.T @ changes)
        torch.testing.assert_close(edit.updates[layer].dense()[0], expected, rtol=1e-9, atol=1e-12)
    assert more_rows == {"all": {True, False}, "target": {False}}[tokens]


def test_each_request_has_a_regression_of_its_own(exact, malmen, requests):
    editor = made(malmen, exact, requests, edits_per_batch=3)
    each = editor.edit_each(requests)
    assert len(each) == len(requests)
    for number, request in enumerate(requests):
        assert_same(each.select([number]), editor.edit([request]))
    total = {layer: update.sum(0) for layer, update in dense(each).items()}
    joint = dense(editor.edit(requests))
    assert all(
        (joint[layer][0] - update).norm() > 0.1 * update.norm() for layer, update in total.items()
    )


def test_the_order_of_requests_does_not_matter(exact, malmen, requests):
    editor = made(malmen, exact, requests)
    assert_same(editor.edit(requests), editor.edit(requests[::-1]))


@pytest.mark.parametrize("rows_per_pass", [1, 5, 1000])
def test_rows_may_go_through_the_network_in_any_number(exact, malmen, requests, rows_per_pass):
    settings = {"tokens": "all"}
    whole = made(malmen, exact, requests, **settings)
    parts = made(malmen, exact, requests, rows_per_pass=rows_per_pass, **settings)
    assert_same(parts.edit(requests), whole.edit(requests))
    factors = whole.factors(requests)
    gradients = []
    for editor in (whole, parts):
        edit = editor.propose(requests, factors, joint=True)
        sum(update.square().sum() for update in dense(edit).values()).backward()
        gradients.append({name: p.grad for name, p in editor.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_graphs_of_many_rows_are_not_kept(exact, malmen, requests):
    kept = []
    for rows_per_pass in (4, 1000):
        editor = made(malmen, exact, requests, tokens="all", rows_per_pass=rows_per_pass)
        rows, numbers = editor.factors(requests), 0

        def count(tensor):
            nonlocal numbers
            numbers += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            editor.changes(editor.layers[0], rows[editor.layers[0]])
        kept.append(numbers)
    assert kept[0] < kept[1] / 5


def test_an_edit_after_another_starts_from_the_edited_model(exact, malmen, requests):
    editor = made(malmen, exact, requests, edit_lr=0.1)
    first = editor.edit(requests[:3])
    both = editor.edit(requests[3:], after=first)
    factors = editor.factors(requests[3:], first)
    assert_same(both, first.plus(editor.propose(requests[3:], factors, joint=True)))
    fresh = editor.edit(requests[3:])
    for layer, update in dense(first.plus(fresh)).items():
        if layer != editor.layers[0]:
            assert (dense(both)[layer] - update).norm() > 1e-6 * update.norm()


def test_a_further_round_is_for_all_requests_as_long_as_one_fails(exact, malmen, requests):
    settings = {"edit_lr": 0.02, "tokens": "all"}
    once = malmen(exact, **settings).double()
    often = malmen(exact, rounds=6, **settings).double()
    for editor in (once, often):
        editor.collect(requests)
    expected, failures = once.edit(requests), []
    for _ in range(5):
        failures.append(len(failing(exact, expected, requests)))
        if failures[-1]:
            expected = once.edit(requests, after=expected)
    assert failures[0] > failures[-1]
    assert_same(often.edit(requests), expected)


def test_the_default_layers_are_the_outputs_of_the_last_six_blocks(tiny, malmen):
    assert malmen(tiny("gpt2", num_hidden_layers=7)).layers == [
        f"transformer.h.{i}.mlp.c_proj" for i in range(1, 7)
    ]
    assert len(malmen(tiny("gpt2")).layers) == 3


def test_scale_and_shift_are_behind_the_nonlinearity(language_model, malmen, requests):
    editor = malmen(language_model)
    editor.collect(requests)
    transform = editor.transforms.of(editor.layers[0])
    keys, deltas = torch.randn(5, 64), torch.randn(5, 32)
    with torch.no_grad():
        before = torch.cat(transform(keys, deltas, 1), 1)
        transform.nets["both"][1].shift[1] -= 1
        after = torch.cat(transform(keys, deltas, 1), 1)
    torch.testing.assert_close(after, before - 1)


# promises


def test_what_cannot_be_is_refused(language_model, malmen, requests):
    with pytest.raises(ValueError, match=r"ridge must be more than 0, got 0"):
        malmen(language_model, ridge=0)
    with pytest.raises(ValueError, match=r"rows_per_pass must be at least 1, got 0"):
        malmen(language_model, rows_per_pass=0)
    for sizes in (8, [], [1, 0], "all"):
        with pytest.raises(ValueError, match="joint_edits must be a list of numbers from 1, got"):
            malmen(language_model, joint_edits=sizes)
    with pytest.raises(ValueError, match="questions_per_batch must be at least 1, got 0"):
        malmen(language_model, questions_per_batch=0)
    with pytest.raises(ValueError, match="no requests"):
        malmen(language_model).edit([])
    with pytest.raises(ValueError, match="train the editor, load a checkpoint"):
        malmen(language_model).edit(requests)


def test_a_checkpoint_makes_the_same_edits(
    language_model, records, requests, malmen, trainer, data, tmp_path
):
    editor = malmen(language_model, joint_edits=[1, 4])
    fit = trainer(max_steps=2)
    fit.fit(editor, data(records))
    fit.save_checkpoint(tmp_path / "editor.ckpt")
    loaded = Malmen.load_from_checkpoint(
        tmp_path / "editor.ckpt", language_model=language_model, weights_only=True
    )
    assert_same(loaded.edit(requests), editor.edit(requests), tolerance=0)
    assert_same(loaded.edit_each(requests), editor.edit_each(requests), tolerance=0)
