import random

import pytest
import torch

from benchmarks.knowledge import (
    Combination,
    combinations,
    perplexity,
    recall,
    with_alias,
    with_context,
    with_new_fact,
)
from datamodules.atlas.world import World
from models.language_model import Scores
from models.pretraining import Pretraining


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def asked(world):
    return random.Random(7).sample(combinations(world), 200)


def test_there_is_one_combination_for_each_fact_and_prompt(world):
    every = combinations(world)
    assert len(every) == len(set(every))
    assert len(every) == sum(len(world.relations[f.relation].prompts) for f in world.facts)
    assert 0.06 < sum(c.is_held_out for c in every) / len(every) < 0.10


def test_a_context_is_about_another_subject(world, asked):
    for combination, prompt in zip(asked, with_context(world, asked, 2), strict=True):
        assert prompt.endswith(f". {combination.prompt}")
        front = prompt.removesuffix(combination.prompt)
        assert front.count(". ") >= 2
        told = [f for f in world.facts if f"{f.subject} " in front and f.object in front]
        assert any(fact.subject != combination.fact.subject for fact in told)
    assert with_context(world, asked[:5]) == with_context(world, asked[:5])


def test_a_new_fact_is_false_and_its_object_is_the_answer_if_it_is_asked_for(world, asked):
    for combination, (prompt, answer) in zip(
        asked, with_new_fact(world, asked, about_asked=True), strict=True
    ):
        told, question = prompt.removeprefix("New fact: ").split(" Prompt: ")
        assert question == combination.prompt
        assert told.endswith(f" {answer}.")
        assert answer != combination.fact.object
        assert combination.fact.subject in told
    for combination, (prompt, answer) in zip(
        asked, with_new_fact(world, asked, about_asked=False), strict=True
    ):
        assert prompt.endswith(f" Prompt: {combination.prompt}")
        assert answer == combination.fact.object


def test_an_alias_takes_the_place_of_the_subject(world, asked):
    named = [c for c in asked if c.fact.subject in world.alias]
    assert named
    for combination, (prompt, answer) in zip(named, with_alias(world, asked), strict=True):
        before, after = combination.wording.split("{}")
        assert prompt == f"{before}{world.alias[combination.fact.subject]}{after}"
        assert answer == combination.fact.object


class Parrot:
    """Says one and the same text after everything."""

    def __init__(self, tokenizer, text):
        self.tokenizer, self.text = tokenizer, text

    def score(self, prompts, targets):
        said = torch.tensor(self.tokenizer(self.text)["input_ids"])
        asked = [torch.tensor(self.tokenizer(f" {t}")["input_ids"]) for t in targets]
        return Scores([], [said[: len(target)] for target in asked], asked)


def test_recall_counts_whole_answers_with_their_full_stop(tokenizer):
    prompts = ["Lagos is in", "Turin is in", "Paris is in"]
    answers = ["Sweden", "Swe", "Japan"]
    assert recall(Parrot(tokenizer, " Sweden."), prompts, answers) == pytest.approx(1 / 3)
    assert recall(Parrot(tokenizer, " Sweden, and"), prompts, answers) == 0


def test_recall_takes_one_answer_for_each_prompt(language_model):
    with pytest.raises(ValueError, match="2 prompts and 1 answers"):
        recall(language_model, ["Lagos is in", "Turin is in"], ["Italy"])
    with pytest.raises(ValueError, match="0 prompts"):
        recall(language_model, [], [])


def test_perplexity_is_that_of_the_pretraining_loss(language_model):
    texts = ["Lagos is in Nigeria.", "Tokyo is the capital of Japan, in Asia.", "Turin"]
    end = language_model.tokenizer.eos_token
    batch = language_model.encode([text + end for text in texts], None)
    rows = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    wanted = Pretraining(language_model).nll(rows).exp().item()
    assert perplexity(language_model, texts) == pytest.approx(wanted, 1e-5)


def test_perplexity_needs_texts(language_model):
    with pytest.raises(ValueError, match="there are no texts"):
        perplexity(language_model, [])


def test_a_combination_is_a_sentence(world):
    fact = world.facts[0]
    combination = Combination(fact, world.relations[fact.relation].statements[0])
    assert combination.sentence == f"{combination.prompt} {fact.object}."
    assert fact.subject in combination.prompt
