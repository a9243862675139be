import copy
import hashlib
import logging

import pytest
import torch
from samples import (
    AT_THE_END,
    CONTEXTS,
    CORPUS,
    MOMENTS,
    REQUESTS,
    TEMPLATES,
    bundled,
    in_float64,
)

from datamodules.records import Request
from editors.locate_then_edit import rome as module
from editors.locate_then_edit.keys import Subjects
from editors.locate_then_edit.rome import NAMES, Rome, warn_of_unlike_keys
from editors.locate_then_edit.search.contexts import Contexts, sample_contexts
from editors.locate_then_edit.statistics.moments import Moments
from models import LanguageModel


def editor(lm, **arguments) -> Rome:
    """With room for the long change that a random model needs to say something else."""
    given = {"moments": MOMENTS, "contexts": CONTEXTS}
    search = {"lr": 0.1, "clamp": 50.0, "weight_decay": 0.0}
    return Rome(lm, **bundled({**given, **search, **arguments}))


def state(lm) -> tuple:
    """Bytes of all parameters, hooks, replaced methods, modes and the tokenizer's sides."""
    digest = hashlib.sha256()
    for weight in lm.model.parameters():
        digest.update(weight.detach().contiguous().view(torch.uint8).numpy().tobytes())
        assert not weight.requires_grad and weight.grad is None
    odd = [
        name
        for name, part in lm.model.named_modules()
        if part._forward_hooks
        or part._forward_pre_hooks
        or part.training
        or "forward" in vars(part)
    ]
    return digest.hexdigest(), odd, lm.tokenizer.padding_side, torch.get_rng_state().sum().item()


def log_probs(answers) -> torch.Tensor:
    return torch.stack([answer.sum() for answer in answers.log_probs])


def asked(requests) -> tuple[list[str], list[str]]:
    return [r.prompt for r in requests], [r.target for r in requests]


def test_edits_of_every_family_make_their_targets_likely(any_family):
    before = log_probs(any_family.score(*asked(AT_THE_END)))
    unchanged = state(any_family)
    edit = editor(any_family).edit_each(AT_THE_END)
    assert state(any_family) == unchanged
    after = log_probs(edit.edited(any_family).score(*asked(AT_THE_END), rows=[0, 1, 2]))
    assert len(edit) == 3 and edit.editor == "rome"
    assert (after > before + 1).all()


@pytest.mark.parametrize("key_mode", NAMES)
@pytest.mark.parametrize("covariance", [True, False])
def test_edits_made_together_are_those_made_alone(language_model, key_mode, covariance):
    moments = MOMENTS if covariance else None
    rome = editor(language_model, key_mode=key_mode, moments=moments, rows_per_batch=5)
    together = rome.edit_each(REQUESTS).updates[rome.layer].dense()
    for i, request in enumerate(REQUESTS):
        alone = rome.edit_each([request]).updates[rome.layer].dense()[0]
        assert (together[i] - alone).norm() < 1e-3 * alone.norm()


def test_rows_see_their_own_edit_as_if_it_were_alone(any_family):
    edit = editor(any_family, moments=None, steps=4).edit_each(REQUESTS)
    prompts, targets = asked(REQUESTS)
    rows = [2, -1, 0]
    together = log_probs(edit.edited(any_family).score(prompts, targets, rows=rows))
    for i, row in enumerate(rows):
        model = any_family if row < 0 else edit.select([row]).edited(any_family)
        alone = log_probs(model.score(prompts[i : i + 1], targets[i : i + 1]))[0]
        torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-4)


def test_the_model_is_as_it_was_after_an_error_on_the_way(any_family, monkeypatch):
    unchanged, rome = state(any_family), editor(any_family, moments=None)
    head, calls = LanguageModel.head, []

    def failing(self, hidden):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return head(self, hidden)

    after = rome.edit(REQUESTS[:1])
    monkeypatch.setattr(LanguageModel, "head", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        rome.edit(REQUESTS[1:], after=after)
    assert state(any_family) == unchanged


def test_a_list_of_requests_is_written_one_after_another(language_model):
    rome = editor(language_model)
    first = rome.edit(REQUESTS[:1])
    step_by_step = rome.edit(REQUESTS[1:], after=first)
    at_once = rome.edit(REQUESTS)
    assert len(at_once) == 1
    dense = at_once.updates[rome.layer].dense()
    torch.testing.assert_close(step_by_step.updates[rome.layer].dense(), dense)
    independent = rome.edit_each(REQUESTS).updates[rome.layer].dense().sum(0)
    assert (independent - dense[0]).norm() > 1e-3 * dense.norm()
    after = log_probs(at_once.edited(language_model).score(*asked(REQUESTS)))
    assert (after > log_probs(language_model.score(*asked(REQUESTS)))).all()


def test_each_group_of_requests_is_a_sequence_of_its_own(language_model):
    rome = editor(language_model, moments=None, steps=4)
    together = rome.make([REQUESTS[:2], REQUESTS[1:]])
    assert len(together) == 2
    for i, group in enumerate((REQUESTS[:2], REQUESTS[1:])):
        alone = rome.edit(group).updates[rome.layer].dense()[0]
        torch.testing.assert_close(together.updates[rome.layer].dense()[i], alone)


def test_the_second_edit_is_that_of_a_model_with_the_first_in_its_weights(language_model):
    language_model = in_float64(language_model)
    rome = editor(language_model, moments=None)
    first = rome.edit(REQUESTS[:1])
    both = rome.edit(REQUESTS[1:2], after=first).updates[rome.layer].dense()[0]
    merged = copy.deepcopy(language_model.model)
    with torch.no_grad():
        merged.get_submodule(rome.layer).weight += first.updates[rome.layer].dense()[0]
    merged = LanguageModel(merged, language_model.tokenizer)
    second = editor(merged, moments=None).edit(REQUESTS[1:2]).updates[rome.layer].dense()[0]
    expected = first.updates[rome.layer].dense()[0] + second
    assert (both - expected).norm() < 1e-6 * expected.norm()


def test_the_edited_projection_answers_the_bare_key_with_the_optimised_value(language_model):
    rome = editor(language_model)
    rome.prepare()
    update = rome.edit_each(REQUESTS).updates[rome.layer]
    contexts = tuple(TEMPLATES)
    keys, outputs = Subjects(language_model, REQUESTS, contexts).keys([rome.layer])[rome.layer]
    value = module.optimise(language_model, REQUESTS, contexts, [rome.layer], rome.search).value(
        rome.layer
    )
    changed = outputs[:, 0] + torch.einsum("ni,nio->no", keys[:, 0], update.dense())
    torch.testing.assert_close(changed, value, rtol=1e-4, atol=1e-4)


def test_opt_with_neurons_that_never_fire_is_edited_with_a_ridge(tiny, caplog):
    lm = LanguageModel(copy.deepcopy(tiny("opt").model), tiny("opt").tokenizer)
    rome = editor(lm, layer=1)
    with torch.no_grad():
        lm.module(lm.layer("mlp_in", 1)).bias[:20] = -1e3  # dead on any text
    moment = MOMENTS.of(lm, [rome.layer])[rome.layer].mean
    for dtype in (torch.float32, torch.float64):  # as it is inverted elsewhere
        with pytest.raises(torch.linalg.LinAlgError, match="singular"):
            torch.linalg.inv(moment.to(dtype))
    with caplog.at_level(logging.WARNING):
        edit = rome.edit_each(AT_THE_END)
    assert rome.fitted[rome.layer].ridge > 0 and "ill conditioned" in caplog.text
    assert (edit.updates[rome.layer].left[:, :20] == 0).all()
    before = log_probs(lm.score(*asked(AT_THE_END)))
    after = log_probs(edit.edited(lm).score(*asked(AT_THE_END), rows=[0, 1, 2]))
    assert (after > before + 1).all()


def test_an_edit_that_would_disable_the_model_is_named_and_r_rome_s_is_short(
    language_model, caplog
):
    """Where the bare prompt starts with the subject, whose first token has keys of another kind."""
    lm = LanguageModel(copy.deepcopy(language_model.model), language_model.tokenizer)
    rome = editor(lm, moments=None, steps=2)
    signs = 0.3 * torch.tensor([1.0, -1.0]).repeat(32)
    hook = lm.module(rome.layer).register_forward_pre_hook(
        lambda module, args: torch.cat([signs * args[0][:, :1], args[0][:, 1:]], dim=1)
    )
    requests = [Request("a", "a", "yen"), Request("They went to Lagos", "Lagos", "yen")]
    with hook, caplog.at_level(logging.WARNING):
        norms = {
            mode: editor(lm, moments=None, steps=2, key_mode=mode)
            .edit_each(requests)
            .norms()[rome.layer]
            for mode in NAMES
        }
    [said] = [text for text in caplog.messages if "may break" in text]
    assert "prompt='a'" in said and "bare to mean key" in said
    assert norms["official"][0] > 3 * norms["prompt"][0]
    assert norms["official"][1] < 3 * norms["prompt"][1]


def test_the_default_block_is_about_a_third_up(tiny):
    expected = {2: 0, 3: 1, 4: 2, 12: 5}
    for blocks, block in expected.items():
        lm = tiny("gpt2", num_hidden_layers=blocks)
        assert Rome(lm, moments=None).layer == lm.layer("mlp_out", block)


def test_contexts_are_sampled_or_fixed(language_model):
    sampled = Rome(language_model, moments=None, contexts=Contexts(seed=5))
    fixed = Rome(language_model, moments=None, contexts=Contexts("fixed"))
    for rome in (sampled, fixed):
        rome.prepare()
    assert sampled.templates == sample_contexts(language_model, seed=5)
    assert len(fixed.templates) == 21


def test_second_moments_are_taken_once_and_cached(language_model, tmp_path):
    rome = editor(language_model, moments=Moments(CORPUS, tmp_path, limit=3))
    rome.prepare()
    fitted = dict(rome.fitted)
    rome.edit_each(REQUESTS[:1])
    assert rome.fitted == fitted and len(list(tmp_path.iterdir())) == 1


def test_second_moments_are_those_of_the_clean_model_also_when_it_has_an_edit(language_model):
    after = editor(language_model, moments=None, layer=0).edit(REQUESTS[:1])
    late, early = editor(language_model, layer=1), editor(language_model, layer=1)
    early.prepare()
    late.edit(REQUESTS[1:2], after=after)
    assert torch.equal(*(rome.fitted[rome.layer].lower for rome in (late, early)))


def test_it_works_under_no_grad_inference_mode_and_autocast(language_model):
    expected = editor(language_model).edit_each(REQUESTS)
    for around in (torch.no_grad, torch.inference_mode):
        with around(), torch.autocast("cpu", dtype=torch.bfloat16):
            found = editor(language_model).edit_each(REQUESTS)
        for layer, update in expected.updates.items():
            torch.testing.assert_close(found.updates[layer].dense(), update.dense())


def test_edits_whose_keys_disagree_are_named(caplog):
    direction = torch.ones(3, 2)
    mean = torch.ones(3, 2)
    bare = torch.tensor([[1.0, 0.8], [0.1, 0.1], [-1.0, 0.0]])
    with caplog.at_level(logging.WARNING):
        warn_of_unlike_keys(REQUESTS, direction, mean, bare)
    assert [record.args[0] for record in caplog.records] == REQUESTS[1:]
    assert "may break the model" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key_mode": "mean"}, "key_mode is 'mean', expected one of official, "),
        ({"layer": 3}, "no block 3"),
        ({"layer": 2}, "2 is the last block"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"rows_per_batch": 0}, "rows_per_batch must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(language_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        editor(language_model, **arguments)


def test_no_request_is_refused(language_model):
    rome = editor(language_model, moments=None)
    for edit in (rome.edit, rome.edit_each):
        with pytest.raises(ValueError, match="no requests to edit for"):
            edit([])
