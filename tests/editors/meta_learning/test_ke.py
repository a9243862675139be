"""What KE does by its definition, whatever it has learned."""

import copy

import pytest
import torch

from datamodules.records import Request
from editors.meta_learning.rounds import failing
from models import LanguageModel


def scattered(editor, seed=0, size=1.0):
    """The editor with gates that differ a lot from request to request."""
    generator = torch.manual_seed(seed)
    with torch.no_grad():
        for weight in (*editor.conditioner.parameters(), *editor.gates.parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(size * noise.to(weight.dtype))
    return editor


def descending(editor, edit_lr):
    """The editor with gates that make a step of gradient descent."""
    for gates in editor.gates:
        columns, rows, *_ = gates.sizes
        with torch.no_grad():
            gates.layer2.parametrizations.weight.original0.zero_()
            gates.layer2.bias.zero_()
            gates.layer2.bias[:columns] = -edit_lr * 2 * rows / editor.max_scale
    return editor


def gradients(model, layers, request):
    """Dense gradients ``[d_in, d_out]`` of the mean target loss, by autograd."""
    weights = [model.module(layer).weight for layer in layers]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        logits, targets, _ = model.target_logits(model.encode([request.prompt], [request.target]))
        loss = torch.nn.functional.cross_entropy(logits, targets)
        return torch.autograd.grad(loss, weights)
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def dense(edit):
    return {layer: update.dense() for layer, update in edit.updates.items()}


def assert_same(ours, theirs, tolerance=1e-10):
    for layer, update in dense(theirs).items():
        torch.testing.assert_close(dense(ours)[layer], update, rtol=tolerance, atol=tolerance)


# the rule


@pytest.mark.parametrize("softmax", ["outputs", "inputs"])
def test_gates_on_factors_are_gates_on_the_whole_gradient(exact, ke, requests, softmax):
    editor = scattered(ke(exact, softmax=softmax, max_scale=3.0).double())
    edit = editor.edit_each(requests)
    with torch.no_grad():
        conditions = editor.conditioner(editor.texts(requests))
    for number, request in enumerate(requests):
        whole = gradients(exact, editor.layers, request)
        for layer, gates, gradient in zip(editor.layers, editor.gates, whole, strict=True):
            with torch.no_grad():
                vector = gates.layer2(gates.layer1(conditions[number]).tanh())
            a_col, a_row, b_col, b_row, e = vector.split(gates.sizes)
            if softmax == "outputs":
                gradient = gradient.T  # rows are outputs
            alpha, beta = (
                torch.outer(row.softmax(0), c) for row, c in ((a_row, a_col), (b_row, b_col))
            )
            expected = 3.0 * e.sigmoid() * (alpha * gradient + beta)
            expected = expected.T if softmax == "outputs" else expected
            update = edit.updates[layer].dense()[number]
            torch.testing.assert_close(update, expected, rtol=0, atol=1e-12)
            assert update.abs().max() > 1e-3


def test_equal_gates_make_a_step_of_gradient_descent(exact, ke, requests):
    editor = descending(ke(exact, max_scale=7.0).double(), 0.25)
    edit = editor.edit(requests[:1])
    for layer, gradient in zip(
        editor.layers, gradients(exact, editor.layers, requests[0]), strict=True
    ):
        torch.testing.assert_close(dense(edit)[layer][0], -0.25 * gradient, rtol=0, atol=1e-12)


def test_gates_of_one_side_share_one_and_a_closed_one_makes_no_edit(exact, ke, requests):
    editor = scattered(ke(exact).double())
    a_row, _, b_row, _, share = editor.gates[0](editor.conditioner(editor.texts(requests)))
    for row in (a_row, b_row):
        torch.testing.assert_close(row.sum(1), torch.ones(7).double())
    assert share.min() > 0 and share.max() < 1
    for gates in editor.gates:
        gates.layer2.bias.data[-1] = -1e6
    assert not any(update.any() for update in dense(editor.edit_each(requests)).values())


def test_an_update_has_one_factor_more_than_its_request_has_rows(exact, ke, requests):
    editor = scattered(ke(exact).double())
    edit, factors = editor.edit_each(requests[:1]), editor.factors(requests[:1])
    for layer, rows in factors.items():
        assert edit.updates[layer].left.shape[2] == len(rows.keys) + 1


def test_a_joint_edit_is_the_sum_of_the_single_ones(exact, ke, requests):
    editor = scattered(ke(exact).double())
    each, joint = editor.edit_each(requests), editor.edit(requests)
    assert len(each) == len(requests) and len(joint) == 1
    for layer, update in dense(each).items():
        torch.testing.assert_close(dense(joint)[layer][0], update.sum(0), rtol=0, atol=1e-10)


def test_edits_do_not_depend_on_their_company_or_order(exact, ke, requests):
    editor = scattered(ke(exact, edits_per_batch=3).double())
    together, backwards = editor.edit_each(requests), editor.edit_each(requests[::-1])
    for number, request in enumerate(requests):
        assert_same(together.select([number]), editor.edit_each([request]))
        assert_same(together.select([number]), backwards.select([len(requests) - 1 - number]))


# what it reads


def test_it_reads_the_model_s_answer_the_target_and_the_prompt(exact, ke, requests):
    editor = ke(exact, answer_tokens=3)
    read = exact.tokenizer.batch_decode(editor.texts(requests[:1]).input_ids)
    [said] = exact.generate([requests[0].prompt], max_new_tokens=3)
    assert read == [f"{said.strip()} >> Japan || Gothenburg is in"]


def test_padding_and_company_do_not_change_what_is_read(exact, ke, requests):
    editor = scattered(ke(exact).double())
    longer = Request(
        "After many years Marie Curie came back and was a citizen of", "Marie", "Japan"
    )
    with torch.no_grad():
        together = editor.conditioner(editor.texts([*requests, longer]))
        for number, request in enumerate(requests):
            alone = editor.conditioner(editor.texts([request]))
            torch.testing.assert_close(together[number], alone[0], rtol=0, atol=1e-12)
    assert together.std(0).min() > 1e-3


def test_its_embeddings_start_from_the_model_s_but_are_its_own(language_model, ke):
    embeddings = language_model.model.get_input_embeddings().weight
    editor = ke(language_model)
    assert torch.equal(editor.conditioner.embedding.weight, embeddings)
    before = embeddings.clone()
    editor.conditioner.embedding.weight.data.zero_()
    assert torch.equal(embeddings, before)


@pytest.mark.parametrize("words", [46, 49])
def test_a_request_too_long_to_be_read_is_refused(language_model, ke, words):
    """Too long with the answer and the target in front of it, or for the answer already."""
    prompt = "Lagos is a city in " * words
    size = language_model.encode([prompt.strip()], None).input_ids.shape[1]
    assert 200 < size + 2 < language_model.max_length
    request = Request(prompt.strip(), "Lagos", "Japan")
    with pytest.raises(ValueError, match=r"text that ke reads of a request: .* at most 256"):
        ke(language_model, answer_tokens=20).edit([request])


# one edit after another


def test_an_edit_after_another_starts_from_the_edited_model(exact, ke, requests):
    editor = scattered(ke(exact, max_scale=5.0).double(), size=0.5)
    first = editor.edit(requests[:1])
    both = editor.edit(requests[1:2], after=first)
    merged = LanguageModel(copy.deepcopy(exact.model), exact.tokenizer)
    with torch.no_grad():
        for layer, update in dense(first).items():
            merged.module(layer).weight.add_(update[0])
    alone = ke(merged, max_scale=5.0).double()
    alone.load_state_dict(editor.state_dict())
    assert not torch.equal(
        alone.texts(requests[1:2]).input_ids, editor.texts(requests[1:2]).input_ids
    )
    second = dense(alone.edit(requests[1:2]))
    for layer, update in dense(both).items():
        expected = dense(first)[layer] + second[layer]
        torch.testing.assert_close(update, expected, rtol=1e-8, atol=1e-10)


def test_what_failed_is_edited_again_on_the_model_as_edited(exact, ke, requests):
    once = descending(ke(exact).double(), 0.05)
    often = descending(ke(exact, rounds=5).double(), 0.05)
    often.load_state_dict(once.state_dict())
    first, last = once.edit_each(requests), often.edit_each(requests)
    failed = failing(exact, first, requests)
    assert 0 < len(failed) < len(requests)
    assert len(failing(exact, last, requests)) < len(failed)
    for number, request in enumerate(requests):
        expected = first.select([number])
        for _ in range(4):
            if failing(exact, expected, [request]):
                expected = once.edit([request], after=expected)
        assert_same(last.select([number]), expected)


def test_requests_edited_together_are_edited_again_where_they_fail(exact, ke, requests):
    once = descending(ke(exact).double(), 0.03)
    often = descending(ke(exact, rounds=5).double(), 0.03)
    often.load_state_dict(once.state_dict())
    expected, failures = once.edit(requests), []
    for _ in range(4):
        failed = failing(exact, expected, requests)
        failures.append(len(failed))
        expected = once.edit([requests[n] for n in failed], after=expected)
    assert failures[0] > failures[-1] > 0
    assert_same(often.edit(requests), expected)


# promises


def test_what_cannot_be_is_refused(language_model, ke):
    with pytest.raises(ValueError, match="softmax is 'both', expected one of outputs, inputs"):
        ke(language_model, softmax="both")
    with pytest.raises(ValueError, match="objective is 'free'"):
        ke(language_model, objective="free")
    with pytest.raises(ValueError, match="optimiser is 'sgd', expected one of adam, rmsprop"):
        ke(language_model, optimiser="sgd")
    with pytest.raises(ValueError, match="smoothing must be a share from 0 to 1, got 2"):
        ke(language_model, smoothing=2)
    with pytest.raises(ValueError, match=r"margin_floor must be from 0 to margin=0\.1, got 1"):
        ke(language_model, margin=0.1, margin_floor=1)
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        ke(language_model, rounds=0)
    with pytest.raises(ValueError, match="no requests"):
        ke(language_model).edit_each([])
