"""KN: which neurons are chosen, what becomes of their values, and the authors' numbers."""

import copy

import pytest
import torch
from reference import CLOSE, Reference, distance
from samples import CONTEXTS, TEMPLATES, in_float64
from torch import nn

from datamodules.records import Request
from editors.locate_then_edit.attribution import Integral, attributions
from editors.locate_then_edit.knowledge_neurons import Change, Kn
from editors.locate_then_edit.search.contexts import Contexts
from models import LanguageModel

REQUESTS = [
    Request("The capital of Sweden is", "Sweden", "Paris", "Stockholm"),
    Request("Lagos is in", "Lagos", "Japan, the country", "Nigeria"),
    Request("What is the mother tongue of Angela Merkel?", "Angela Merkel", "yen"),
]
SUBJECTS = {
    "The mother tongue of Danielle Darrieux is": "Danielle Darrieux",
    "LeBron James plays the sport of": "LeBron James",
}


def ids(lm, prompt: str, text: str) -> list[int]:
    batch = lm.encode([prompt], [text])
    return batch.labels[batch.labels != -100].tolist()


def said(lm, prompt: str) -> int:
    with torch.no_grad():
        return int(
            lm.model(torch.tensor([lm.tokenizer(prompt)["input_ids"]])).logits[0, -1].argmax()
        )


def values(lm, block: int) -> torch.Tensor:
    """The second projection ``[d_in, d_out]``, a view."""
    module = lm.module(lm.layer("mlp_out", block))
    return module.weight.T if isinstance(module, nn.Linear) else module.weight


def copied(lm) -> LanguageModel:
    return LanguageModel(copy.deepcopy(lm.model), lm.tokenizer)


def neurons(lm, request: Request, threshold: float) -> torch.Tensor:
    """The coarse set, ``[L, d_in]``."""
    true = request.target_true
    answer = [said(lm, request.prompt)] if true is None else ids(lm, request.prompt, true)
    found = attributions(lm, [request.prompt], [answer], range(lm.blocks), Integral())[0]
    return found > threshold * found.max()


@torch.no_grad()
def written(lm, requests, threshold: float, change) -> LanguageModel:
    """The model with ``change(request)`` added to the rows of each one's neurons."""
    edited = copied(lm)
    for request in requests:
        for block, some in enumerate(neurons(lm, request, threshold)):
            values(edited, block)[some] += change(request)
    return edited


def change_of(lm, old: float, new: float):
    """The published change: the new answer's embeddings less the old one's."""
    rows = lm.model.get_output_embeddings().weight

    def change(request):
        added = rows[ids(lm, request.prompt, request.target)].sum(0)
        return new * added - old * rows[said(lm, request.prompt)]

    return change


def logits(lm, prompt="The capital of Sweden is Stockholm, where Lagos is in"):
    with torch.no_grad():
        return lm.head(lm.hidden(lm.encode([prompt], None)))


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_an_edit_is_the_published_change_of_the_rows(family, tiny):
    lm = in_float64(tiny(family))
    edit = Kn(lm, threshold=0.3, change=Change(old_weight=0.5, new_weight=0.25)).edit_each(REQUESTS)
    for number, request in enumerate(REQUESTS):
        expected = logits(written(lm, [request], 0.3, change_of(lm, 0.5, 0.25)))
        assert distance(logits(lm), expected) > 1e-6
        with edit.select(number).hooks(lm):
            assert distance(logits(lm), expected) < 1e-12
        for block, some in enumerate(neurons(lm, request, 0.3)):
            update = edit.updates[lm.layer("mlp_out", block)].dense()[number]
            assert torch.equal(update.any(1), some)


def test_many_requests_are_the_sum_of_their_changes(tiny):
    lm = in_float64(tiny("llama"))
    edit = Kn(lm, threshold=0.3).edit(REQUESTS)
    with edit.hooks(lm):
        found = logits(lm)
    assert distance(found, logits(written(lm, REQUESTS, 0.3, change_of(lm, 2, 1)))) < 1e-12


def test_an_edit_after_another_is_made_of_the_edited_model(tiny):
    lm = in_float64(tiny("opt"))
    kn = Kn(lm, threshold=0.3)
    edit = kn.edit(REQUESTS[1:2], after=kn.edit(REQUESTS[:1]))
    once = written(lm, REQUESTS[:1], 0.3, change_of(lm, 2, 1))
    twice = written(once, REQUESTS[1:2], 0.3, change_of(once, 2, 1))
    with edit.hooks(lm):
        assert distance(logits(lm), logits(twice)) < 1e-12


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_erased_neurons_say_nothing(family, tiny):
    """Also where two requests share neurons, and after an edit that changed their values."""
    lm = in_float64(tiny(family))
    first = Kn(lm, threshold=0.3).edit(REQUESTS[:1])
    eraser = Kn(lm, threshold=0.1, change=Change("erase"))
    changed = written(lm, REQUESTS[:1], 0.3, change_of(lm, 2, 1))
    for after, before in ((None, lm), (first, changed)):
        expected = copied(before)
        for request in REQUESTS:
            for block, some in enumerate(neurons(before, request, 0.1)):
                values(expected, block)[some] = 0
        with eraser.edit(REQUESTS, after=after).hooks(lm):
            assert distance(logits(lm), logits(expected)) < 1e-12
    each = eraser.edit_each(REQUESTS)
    for number, request in enumerate(REQUESTS):
        expected = copied(lm)
        for block, some in enumerate(neurons(lm, request, 0.1)):
            values(expected, block)[some] = 0
        with each.select(number).hooks(lm):
            assert distance(logits(lm), logits(expected)) < 1e-12


def test_neurons_of_several_prompts_are_those_of_enough_of_them(tiny):
    lm = in_float64(tiny("gpt2"))
    request = REQUESTS[0]
    answer = ids(lm, request.prompt, request.target_true)
    prompts = [context.format(request.prompt) for context in TEMPLATES]
    found = attributions(lm, prompts, [answer] * 3, range(lm.blocks), Integral())
    counts = (found > 0.2 * found.amax((1, 2), keepdim=True)).sum(0)
    assert set(counts.unique().tolist()) == {0, 1, 2, 3}
    for share, least in ((0.2, 1), (0.4, 2), (0.7, 3)):
        kept = Kn(lm, contexts=CONTEXTS, share=share).neurons([request])[0]
        assert torch.equal(kept, counts >= least)


def test_contexts_are_sampled_if_wanted(language_model):
    kn = Kn(language_model, contexts=Contexts(lengths=[(5, 2)]))
    assert len(kn.edit_each(REQUESTS)) == 3
    assert kn.templates[0] == "{}"
    assert len(kn.templates) > 1


def test_blocks_can_be_chosen(language_model):
    edit = Kn(language_model, blocks=[1]).edit(REQUESTS)
    assert list(edit.updates) == [language_model.layer("mlp_out", 1)]


@pytest.mark.parametrize(
    ("how", "reduce"), [("first", lambda x: x[0]), ("mean", lambda x: x.mean(0))]
)
def test_an_answer_of_several_tokens_can_be_its_first_or_their_mean(how, reduce, language_model):
    rows = language_model.model.get_output_embeddings().weight
    request = REQUESTS[1]
    target = rows[ids(language_model, request.prompt, request.target)]
    assert len(target) > 1
    edit = Kn(language_model, change=Change(multi_token=how, old_weight=0.0)).edit([request])
    for update in edit.updates.values():
        for row in update.dense()[0]:
            assert not row.any() or torch.allclose(row, reduce(target), atol=1e-6)


def test_where_no_neuron_speaks_for_the_answer_nothing_changes(language_model, monkeypatch, caplog):
    kn = "editors.locate_then_edit.knowledge_neurons.attributions"
    nothing = torch.zeros(1, 3, 64)
    monkeypatch.setattr(kn, lambda *_: nothing)
    for action in ("update", "erase"):
        edit = Kn(language_model, change=Change(action)).edit(REQUESTS[:1])
        with edit.hooks(language_model):
            found = logits(language_model)
        assert torch.equal(found, logits(language_model))
    assert "no neuron speaks for the old answer" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"threshold": 1.0}, "threshold must be at least 0 and less than 1, got 1.0"),
        ({"share": -0.1}, "share must be at least 0 and less than 1, got -0.1"),
        ({"rows_per_batch": 0}, "rows_per_batch must be at least 1, got 0"),
        ({"blocks": [1, 0]}, r"blocks: expected some from the lowest up, got \[1, 0\]"),
        ({"blocks": []}, r"blocks: expected some from the lowest up, got \[\]"),
        ({"blocks": [3]}, "no block 3 in"),
    ],
)
def test_what_cannot_be_is_refused(arguments, error, language_model):
    with pytest.raises(ValueError, match=error):
        Kn(language_model, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"action": "write"}, "action is 'write', expected one of update, erase"),
        ({"multi_token": "last"}, "multi_token is 'last', expected one of sum, mean, first"),
    ],
)
def test_a_change_that_cannot_be_is_refused(arguments, error):
    with pytest.raises(ValueError, match=error):
        Change(**arguments)


def test_embeddings_of_another_width_are_refused(tiny):
    lm = tiny("opt", word_embed_proj_dim=16)
    with pytest.raises(ValueError, match="those of 'tiny-opt' are 16 and 32 wide"):
        Kn(lm)


@pytest.mark.parametrize("case", ["single_token", "multi_token_target"])
def test_the_authors_numbers(case, golden):
    reference = Reference(golden / "other_editors")
    given = reference.json("knowledge_neurons")["cases"][case]
    tensors = reference.tensors("knowledge_neurons")
    lm, prompt = reference.language_model, given["prompt"]
    target, true = given["target"].strip(), given["ground_truth"].strip()
    request = Request(prompt, SUBJECTS[prompt], target, true)
    assert ids(lm, prompt, target) == given["target_ids"]
    assert ids(lm, prompt, true) == given["ground_truth_ids"]
    integral = {
        "steps": given["steps"], "grid": "ends", "site": "preactivation", "continuation": "none",
    }  # fmt: skip
    kn = Kn(lm, threshold=given["adaptive_threshold"], integral=Integral(**integral))
    wanted = tensors[f"expected/{case}/neurons"].tolist()
    assert sorted(kn.neurons([request])[0].nonzero().tolist()) == sorted(wanted)
    edit = kn.edit([request])
    for block in range(lm.blocks):
        rows = tensors[f"expected/{case}/updated_rows/layer_{block}"]
        some = sorted(index for layer, index in wanted if layer == block)
        assert len(some) == len(rows)
        if some:
            update = edit.updates[lm.layer("mlp_out", block)].dense()[0]
            assert distance((values(lm, block) + update)[some], rows) < CLOSE
    found = reference.query_logits(edit)
    assert distance(found, tensors[f"expected/{case}/query_logits"]) < CLOSE
