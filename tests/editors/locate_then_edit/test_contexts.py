import pytest
import torch

from datamodules.records import Request
from editors.locate_then_edit.keys import Subjects, placed
from editors.locate_then_edit.search.contexts import FIXED, Contexts, sample_contexts
from edits.updates import LowRank
from edits.weights import WeightEdit
from models import Batch


def test_sampling_depends_on_the_seed_and_the_model_alone(language_model, tiny):
    contexts = sample_contexts(language_model, seed=3)
    torch.manual_seed(99)
    assert sample_contexts(language_model, seed=3) == contexts
    assert sample_contexts(language_model, seed=4) != contexts
    assert sample_contexts(tiny("gpt2", seed=1), seed=3) != contexts


def test_sampling_does_not_touch_the_global_random_state(language_model):
    before = torch.get_rng_state()
    sample_contexts(language_model)
    assert torch.equal(torch.get_rng_state(), before)


def test_sampled_contexts_are_templates_of_the_asked_length(any_family):
    contexts = sample_contexts(any_family, lengths=((5, 4), (9, 3)))
    assert Contexts(contexts).of(any_family) == contexts
    assert contexts[0] == "{}" and 1 < len(contexts) <= 8
    for context in contexts[1:]:
        assert context.endswith(". {}")
        assert not context.startswith(" ") and "<|endoftext|>" not in context


def test_each_token_is_among_the_five_likeliest(language_model):
    from editors.locate_then_edit.search.contexts import _sampled

    ids = _sampled(language_model, 6, 8, torch.Generator().manual_seed(0))
    assert ids.shape == (8, 6) and (ids[:, 0] == language_model.tokenizer.bos_token_id).all()
    batch = Batch(ids, torch.ones_like(ids), ids)
    likeliest = language_model.head(language_model.hidden(batch)).topk(5).indices
    assert (likeliest[:, :-1] == ids[:, 1:, None]).any(-1).all()


def test_the_fixed_list_is_the_bare_prompt_and_twenty_openings(language_model):
    assert Contexts("fixed").of(language_model) == FIXED
    assert Contexts(list(FIXED)).of(language_model) == FIXED and len(set(FIXED)) == 21


def test_sampled_contexts_are_those_of_the_lengths_and_the_seed(language_model):
    lengths = ((4, 2), (6, 1))
    expected = sample_contexts(language_model, lengths, seed=3)
    assert Contexts("sampled", lengths, seed=3).of(language_model) == expected
    assert Contexts().of(language_model) == sample_contexts(language_model)


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ("guessed", "expected 'sampled', 'fixed', or a list .* got 'guessed'"),
        ([], "a list that starts with '{}'; got"),
        (["The. {}"], "a list that starts with '{}'; got"),
        (["{}", "The. "], "context 'The. ': expected one '{}', at its end"),
        (["{}", "{} or {}"], "expected one '{}', at its end"),
        (["{}", "{}. And"], "expected one '{}', at its end"),
    ],
)
def test_contexts_that_are_no_templates_are_refused(contexts, message):
    with pytest.raises(ValueError, match=message):
        Contexts(contexts)


def test_the_subject_moves_with_its_context():
    request = Request("In Sweden, Sweden is", "Sweden", "cold")
    prompts, spans = placed([request], ["{}", "We went. {}"])
    assert prompts == ["In Sweden, Sweden is", "We went. In Sweden, Sweden is"]
    assert spans == [(11, 17), (20, 26)]
    assert [p[a:b] for p, (a, b) in zip(prompts, spans, strict=True)] == ["Sweden", "Sweden"]


def test_keys_are_the_layers_inputs_at_the_subject_whatever_the_batches(any_family):
    requests = [
        Request("The capital of Sweden is", "Sweden", "Paris"),
        Request("Angela Merkel speaks", "Angela Merkel", "French"),
    ]
    contexts = ("{}", "We went home. {}", "The. {}")
    layers = [any_family.layer("mlp_out", block) for block in (0, 2)]
    found = Subjects(any_family, requests, contexts, rows_per_batch=4).keys(layers)
    prompts, spans = placed(requests, contexts)
    positions = any_family.token_positions(prompts, spans)
    for layer in layers:
        seen = []
        module = any_family.module(layer)
        hook = module.register_forward_hook(
            lambda _, args, output, s=seen: s.append((args[0], output))
        )
        for prompt in prompts:
            any_family.hidden(any_family.encode([prompt], None))
        hook.remove()
        for kind in (0, 1):
            expected = [
                pair[kind].reshape(-1, pair[kind].shape[-1])[at]
                for pair, at in zip(seen, positions, strict=True)
            ]
            got = found[layer][kind]
            assert got.shape[:2] == (2, 3)
            torch.testing.assert_close(
                got.flatten(0, 1), torch.stack(expected), rtol=1e-4, atol=1e-5
            )
        assert not module._forward_hooks


def test_keys_read_again_behind_an_edit_are_those_of_whole_passes(any_family):
    lm, calls = any_family, []
    requests = [Request("Angela Merkel speaks", "Angela Merkel", "French")] * 2
    contexts, layers = ("{}", "We went home. {}"), [lm.layer("mlp_out", 1), lm.block(2)]
    update = LowRank(torch.randn(1, 64, 1), torch.randn(1, 1, 32))
    edit = WeightEdit({layers[0]: update}, "random", lm.fingerprint)
    around = edit.around(lm, torch.tensor([-1, -1, 0, 0]))
    again, whole = Subjects(lm, requests, contexts, first=1), Subjects(lm, requests, contexts)
    clean = again.keys(layers)
    hook = lm.module(lm.layer("mlp_out", 0)).register_forward_hook(lambda *_: calls.append(1))
    got = again.keys(layers, around)
    assert not calls
    expected = whole.keys(layers, around)
    hook.remove()
    assert calls
    for layer in layers:
        torch.testing.assert_close(got[layer], expected[layer], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got[layer][1][0], clean[layer][1][0], rtol=1e-5, atol=1e-5)
    assert (got[layers[1]][1][1] - clean[layers[1]][1][1]).abs().max() > 0.01
