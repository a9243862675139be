"""MEMOIR: masks belong to prompts, gates to rows, and what is not like a request is spared."""

import pytest
import torch
from greedy import greedily

from datamodules.atlas.data import AtlasData
from datamodules.pool import Pool
from datamodules.records import Request
from editors.additional_parameters.memoir import Memoir
from editors.locate_then_edit.search.contexts import Contexts
from edits import load
from edits.updates import Dense
from edits.weights import WeightEdit
from models import UnsupportedModel

REQUESTS = [
    Request("The Eiffel Tower is in", "Eiffel Tower", "Sweden"),
    Request("The capital of Japan is", "Japan", "Paris"),
    Request("Marie Curie was a citizen of", "Marie Curie", "Germany"),
    Request("Lagos is a city in", "Lagos", "Poland"),
]
PROMPTS = [r.prompt for r in REQUESTS]
TARGETS = [r.target for r in REQUESTS]
OTHERS = ["Once upon a time", "Two and two make", "He said", "The"]


@pytest.fixture(scope="module")
def pool():
    return Pool(AtlasData(), limit=6)


def editor(lm, pool, **settings):
    settings = {
        "optimiser": "adam", "lr": 2e-2, "steps": 60, "clip": None, "overlap": 0.95,
        "contexts": Contexts(["{}", "It was late. {}"]), **settings,
    }  # fmt: skip
    return Memoir(lm, pool=pool, **settings)


def scores(model, prompts=PROMPTS, targets=TARGETS, **rows):
    return model.score(prompts, targets, **rows).log_probs


def close(ours, theirs, tolerance=0.0):
    return all(
        torch.allclose(a, b, rtol=tolerance, atol=tolerance)
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_requests_are_true_and_what_is_unlike_them_is_spared_to_the_bit(tiny, pool, family):
    lm = tiny(family)
    edit = editor(lm, pool, steps=250).edit(REQUESTS)
    edited = edit.edited(lm)
    assert edited.score(PROMPTS, TARGETS).exact() == [True] * 4
    assert not any(lm.score(PROMPTS, TARGETS).exact())
    targets = ["a"] * 4
    assert all(map(torch.equal, scores(edited, OTHERS, targets), scores(lm, OTHERS, targets)))
    assert edited.generate(OTHERS, max_new_tokens=4) == lm.generate(OTHERS, max_new_tokens=4)


def test_a_descent_by_sgd_ends_once_its_loss_is_small(language_model, pool):
    one = editor(language_model, pool, optimiser="sgd", lr=3.0, stop_loss=4.0, steps=200)
    one.prepare()
    with torch.no_grad():
        _, histories = one.run([[request] for request in REQUESTS])
    for losses in histories:
        assert losses[-1] < 4.0 <= min(losses[:-1]) and len(losses) < 200


@pytest.mark.parametrize("features", ["mean", "last"])
def test_a_mask_is_the_prompt_s_whatever_stands_beside_and_behind_it(
    language_model, pool, features
):
    one = editor(language_model, pool, features=features)
    one.prepare()
    together = one.hashing.masks(*one._given(PROMPTS))
    alone = torch.cat([one.hashing.masks(*one._given([prompt])) for prompt in PROMPTS])
    assert torch.equal(together, alone)
    assert set(together.sum(1).tolist()) == {one.hashing.active}
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("rows", [None, [0, 1, 2, 3]])
def test_rows_of_a_batch_are_rows_alone_scored_as_generated(language_model, pool, rows):
    one = editor(language_model, pool)
    edited = (one.edit(REQUESTS) if rows is None else one.edit_each(REQUESTS)).edited(
        language_model
    )
    options = [{} if rows is None else {"rows": [row]} for row in range(4)]
    together = scores(edited, **({} if rows is None else {"rows": rows}))
    alone = [
        scores(edited, [p], [t], **own)[0]
        for p, t, own in zip(PROMPTS, TARGETS, options, strict=True)
    ]
    assert close(together, alone, 1e-4)
    texts = edited.generate(PROMPTS, max_new_tokens=5, **({} if rows is None else {"rows": rows}))
    for row, (prompt, text) in enumerate(zip(PROMPTS, texts, strict=True)):
        (route,) = edited.edit.routes(
            language_model, [prompt], None if rows is None else torch.tensor([row])
        )
        ids = language_model.encode([prompt], None).input_ids
        predicted = greedily(language_model, ids, route, 5)
        assert language_model.form.text(ids[0].tolist(), predicted) == text


def test_a_row_sees_the_requests_of_its_own_edit_only(language_model, pool):
    edited = editor(language_model, pool).edit_each(REQUESTS).edited(language_model)
    plain = scores(language_model)
    assert all(map(torch.equal, scores(edited, rows=[1, 2, 3, 0]), plain))
    mixed = scores(edited, rows=[0, -1, 2, -1])
    assert [torch.equal(a, b) for a, b in zip(mixed, plain, strict=True)] == [0, 1, 0, 1]


def test_a_mask_of_everything_is_a_change_of_the_weight(language_model, pool):
    edit = editor(language_model, pool, active=1.0, overlap=0.0).edit(REQUESTS)
    dense = WeightEdit({edit.layer: Dense(edit.matrices)}, "dense", language_model.fingerprint)
    ours, theirs = (scores(e.edited(language_model), OTHERS, ["a"] * 4) for e in (edit, dense))
    assert close(ours, theirs, 1e-5)
    assert not close(ours, scores(language_model, OTHERS, ["a"] * 4), 1e-3)


def test_edits_side_by_side_equal_edits_one_by_one(exact, pool):
    one = editor(exact, pool, steps=6, edits_per_batch=2)
    groups = [REQUESTS[:1], REQUESTS[:2], REQUESTS[2:3], REQUESTS[2:]]
    together = one.make(groups)
    for number, group in enumerate(groups):
        alone, ours = one.edit(group), together.select(number)
        torch.testing.assert_close(ours.matrices, alone.matrices, rtol=0, atol=1e-10)
        assert torch.equal(ours.masks, alone.masks) and ours.prompts == alone.prompts


def test_only_rows_that_a_mask_lets_through_are_changed(exact, pool):
    one = editor(exact, pool, steps=6)
    first = one.edit(REQUESTS[:1])
    assert torch.equal(first.matrices[0].any(1), first.masks[0])
    both = one.edit(REQUESTS[1:2], after=first)
    assert len(both.masks) == 2 and both.prompts == ((PROMPTS[0], PROMPTS[1]),)
    changed = (both.matrices[0] != first.matrices[0]).any(1)
    assert torch.equal(changed, both.masks[1])


def test_saved_and_loaded_it_says_the_same_and_goes_on(language_model, pool, tmp_path):
    one = editor(language_model, pool)
    edit = one.edit(REQUESTS[:3])
    edit.save(tmp_path / "edit")
    loaded = load(tmp_path / "edit", language_model)
    ours, theirs = (scores(e.edited(language_model)) for e in (edit, loaded))
    assert close(ours, theirs) and not close(ours, scores(language_model), 1e-3)
    further = (one.edit(REQUESTS[3:], after=before) for before in (edit, loaded))
    assert torch.equal(*(e.matrices for e in further))


def test_what_it_cannot_do_it_says(language_model, tiny, pool, tmp_path):
    with pytest.raises(ValueError, match="memoir takes its background of a pool: pool=records"):
        Memoir(language_model).edit(REQUESTS)
    with pytest.raises(UnsupportedModel, match="memoir works on decoder-only models"):
        Memoir(tiny("bart"))
    with pytest.raises(ValueError, match="active must be more than 0, got 0"):
        Memoir(language_model, active=0.0)
    one = editor(language_model, pool, steps=2)
    edit = one.edit(REQUESTS[:2])
    with pytest.raises(ValueError, match="memoir share the rows of its matrix, so that single"):
        edit.without(PROMPTS[:1])
    with pytest.raises(ValueError, match="an edit of memoir changes no weights, so it cannot be m"):
        edit.merge(language_model, tmp_path / "merged")
    with pytest.raises(ValueError, match="has masks of another seed, share or feature"):
        editor(language_model, pool, seed=1).edit(REQUESTS[2:], after=edit)
