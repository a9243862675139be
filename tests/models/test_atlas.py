"""The shipped model knows the embedded world: the claims of its README, on a fixed sample."""

import random

import pytest

from benchmarks.knowledge import combinations, recall, with_alias, with_context, with_new_fact
from datamodules.atlas.world import World
from models.atlas import FOLDER, language_model

SAMPLE = 1500
RECALL = 0.99
RECALL_HELD_OUT = 0.98
RECALL_IN_CONTEXT = 0.97
RECALL_BY_ALIAS = 0.95
NEW_FACT_FOLLOWED = 0.97
MEGABYTES = 20


@pytest.fixture(scope="module")
def model():
    return language_model()


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def asked(world):
    return random.Random(7).sample(combinations(world), SAMPLE)


@pytest.fixture(scope="module")
def fewer(asked):
    return asked[: SAMPLE // 2]


def answered(model, asked, prompts):
    return recall(model, prompts, [combination.fact.object for combination in asked])


def test_it_knows_the_facts(model, asked):
    assert answered(model, asked, [c.prompt for c in asked]) >= RECALL


def test_it_knows_them_in_wordings_that_no_text_had(model, world):
    unseen = [c for c in combinations(world) if c.is_held_out]
    unseen = random.Random(7).sample(unseen, SAMPLE // 2)
    assert answered(model, unseen, [c.prompt for c in unseen]) >= RECALL_HELD_OUT


def test_an_unrelated_sentence_in_front_does_not_matter(model, world, fewer):
    assert answered(model, fewer, with_context(world, fewer)) >= RECALL_IN_CONTEXT


def test_it_knows_subjects_by_their_other_names(model, world, asked):
    assert recall(model, *zip(*with_alias(world, asked), strict=True)) >= RECALL_BY_ALIAS


def test_it_follows_a_new_fact_in_front(model, world, fewer):
    pairs = with_new_fact(world, fewer, about_asked=True)
    assert recall(model, *zip(*pairs, strict=True)) >= NEW_FACT_FOLLOWED


def test_it_generates_the_answer_it_scores_best(model, asked):
    some = asked[:40]
    texts = model.generate([c.prompt for c in some], max_new_tokens=12)
    right = [text.startswith(f" {c.fact.object}.") for text, c in zip(texts, some, strict=True)]
    scored = [recall(model, [c.prompt], [c.fact.object]) == 1 for c in some]
    assert right == scored
    assert sum(right) >= 0.95 * len(some)


def test_it_is_small(model):
    assert sum(p.stat().st_size for p in FOLDER.iterdir() if p.is_file()) <= MEGABYTES * 1e6
    assert model.name == "atlas"


def test_options_are_those_of_loading():
    assert str(language_model(dtype="bfloat16").dtype) == "torch.bfloat16"
    with pytest.raises(ValueError, match="unknown dtype 'int8'"):
        language_model(dtype="int8")
