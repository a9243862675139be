"""What a language model knows of Atlas, whatever the wording and whatever stands in front.

An answer counts if each token of the object and of the full stop behind it is the most likely one,
which is what greedy decoding would write.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from datamodules.atlas.world import Fact, World, held_out
from models.language_model import LanguageModel

TEXTS_PER_BATCH = 64


@dataclass(frozen=True)
class Combination:
    """A fact and one of the prompts of its relation; ``{}`` stands for the subject."""

    fact: Fact
    wording: str

    @property
    def prompt(self) -> str:
        """The prompt, up to right before the object."""
        return self.wording.format(self.fact.subject)

    @property
    def sentence(self) -> str:
        """The prompt with its answer."""
        return f"{self.prompt} {self.fact.object}."

    @property
    def is_held_out(self) -> bool:
        """Whether no training text contains it."""
        return held_out(self.fact, self.wording)


def combinations(world: World) -> list[Combination]:
    """Every fact with every prompt of its relation."""
    return [
        Combination(fact, wording)
        for fact in world.facts
        for wording in world.relations[fact.relation].prompts
    ]


def recall(language_model: LanguageModel, prompts: Sequence[str], answers: Sequence[str]) -> float:
    """Share (0 to 1) of the prompts that the model continues by the answer and a full stop.

    Raises:
        ValueError: there are no prompts, or not one answer for each.
    """
    if not prompts or len(prompts) != len(answers):
        raise ValueError(f"{len(prompts)} prompts and {len(answers)} answers; one for each")
    scores = language_model.score(prompts, [f"{answer}." for answer in answers])
    return sum(scores.exact()) / len(prompts)


def with_context(
    world: World, asked: Sequence[Combination], sentences: int = 1, seed: int = 0
) -> list[str]:
    """The prompts behind true sentences about other subjects."""
    rng = random.Random(seed)
    prompts = []
    for combination in asked:
        told = []
        while len(told) < sentences:
            fact = rng.choice(world.facts)
            if fact.subject != combination.fact.subject:
                told.append(Combination(fact, _statement(world, rng, fact)).sentence)
        prompts.append(" ".join([*told, combination.prompt]))
    return prompts


def with_alias(world: World, asked: Sequence[Combination]) -> list[tuple[str, str]]:
    """Prompts and answers of those whose subject has another name, asked by that name."""
    return [
        (c.wording.format(world.alias[c.fact.subject]), c.fact.object)
        for c in asked
        if c.fact.subject in world.alias
    ]


def with_new_fact(
    world: World, asked: Sequence[Combination], about_asked: bool, seed: int = 0
) -> list[tuple[str, str]]:
    """Prompts ``New fact: ... Prompt: ...`` and their right answers.

    The new fact is false. If it is ``about_asked``, it contradicts what is asked, in another
    wording, and its object is the answer; if not, it is about another subject, and the true object
    is the answer.
    """
    rng = random.Random(seed)
    pairs = []
    for combination in asked:
        fact = combination.fact
        while not about_asked and fact.subject == combination.fact.subject:
            fact = rng.choice(world.facts)
        new = rng.choice([o for o in world.objects[fact.relation] if o != fact.object])
        wording = _statement(world, rng, fact, other_than=combination.wording)
        told = Combination(Fact(fact.subject, fact.relation, new), wording).sentence
        answer = new if about_asked else combination.fact.object
        pairs.append((f"New fact: {told} Prompt: {combination.prompt}", answer))
    return pairs


def perplexity(language_model: LanguageModel, texts: Sequence[str]) -> float:
    """Perplexity per token of the texts, each with the end token and without its first token.

    What reports show is another one: an edited model can be asked for it, and it takes no end token
    (`evaluation.report.health`).

    Raises:
        ValueError: there are no texts.
        UnsupportedModel: the model is an encoder-decoder.
    """
    language_model.require_decoder_only("perplexity")
    if not texts:
        raise ValueError("there are no texts to take the perplexity of")
    nll, count = 0.0, 0
    ordered = sorted(texts, key=len)
    with torch.no_grad():
        for start in range(0, len(ordered), TEXTS_PER_BATCH):
            values = _nlls(language_model, ordered[start : start + TEXTS_PER_BATCH])
            nll, count = nll + values.double().sum().item(), count + len(values)
    return math.exp(nll / count)


def _nlls(language_model: LanguageModel, texts: Sequence[str]) -> torch.Tensor:
    """Negative log-likelihood (nats) of all tokens of the texts but the first ones."""
    batch = language_model.encode(texts, None)
    end = torch.full_like(batch.input_ids[:, :1], language_model.tokenizer.eos_token_id)
    last = batch.attention_mask.sum(1, keepdim=True) - 1  # [B, 1]
    following = torch.cat([batch.input_ids[:, 1:], end], 1).scatter(1, last, end)  # [B, T]
    kept = batch.attention_mask.bool()
    logits = language_model.head(language_model.hidden(batch)[kept])  # [n, V]
    return F.cross_entropy(logits, following[kept], reduction="none")


def _statement(world: World, rng: random.Random, fact: Fact, other_than: str = "") -> str:
    """A wording of the fact as a statement."""
    statements = world.relations[fact.relation].statements
    return rng.choice([s for s in statements if s != other_than])
