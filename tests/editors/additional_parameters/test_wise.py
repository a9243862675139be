"""WISE: each row has its own gate, memories are filled, closed and merged, and edits are values."""

import pytest
import torch
from greedy import greedily

from datamodules.atlas.data import AtlasData
from datamodules.pool import Pool
from datamodules.records import Request
from editors.additional_parameters.scope import Margins, drawn, rows_of
from editors.additional_parameters.wise import Wise
from editors.locate_then_edit.search.contexts import Contexts
from edits import load
from edits.sides import SideEdit
from models import UnsupportedModel

REQUESTS = [
    Request("The Eiffel Tower is in", "Eiffel Tower", "Sweden"),
    Request("The capital of Japan is", "Japan", "Paris"),
    Request("Marie Curie was a citizen of", "Marie Curie", "Germany"),
    Request("Lagos is a city in", "Lagos", "Poland"),
    Request("People in Berlin speak", "Berlin", "Dutch"),
]
PROMPTS = [r.prompt for r in REQUESTS]
TARGETS = [r.target for r in REQUESTS]


@pytest.fixture(scope="module")
def pool():
    return Pool(AtlasData(), limit=6)


def editor(lm, pool, **settings):
    settings = {
        "margins": Margins(0.3, 1.5, 0.6), "steps": 60, "stop_loss": None, "mask": 0.5,
        "contexts": Contexts(["{}", "It was late. {}"]), **settings,
    }  # fmt: skip
    return Wise(lm, pool=pool, **settings)


def scores(model, prompts=PROMPTS, targets=TARGETS, **rows):
    return model.score(prompts, targets, **rows).log_probs


def same(ours, theirs, tolerance=0.0):
    return all(
        torch.allclose(a, b, rtol=tolerance, atol=tolerance)
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_it_edits_what_it_is_for_and_leaves_the_rest_to_the_bit(tiny, pool, family):
    lm = tiny(family)
    margins = Margins(0.05, 0.3, 0.1) if family == "opt" else Margins(0.3, 1.5, 0.6)
    edit = editor(lm, pool, margins=margins, steps=80, mask=1.0).edit_each(REQUESTS)
    after = edit.edited(lm).score(PROMPTS, TARGETS, rows=range(5))
    assert sum(after.exact()) >= 4
    others = [PROMPTS[n - 1] for n in range(5)]
    plain, left = scores(lm, others), scores(edit.edited(lm), others, rows=range(5))
    assert sum(map(torch.equal, plain, left)) >= 1  # a random model's states are much alike
    rows = [-1, 1, -1, 3, -1]
    mixed = scores(edit.edited(lm), rows=rows)
    for row, ours, theirs in zip(rows, mixed, scores(lm), strict=True):
        assert torch.equal(ours, theirs) == (row < 0)


def test_the_gate_is_asked_for_each_row(language_model, pool):
    """Also where rows of a batch are padded, and an answer is scored or generated."""
    edited = editor(language_model, pool).edit(REQUESTS[:2]).edited(language_model)
    together = scores(edited)
    alone = [scores(edited, [p], [t])[0] for p, t in zip(PROMPTS, TARGETS, strict=True)]
    assert same(together, alone, 1e-4)
    texts = edited.generate(PROMPTS, max_new_tokens=5)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        (route,) = edited.edit.routes(language_model, [prompt], None)
        ids = language_model.encode([prompt], None).input_ids
        predicted = greedily(language_model, ids, route, 5)
        assert language_model.form.text(ids[0].tolist(), predicted) == text


def test_a_ratio_that_nothing_reaches_leaves_the_model_to_the_bit(language_model, pool):
    edit = editor(language_model, pool, ratio=1e6, steps=3).edit(REQUESTS)
    assert same(scores(edit.edited(language_model)), scores(language_model))
    said = edit.edited(language_model).generate(PROMPTS, max_new_tokens=4)
    assert said == language_model.generate(PROMPTS, max_new_tokens=4)


def test_edits_side_by_side_equal_edits_one_by_one(exact, pool):
    one = editor(exact, pool, steps=8, edits_per_batch=2)
    groups = [REQUESTS[:1], REQUESTS[:2], REQUESTS[2:3], REQUESTS[3:]]
    together = one.make(groups)
    for number, group in enumerate(groups):
        alone, ours = one.edit(group), together.select(number)
        torch.testing.assert_close(ours.weights, alone.weights, rtol=0, atol=1e-10)
        assert ours.least == pytest.approx(alone.least, rel=1e-9)
        assert ours.requests == alone.requests == ((len(group),),)


def test_memories_are_filled_closed_and_merged(exact, pool):
    one = editor(exact, pool, steps=3, shard=2, merge=4)
    edit, held = None, []
    for request in REQUESTS:
        edit = one.edit([request], after=edit)
        held.append(edit.requests)
    assert held == [((1,),), ((2,),), ((2, 1),), ((4,),), ((4, 1),)]
    at_once = one.edit(REQUESTS)
    assert at_once.requests == ((4, 1),)
    closed = one.edit(REQUESTS[:2])
    assert not torch.equal(closed.weights, one.edit(REQUESTS[1:2]).weights)
    further = one.edit(REQUESTS[2:3], after=closed)
    assert torch.equal(further.weights[0], closed.weights[0])
    fresh = further.weights[1] != 0  # besides what the decay has moved
    changed = further.weights[1].abs() > 1e-3
    assert not (changed & ~one.mask_of(1)).any() and fresh.any()


@pytest.mark.parametrize("is_open", [False, True])
def test_the_memory_that_changes_a_prompt_most_is_read(is_open):
    """Of those whose least distance it reaches; the open one bars what changes the prompt less."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 6, 5, generator=generator)
    given, output = (torch.randn(40, 3, d, generator=generator) for d in (6, 5))
    prompt = torch.ones(40, 3, dtype=torch.bool)
    prompt[::2, 2] = False
    counts = (2, 2, 2, 1 if is_open else 2)
    least = (3.0, 3.5, 4.0, 3.5)
    edit = SideEdit(weights, least, (counts,), "layer", "relu", 0.9, 100, 2, "wise", "model")
    after = output[None] + torch.einsum("bti,mio->mbto", given, weights)
    apart = (after.relu() - output.relu()).norm(dim=-1) * prompt
    apart = apart.sum(2) / prompt.sum(1)  # [M, B]
    wanted = []
    for row in range(40):
        own = apart[:, row].tolist()
        reached = [m for m in range(4) if own[m] > 0.9 * least[m]]
        if is_open:
            reached = [m for m in reached if own[m] >= own[3]]
        wanted.append(max(reached, key=lambda m: own[m], default=-1))
    chosen = edit.choose(given, output, prompt, torch.zeros(40, dtype=torch.long))
    assert chosen.tolist() == wanted
    assert set(wanted) == {-1, 0, 1, 2, 3}
    books = torch.tensor([0, -1] * 20)
    assert edit.choose(given, output, prompt, books)[1::2].tolist() == [-1] * 20


def test_saved_and_loaded_it_says_the_same(language_model, pool, tmp_path):
    edit = editor(language_model, pool, steps=5, shard=2, merge=None).edit(REQUESTS)
    edit.save(tmp_path / "edit")
    loaded = load(tmp_path / "edit", language_model)
    assert loaded.least == edit.least and loaded.requests == edit.requests
    ours, theirs = (scores(e.edited(language_model)) for e in (edit, loaded))
    assert same(ours, theirs)
    assert loaded.size(language_model)["memories"] == 3


def test_what_a_memory_is_for_may_be_the_subject_s_tokens(language_model):
    """Then it is not for the other tokens of the text."""
    contexts = ("{}", "It was late. {}")
    rows = rows_of(language_model, [[r] for r in REQUESTS], contexts, [()] * 5, subject=True)
    decode, ids = language_model.tokenizer.decode, rows.batch.input_ids
    said = [decode(row[mask]).strip() for row, mask in zip(ids, rows.inside, strict=True)]
    assert said == [r.subject for r in REQUESTS for _ in contexts]
    assert torch.equal(rows.inside | rows.outside, rows.prompt)
    assert not (rows.inside & rows.outside).any()


def test_texts_that_are_left_alone_are_drawn_by_the_request():
    texts = [(f"{n} Lagos" if n % 2 else f"{n}", "a") for n in range(40)]
    some = drawn(texts, 5, "key", "Lagos")
    assert some == drawn(texts, 5, "key", "Lagos") != drawn(texts, 5, "other", "Lagos")
    assert len(some) == 5 and not any("Lagos" in prompt for prompt, _ in some)


def test_what_it_cannot_do_it_says(language_model, tiny, pool, tmp_path):
    with pytest.raises(ValueError, match="wise takes texts to leave alone of a pool: pool=record"):
        Wise(language_model).edit(REQUESTS)
    with pytest.raises(ValueError, match="locality=0 leaves nothing outside"):
        Wise(language_model, locality=0).edit(REQUESTS)
    with pytest.raises(ValueError, match="merge=700: expected several times shard=500, or null"):
        Wise(language_model, merge=700)
    with pytest.raises(UnsupportedModel, match="wise works on decoder-only models"):
        Wise(tiny("t5"))
    edit = editor(language_model, pool, steps=2).edit(REQUESTS[:2])
    with pytest.raises(ValueError, match="single requests cannot be taken out of an edit of wise"):
        edit.without(PROMPTS[:1])
    with pytest.raises(ValueError, match="an edit of wise changes no weights, so it cannot be mer"):
        edit.merge(language_model, tmp_path / "merged")
    with pytest.raises(ValueError, match="cannot be exported as an adapter"):
        edit.export(language_model, tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"wise goes on from its own edits of .* shard=3 only"):
        editor(language_model, pool, shard=3, merge=None).edit(REQUESTS[2:], after=edit)
