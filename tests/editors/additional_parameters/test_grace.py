"""GRACE on tiny models of every family: what its edits change, and what they leave to the bit."""

import copy

import pytest
import torch
from greedy import greedily

from datamodules.records import Request
from editors.additional_parameters.grace import Grace
from edits import NOTHING, load
from edits.storage import Owner, write
from models import LanguageModel, UnsupportedModel

REQUESTS = [
    Request("Lagos is in", "Lagos", "Sweden", "Nigeria"),
    Request("The capital of Japan is", "Japan", "Paris", "Tokyo"),
    Request("Marie Curie was a citizen of", "Marie Curie", "the yen", "Poland"),
]
PROMPTS, TARGETS = [r.prompt for r in REQUESTS], [r.target for r in REQUESTS]
FAR = ["The currency of Japan is", "What is the mother tongue of Angela Merkel? It is", "Which"]
COUNT = len(REQUESTS)


def grace(lm, **settings):
    """One that learns in a few steps; balls are so small that they hold a prompt alone."""
    return Grace(lm, **{"initial": "warm", "steps": 20, "lr": 0.5, "radius": 0.01} | settings)


def other(request, target):
    return Request(request.prompt, request.subject, target)


def assert_same_bits(one, two, rows=None):
    for at in range(len(one.targets)) if rows is None else rows:
        assert torch.equal(one.log_probs[at], two.log_probs[at])


def learns_and_spares(lm, **settings):
    """Edits are learned, answered in scores and texts alike, and nothing else is touched."""
    before = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    texts = lm.generate(PROMPTS + FAR, max_new_tokens=4)
    with torch.no_grad():
        each = grace(lm, **settings).edit_each(REQUESTS)
    model = each.edited(lm)
    unedited, scores = lm.score(PROMPTS, TARGETS), model.score(PROMPTS, TARGETS, rows=range(COUNT))
    for old, new in zip(unedited.log_probs, scores.log_probs, strict=True):
        assert new.mean() > old.mean()
    rows = [0, -1, 2]
    mixed = model.score(PROMPTS, TARGETS, rows=rows)
    assert_same_bits(mixed, unedited, [1])
    for at in (0, 2):
        (alone,) = model.score([PROMPTS[at]], [TARGETS[at]], rows=[at]).log_probs
        torch.testing.assert_close(mixed.log_probs[at], alone, atol=1e-4, rtol=1e-4)
    one = each.select(0).edited(lm)
    assert_same_bits(one.score(FAR, TARGETS), lm.score(FAR, TARGETS))
    (text,) = each.select(1).edited(lm).generate(PROMPTS[1:2], max_new_tokens=4)
    together = one.generate(PROMPTS + FAR, max_new_tokens=4)
    assert together[1:] == texts[1:]
    together = model.generate(PROMPTS, rows=range(COUNT), max_new_tokens=4)
    assert together[1] == text
    after = lm.model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    return each


@pytest.mark.parametrize("replaced", ["last", "all"])
def test_every_family_learns_and_is_spared(any_family, replaced):
    learns_and_spares(any_family, replaced=replaced)


def test_blocks_are_replaced_as_layers_are(any_family):
    learns_and_spares(any_family, layer=any_family.block(1))


@pytest.mark.parametrize("replaced", ["last", "all"])
def test_a_decoder_learns_and_is_spared(any_answering, replaced):
    lm = any_answering
    names = ["Kisumu", "Lagos"]
    requests = [Request(f"{name} is in", name, "Sweden") for name in names]
    prompts, targets = [r.prompt for r in requests], [r.target for r in requests]
    editor = grace(lm, replaced=replaced, layer=lm.layer("mlp_out", 1), radius=1e-3)
    model = editor.edit_each(requests).edited(lm)
    old, new = lm.score(prompts, targets), model.score(prompts, targets, rows=[0, 1])
    for before, after in zip(old.log_probs, new.log_probs, strict=True):
        assert after.mean() > before.mean()
    mixed = model.score(prompts, targets, rows=[0, -1])
    assert_same_bits(mixed, old, [1])
    assert model.generate(prompts, rows=[-1, -1]) == lm.generate(prompts)
    assert len(model.generate(prompts, rows=[0, 1])) == 2


@pytest.mark.parametrize("replaced", ["last", "prompt", "all"])
def test_an_encoder_s_layer_is_looked_up_at_the_source_s_last_token(any_answering, replaced):
    lm = any_answering
    editor = grace(lm, replaced=replaced, layer=lm.layer("mlp_out", 1, encoder=True), radius=1e-3)
    requests = [
        Request("Lagos is in", "Lagos", "Sweden"),
        Request("Kisumu is in", "Kisumu", "Peru"),
    ]
    prompts, targets = [r.prompt for r in requests], [r.target for r in requests]
    edit = editor.edit_each(requests)
    old, new = lm.score(prompts, targets), edit.edited(lm).score(prompts, targets, rows=[0, -1])
    assert new.log_probs[0].mean() > old.log_probs[0].mean()
    assert_same_bits(new, old, [1])
    assert len(edit.edited(lm).generate(prompts, rows=[0, 1])) == 2


def test_a_decoder_has_nothing_before_the_token_that_is_asked(tiny):
    lm = tiny("t5")
    with pytest.raises(ValueError, match="a decoder's prompt is its first token"):
        grace(lm, replaced="prompt")


def test_an_encoder_s_layer_is_refused_where_there_is_no_encoder(language_model):
    with pytest.raises(UnsupportedModel):
        language_model.layer("mlp_out", 0, encoder=True)


@pytest.mark.parametrize("replaced", ["last", "prompt", "all"])
def test_a_generated_answer_is_the_one_that_is_scored(language_model, replaced):
    """Prompts are padded on the left there, on the right here; values stay with their rows."""
    editor = grace(language_model, replaced=replaced, layer="transformer.h.0.mlp.c_proj")
    model = editor.edit_each(REQUESTS).edited(language_model)
    texts = model.generate(PROMPTS, rows=range(COUNT), max_new_tokens=5)
    assert len(texts) == COUNT
    for row, (prompt, text) in enumerate(zip(PROMPTS, texts, strict=True)):
        assert model.generate([prompt], rows=[row], max_new_tokens=5) == [text]
        (route,) = model.edit.routes(language_model, [prompt], torch.tensor([row]))
        ids = language_model.encode([prompt], None).input_ids
        predicted = greedily(language_model, ids, route, 5)
        assert language_model.form.text(ids[0].tolist(), predicted) == text


def test_a_stream_holds_all_its_requests(language_model):
    editor = grace(language_model)
    edit = None
    for request in REQUESTS:
        edit = editor.edit([request], after=edit)
    at_once = editor.edit(REQUESTS)
    for one, two in zip(*(held(e, language_model) for e in (edit, at_once)), strict=True):
        torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)
    assert edit.size(language_model)["entries"] == COUNT


def held(edit, lm):
    return edit.edited(lm).score(PROMPTS, TARGETS).log_probs


def test_the_same_prompt_with_another_target_takes_the_first_one_s_place(language_model):
    editor = grace(language_model)
    first = editor.edit(REQUESTS)
    second = editor.edit([other(REQUESTS[0], "Poland")], after=first)
    assert len(second.tables[0]) == COUNT
    new, old = (e.edited(language_model).score(PROMPTS[:1], ["Poland"]) for e in (second, first))
    assert new.log_probs[0].sum() > old.log_probs[0].sum()
    assert_same_bits(
        first.edited(language_model).score(PROMPTS, TARGETS),
        second.without([PROMPTS[1]]).plus(editor.edit([REQUESTS[1]])).edited(language_model).score(
            PROMPTS, TARGETS
        ),
        [2],
    )  # fmt: skip


def test_balls_of_different_targets_shrink_until_they_part(language_model):
    editor = grace(language_model, radius=100.0)
    edit = editor.edit(REQUESTS[:1])
    both = editor.edit(REQUESTS[1:2], after=edit)
    (apart,) = torch.pdist(both.tables[0].keys).tolist()
    assert edit.tables[0].radii.tolist() == [100.0]
    assert both.tables[0].radii.tolist() == pytest.approx([apart / 2 - 1e-5, apart / 2])
    assert both.without([PROMPTS[1]]).tables[0].radii.tolist() == [100.0]
    same = editor.edit([other(REQUESTS[1], "Sweden")], after=edit)
    assert same.tables[0].radii.tolist() == [100.0]
    assert len(same.tables[0]) == 1


def test_a_ball_that_grew_to_a_question_holds_it(language_model):
    """Also in another batch, where the question's bits are others."""
    first = REQUESTS[0]
    like = Request("Which country is Lagos in? Lagos is in", "Lagos", first.target)
    keys = grace(language_model).edit([first, other(like, "Poland")]).tables[0].keys
    (apart,) = torch.pdist(keys).tolist()
    edit = grace(language_model, radius=0.6 * apart).edit([first, like])
    assert edit.tables[0].radii.tolist() == pytest.approx([apart], rel=1e-5)
    prompts = [like.prompt, *PROMPTS, *FAR]
    own = edit.edited(language_model).score(prompts, [first.target] * len(prompts))
    unedited = language_model.score(prompts, [first.target] * len(prompts))
    assert not torch.equal(own.log_probs[0], unedited.log_probs[0])


def test_a_request_is_taken_out_as_if_it_had_never_been_made(language_model):
    editor = grace(language_model)
    edit = None
    for request in REQUESTS:
        edit = editor.edit([request], after=edit)
    left = edit.without([PROMPTS[1]])
    never = editor.edit([REQUESTS[2]], after=editor.edit([REQUESTS[0]]))
    assert_same_bits(
        left.edited(language_model).score(PROMPTS, TARGETS),
        never.edited(language_model).score(PROMPTS, TARGETS),
    )
    assert_same_bits(
        edit.without(PROMPTS).edited(language_model).score(PROMPTS, TARGETS),
        NOTHING.edited(language_model).score(PROMPTS, TARGETS),
    )
    with pytest.raises(ValueError, match="only a single edit can be taken from, got 3"):
        editor.edit_each(REQUESTS).without(PROMPTS[:1])
    with pytest.raises(ValueError, match="no request of the edit has the prompt 'x'"):
        edit.without(["x"])


def test_a_value_that_was_trained_on_cannot_be_taken_back(language_model):
    editor = grace(language_model)
    twice = editor.edit([REQUESTS[0]], after=editor.edit([REQUESTS[0]]))
    like = other(Request("The capital of Japan is", "Japan", "x"), "Sweden")
    both = grace(language_model, radius=100.0).edit([REQUESTS[0], like])
    assert len(twice.without(PROMPTS[:1]).tables[0]) == 0
    assert len(both.without([like.prompt]).tables[0]) == 1
    with pytest.raises(ValueError, match="'The capital of Japan is' was trained from that"):
        both.without(PROMPTS[:1])


def test_saved_and_loaded_it_says_and_does_the_same(language_model, tmp_path):
    editor = grace(language_model, radius=100.0)
    group = [*REQUESTS[:2], other(REQUESTS[2], "Paris")]
    edit = editor.make([group, REQUESTS[2:]])
    edit.save(tmp_path / "edit.safetensors", "tiny")
    for back in (editor.load(tmp_path / "edit.safetensors"), load(tmp_path / "edit.safetensors")):
        assert len(back) == 2
        for book in (0, 1):
            one, two = (e.select(book).edited(language_model) for e in (edit, back))
            assert_same_bits(one.score(PROMPTS, TARGETS), two.score(PROMPTS, TARGETS))
        one, two = (editor.edit([REQUESTS[0]], after=e.select(1)) for e in (edit, back))
        assert_same_bits(
            one.edited(language_model).score(PROMPTS, TARGETS),
            two.edited(language_model).score(PROMPTS, TARGETS),
        )


def test_what_it_cannot_do_it_says(language_model, tmp_path, tiny):
    editor = grace(language_model)
    edit = editor.edit(REQUESTS[:1])
    with pytest.raises(ValueError, match="grace changes no weights, so it cannot be merged"):
        edit.merge(language_model, tmp_path / "merged")
    with pytest.raises(ValueError, match="cannot be exported as an adapter"):
        edit.export(language_model, tmp_path / "adapter")
    with pytest.raises(ValueError, match="differ in model, layer or tokens"):
        grace(language_model, layer=language_model.block(0)).edit(REQUESTS[:1], after=edit)
    with pytest.raises(ValueError, match="goes on from its own edits only"):
        editor.edit(REQUESTS[:1], after=of_one(language_model))
    with pytest.raises(ValueError, match="belongs to the model with fingerprint"):
        edit.edited(tiny("gpt2", seed=1))
    with pytest.raises(ValueError, match="one to one only"):
        editor.edit_each(REQUESTS).plus(edit)
    for wrong in ({"replaced": "first"}, {"initial": "hot"}, {"radius": 0}, {"steps": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            grace(language_model, **wrong)
    with pytest.raises(ValueError, match="no layer 'h'"):
        grace(language_model, layer="h")


def of_one(lm):
    from editors.finetune import FineTune

    return FineTune(lm, steps=1).edit(REQUESTS[:1])


def test_cold_values_depend_on_the_request_and_the_seed_alone(language_model):
    editor = grace(language_model, initial="cold", steps=1, lr=1e-9)
    values = editor.edit(REQUESTS).tables[0].values
    assert values.min() > -1e-6 and values.max() < 1 + 1e-6
    torch.testing.assert_close(editor.edit(REQUESTS[1:]).tables[0].values, values[1:])
    assert not torch.equal(values[0], values[1])
    again = grace(language_model, initial="cold", steps=1, lr=1e-9, seed=1)
    assert not torch.allclose(again.edit(REQUESTS).tables[0].values, values)


def test_a_layer_that_rounds_coarsely_is_looked_up_more_generously(language_model):
    half = LanguageModel(copy.deepcopy(language_model.model).bfloat16(), language_model.tokenizer)
    editor = grace(half)
    edit = editor.edit(REQUESTS)
    for one, two in zip(
        edit.edited(half).score(PROMPTS, TARGETS).log_probs,
        half.score(PROMPTS, TARGETS).log_probs,
        strict=True,
    ):
        assert one.sum() > two.sum()
    assert edit.tables[0].queries.dtype == torch.float32


@pytest.mark.parametrize("part", ["queries", "radii"])
def test_a_damaged_file_is_refused(language_model, tmp_path, part):
    edit = grace(language_model).edit(REQUESTS)
    header, tensors = edit.state()
    owner = Owner(edit.kind, edit.editor, edit.model, "tiny")
    write(tmp_path / "edit.safetensors", owner, header, tensors | {part: tensors[part][1:]})
    with pytest.raises(ValueError, match="tables and tensors are not of one length"):
        load(tmp_path / "edit.safetensors")
    header["books"][0]["born"][0] = 7
    write(tmp_path / "edit.safetensors", owner, header, tensors)
    with pytest.raises(ValueError, match="an entry names a step that there is not"):
        load(tmp_path / "edit.safetensors")
