"""What holds for MEMIT and all its successors, and what is each one's own."""

import logging

import pytest
import torch
from by_hand import moment, written
from samples import AT_THE_END, CONTEXTS, MOMENTS, REQUESTS, bundled, in_float64

from datamodules.records import Request
from editors.locate_then_edit import keys as reading
from editors.locate_then_edit.alphaedit import AlphaEdit
from editors.locate_then_edit.emmet import Emmet
from editors.locate_then_edit.limits import Limit
from editors.locate_then_edit.memit import Memit
from editors.locate_then_edit.pmet import Pmet
from editors.locate_then_edit.statistics.coordinates import null_space
from edits.loading import load
from edits.updates import Dense
from edits.weights import WeightEdit

OWN = {
    Memit: {"covariance_weight": 0.1},
    Pmet: {"covariance_weight": 0.1, "kl_stop": None},
    Emmet: {},
    AlphaEdit: {"threshold": 0.05, "ridge": 0.01},
}
METHODS = pytest.mark.parametrize("cls", OWN)


def editor(cls, lm, **arguments):
    """Two layers, and room for the long change that a random model needs."""
    given = {"moments": MOMENTS, "contexts": CONTEXTS, "layers": [0, 1], "steps": 8, "lr": 0.1}
    given |= {"clamp": 50.0, "weight_decay": 0.0, "kl_factor": 0.0625}
    given |= next(own for method, own in OWN.items() if issubclass(cls, method))
    return cls(lm, **bundled({**given, **arguments}))


def log_probs(model, requests, **rows) -> torch.Tensor:
    answers = model.score([r.prompt for r in requests], [r.target for r in requests], **rows)
    return torch.stack([answer.sum() for answer in answers.log_probs])


# each method's rule, as its paper writes it: of C, keys and past keys one a row


def least_squares(c, keys, past):
    return torch.linalg.inv(0.1 * c + keys.mT @ keys) @ keys.mT


def equality(c, keys, past):
    inverse = torch.linalg.inv(c)
    return inverse @ keys.mT @ torch.linalg.inv(keys @ inverse @ keys.mT)


def projection(c, keys, past):
    values, vectors = torch.linalg.eigh(c)
    p = vectors[:, values < 0.05] @ vectors[:, values < 0.05].mT
    system = p @ (keys.mT @ keys + past.mT @ past) + 0.01 * torch.eye(len(c)).to(c)
    return torch.linalg.solve(system, p @ keys.mT)


RULES = {Memit: least_squares, Pmet: least_squares, Emmet: equality, AlphaEdit: projection}


@METHODS
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_a_joint_edit_is_that_of_weights_written_layer_by_layer(tiny, family, cls):
    lm = in_float64(tiny(family))
    own = editor(cls, lm)
    edit = own.edit(REQUESTS)

    def share(left):
        return left**-0.5 if cls is Pmet else 1 / left

    merged, expected, _ = written(own, REQUESTS, RULES[cls], share)
    for layer, update in edit.updates.items():
        got = update.dense()[0]
        assert (got - expected[layer]).norm() < 1e-4 * expected[layer].norm()  # C sums float32
    torch.testing.assert_close(
        log_probs(edit.edited(lm), REQUESTS), log_probs(merged, REQUESTS), rtol=1e-3, atol=1e-3
    )


@METHODS
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_edits_made_together_are_those_made_alone(tiny, family, cls):
    own = editor(cls, in_float64(tiny(family)), rows_per_batch=4)
    together = own.edit_each(REQUESTS)
    assert len(together) == 3 and together.editor == cls.__name__.lower()
    for i, request in enumerate(REQUESTS):
        for alone in (own.edit_each([request]), own.edit([request])):
            for layer, update in together.updates.items():
                got, expected = update.dense()[i], alone.updates[layer].dense()[0]
                assert (got - expected).norm() < 1e-5 * expected.norm()


@METHODS
def test_edits_make_their_targets_likely(tiny, cls):
    for family in ("gpt2", "opt", "llama"):
        lm = tiny(family)
        edit = editor(cls, lm, steps=20).edit_each(AT_THE_END)
        before = log_probs(lm, AT_THE_END)
        after = log_probs(edit.edited(lm), AT_THE_END, rows=[0, 1, 2])
        assert (after > before + 0.5).all(), family


@METHODS
def test_any_number_of_edits_takes_as_many_passes_as_layers_besides_the_search(
    language_model, cls, monkeypatch
):
    """And one more where the edit carries its keys."""
    own = editor(cls, language_model)
    own.prepare()
    passes, calls = [], []
    values = cls.values

    def searched(self, *args):
        try:
            return values(self, *args)
        finally:
            calls.clear()

    monkeypatch.setattr(cls, "values", searched)
    monkeypatch.setattr(reading, "A_PASS", 1000)  # all texts in one pass, whatever their lengths
    lowest = language_model.module(language_model.block(0))
    hook = lowest.register_forward_hook(lambda *_: calls.append(1))
    for count in (1, 3):
        own.edit_each(REQUESTS[:count])
        passes.append(len(calls))
    hook.remove()
    assert passes == [2 + own.remembers] * 2


@METHODS
def test_groups_of_requests_made_together_are_those_made_alone(language_model, cls):
    own = editor(cls, in_float64(language_model), same_key=0.99)
    groups = [REQUESTS[:2], REQUESTS[1:]]
    together = own.make(groups)
    assert len(together) == 2
    for i, group in enumerate(groups):
        for layer, update in own.edit(group).updates.items():
            got, expected = together.updates[layer].dense()[i], update.dense()[0]
            assert (got - expected).norm() < 1e-5 * expected.norm()


def test_values_and_updates_can_be_changed_before_they_are_written(language_model):
    lm = in_float64(language_model)

    class Changed(Memit):
        def target(self, values, requests):
            return values + len(requests)

    class Doubled(Limit):
        def written(self, update, weight, before):
            assert not before.any()
            assert torch.equal(weight, lm.weight(layer))
            return Dense(2 * update.dense())

    plain = editor(Memit, lm, layers=[1])
    changed = editor(Changed, lm, layers=[1], limit=Doubled())
    (layer,) = plain.layers
    update, other = (one.edit(REQUESTS).updates[layer] for one in (plain, changed))
    residuals = update.right[0] + len(REQUESTS)
    torch.testing.assert_close(other.dense()[0], 2 * update.left[0] @ residuals)


# EMMET


def test_emmet_meets_every_request_s_residual_in_its_only_layer(language_model):
    lm = in_float64(language_model)
    emmet = editor(Emmet, lm, layers=[1])
    edit = emmet.edit(REQUESTS)
    (layer,) = emmet.layers
    subjects = emmet.subjects(REQUESTS)
    keys = emmet.activations(subjects, [layer])[layer][0]
    keys = keys[:, 0] / 2 + keys[:, 1:].mean(1) / 2
    changed = keys @ edit.updates[layer].dense()[0]
    site = emmet.sites()[0]
    present = emmet.activations(subjects, [site])[site][1][:, 0]
    missing = emmet.values(REQUESTS, 1) - present
    torch.testing.assert_close(changed, missing, rtol=1e-8, atol=1e-8)


def test_emmet_with_epsilon_is_memit_and_says_so(language_model, caplog):
    with caplog.at_level(logging.WARNING):
        relaxed = editor(Emmet, language_model, epsilon=3.0)
    assert "emmet with epsilon=3 has no equality constraints" in caplog.text
    edit, memit = relaxed.edit(REQUESTS), editor(Memit, language_model, covariance_weight=3.0)
    for layer, update in memit.edit(REQUESTS).updates.items():
        torch.testing.assert_close(edit.updates[layer].dense(), update.dense())
    exact = editor(Emmet, language_model).edit(REQUESTS[:1])
    for layer, update in relaxed.edit(REQUESTS[:1]).updates.items():  # one request: no epsilon
        torch.testing.assert_close(update.dense(), exact.updates[layer].dense())


def test_emmet_refuses_more_requests_than_it_can_meet(language_model):
    requests = [Request(f"{i} is the size of Sweden", "Sweden", "yen") for i in range(65)]
    with pytest.raises(ValueError, match=r"65 requests cannot be met exactly by .* has 64 inputs"):
        editor(Emmet, language_model, steps=1).edit(requests)
    assert len(editor(Emmet, language_model, epsilon=0.1, steps=1).edit(requests)) == 1


def test_emmet_refuses_one_subject_twice(language_model):
    requests = [Request("Sweden is in", "Sweden", "Paris"), Request("Sweden has", "Sweden", "yen")]
    emmet = editor(Emmet, language_model, steps=2)
    with pytest.raises(ValueError, match="2 keys are linearly dependent, as those of one subject"):
        emmet.edit(requests)
    assert len(emmet.edit_each(requests)) == 2


# AlphaEdit


def test_alphaedit_keeps_to_the_null_space(language_model, caplog):
    lm = in_float64(language_model)
    alphaedit = editor(AlphaEdit, lm)
    with caplog.at_level(logging.INFO):
        edit = alphaedit.edit(REQUESTS)
    for layer, update in edit.updates.items():
        c = moment(lm, layer)
        values, vectors = torch.linalg.eigh(c)
        used = vectors[:, values >= alphaedit.threshold]
        assert 0 < used.shape[1] < len(c)
        assert (used.mT @ update.dense()[0]).norm() < 1e-5 * update.norm()[0]
        free = values < alphaedit.threshold
        leak = float(values[free].sum() / values.sum())
        text = f"{layer}: {int(free.sum())} of {len(c)} directions are free; leak {leak:.2g}"
        assert text in caplog.text


def test_alphaedit_s_history_survives_a_file_and_adds_up(language_model, tmp_path):
    lm = in_float64(language_model)
    alphaedit = editor(AlphaEdit, lm)
    first = alphaedit.edit(REQUESTS[:2])
    merged, _, keys = written(alphaedit, REQUESTS[:2], projection, lambda left: 1 / left)
    for layer in alphaedit.layers:
        torch.testing.assert_close(first.past_keys[layer][0], keys[layer], rtol=1e-4, atol=1e-5)
    first.save(tmp_path / "first.safetensors")
    loaded = load(tmp_path / "first.safetensors", lm)
    second, again = (alphaedit.edit(REQUESTS[2:], after=edit) for edit in (first, loaded))
    after = editor(AlphaEdit, merged)
    after.fitted = alphaedit.fitted
    _, expected, _ = written(after, REQUESTS[2:], projection, lambda left: 1 / left, keys, lm)
    for layer in alphaedit.layers:
        got = second.updates[layer].dense()[0] - first.updates[layer].dense()[0]
        assert (got - expected[layer]).norm() < 1e-3 * expected[layer].norm()
        torch.testing.assert_close(again.updates[layer].dense(), second.updates[layer].dense())
        torch.testing.assert_close(again.past_keys[layer], second.past_keys[layer])
        assert torch.equal(second.past_keys[layer][:, :2], first.past_keys[layer])
        assert second.past_keys[layer].shape[1] == 3


def test_what_alphaedit_wrote_before_moves_less_with_history(language_model):
    lm = in_float64(language_model)
    alphaedit = editor(AlphaEdit, lm, ridge=1e-4)
    first = alphaedit.edit(REQUESTS[:2])
    forgotten = WeightEdit(first.updates, first.editor, first.model)
    layer = alphaedit.layers[0]
    moved = []
    for before in (first, forgotten):
        after = alphaedit.edit(REQUESTS[2:], after=before)
        change = after.updates[layer].dense()[0] - first.updates[layer].dense()[0]
        moved.append(float((first.past_keys[layer][0] @ change).norm()))
    assert moved[0] < 0.1 * moved[1]


def test_a_threshold_below_all_eigenvalues_is_refused():
    with pytest.raises(ValueError, match=r"threshold 0.5: no eigenvalue .* 'h.0' .* 1 to 3"):
        null_space(torch.diag(torch.tensor([2.0, 1.0, 3.0])), 0.5, "h.0")


def test_null_space_coordinates_are_the_projection():
    c = torch.diag(torch.tensor([2.0, 0.1, 0.3], dtype=torch.float64))
    space = null_space(c, 0.5)
    key = torch.tensor([[5.0, 6.0, 7.0]])
    torch.testing.assert_close(space.back(space.into(key)), torch.tensor([[0.0, 6, 7]]).double())


# PMET


def test_pmet_shifts_attention_too_but_writes_only_the_feed_forward_part(language_model):
    pmet = editor(Pmet, language_model)
    layers = [language_model.layer("mlp_out", block) for block in (0, 1)]
    assert pmet.sites() == [layers[1], language_model.layer("attn_out", 1)]
    assert list(pmet.edit_each(REQUESTS).updates) == layers
    assert (pmet.share(4), pmet.share(1)) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (Pmet, {"covariance_weight": 0}, "covariance_weight must be more than 0, got 0"),
        (Emmet, {"epsilon": -1}, "epsilon must be at least 0, got -1"),
        (AlphaEdit, {"threshold": 0}, "threshold must be more than 0, got 0"),
        (AlphaEdit, {"ridge": -1}, "ridge must be more than 0, got -1"),
        (Pmet, {"same_key": 1.0}, "same_key must be a cosine between 0 and 1, got 1.0"),
        (Pmet, {"layers": [0, 7]}, "no block 7 in 'tiny-gpt2'; it has 0 to 2"),
    ],
)
def test_arguments_out_of_range_are_refused(language_model, cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        editor(cls, language_model, **arguments)


@pytest.mark.parametrize(("method", "weight"), [(Memit, 15000), (Pmet, 6000)])
def test_by_default_old_associations_weigh_as_in_gptj_for_the_layers_width(
    method, weight, language_model
):
    keys = torch.randn(1, 32, 3, dtype=torch.float64)
    plain = editor(method, language_model, covariance_weight=None)
    stated = editor(method, language_model, covariance_weight=weight * 32 / 16384)
    assert torch.equal(plain.solve(keys), stated.solve(keys))
