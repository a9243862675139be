"""The text from which a language model learns Atlas.

What decides where a model keeps a fact is the text (Allen-Zhu and Li, "Physics of Language Models:
Part 3.1", https://arxiv.org/abs/2309.14316): biographies that name a subject once and then tell its
facts by pronoun, in an order, a number and a wording that change each time, make the model attach
the facts to the name. Single statements and questions teach the prompts; several in one document
teach that what stands in front does not matter; and documents that open with "New fact:" teach that
there it does.
"""

from __future__ import annotations

import random

from datamodules.atlas.world import Fact, World, held_out
from datamodules.text import TextCorpus


class AtlasText:
    """Documents about the world, drawn anew for each pass.

    Args:
        seed: of everything that is drawn; the documents of pass ``n`` depend on it and ``n`` alone.
        biographies: documents per subject and pass.
        statements: sentences per fact and pass.
        contexts: documents with a new fact per fact and pass.
        alias_share: how often a subject that has an alias is called by it.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        biographies: int = 2,
        statements: float = 1.25,
        contexts: float = 0.6,
        alias_share: float = 0.25,
    ):
        self.world = World()
        self.seed = seed
        self.biographies = biographies
        self.statements = statements
        self.contexts = contexts
        self.alias_share = alias_share

    def documents(self, number: int) -> list[str]:
        """The documents of pass ``number``, shuffled."""
        rng = random.Random(f"{self.seed}-{number}")
        subjects, facts = self.world.subjects, self.world.facts
        texts = [self._biography(rng, s) for s in subjects for _ in range(self.biographies)]
        texts += self._statements(rng, facts)
        texts += [self._context(rng) for _ in range(round(self.contexts * len(facts)))]
        rng.shuffle(texts)
        return texts

    def unseen(self) -> list[str]:
        """Every combination of a fact and a prompt that is held out of all passes."""
        return [
            f"{prompt.format(fact.subject)} {fact.object}."
            for fact in self.world.facts
            for prompt in self.world.relations[fact.relation].prompts
            if held_out(fact, prompt)
        ]

    def _name(self, rng: random.Random, subject: str) -> str:
        alias = self.world.alias.get(subject)
        return alias if alias and rng.random() < self.alias_share else subject

    def _prompt(self, rng: random.Random, fact: Fact, only_statements: bool = False) -> str:
        relation = self.world.relations[fact.relation]
        prompts = relation.statements if only_statements else relation.prompts
        allowed = [p for p in prompts if not held_out(fact, p)] or [prompts[0]]
        return rng.choice(allowed).format(self._name(rng, fact.subject))

    def _biography(self, rng: random.Random, subject: str) -> str:
        about = list(self.world.about(subject).items())
        rng.shuffle(about)
        facts = about[: rng.randint(min(2, len(about)), len(about))]
        first = Fact(subject, *facts[0])
        sentences = [f"{self._prompt(rng, first, only_statements=True)} {first.object}."]
        called = pronoun(self.world, subject)
        for relation, obj in facts[1:]:
            wording = rng.choice(self.world.relations[relation].pronoun).format(called)
            sentences.append(f"{wording} {obj}.")
        return " ".join(sentences)

    def _statements(self, rng: random.Random, facts: list[Fact]) -> list[str]:
        count = round(self.statements * len(facts))
        drawn = (facts * (count // len(facts) + 1))[: count // len(facts) * len(facts)]
        drawn += rng.sample(facts, count - len(drawn))
        rng.shuffle(drawn)
        texts, start = [], 0
        while start < len(drawn):
            size = rng.choice((1, 1, 2, 3))
            group = drawn[start : start + size]
            texts.append(" ".join(f"{self._prompt(rng, f)} {f.object}." for f in group))
            start += size
        return texts

    def _context(self, rng: random.Random) -> str:
        """A new fact that is false, then a question: mostly about it, else about something else."""
        fact = rng.choice(self.world.facts)
        new = rng.choice([o for o in self.world.objects[fact.relation] if o != fact.object])
        wording = self._prompt(rng, fact, only_statements=True)
        premise = f"New fact: {wording} {new}. Prompt:"
        kind = rng.random()
        if kind < 0.25:
            return f"{premise} {wording} {new}."
        if kind < 0.65:
            return f"{premise} {self._prompt(rng, fact)} {new}."
        other = rng.choice(self.world.facts)
        while other.subject == fact.subject:
            other = rng.choice(self.world.facts)
        return f"{premise} {self._prompt(rng, other)} {other.object}."


def pronoun(world: World, subject: str) -> str:
    """What the text calls a subject once it is named."""
    if world.kind[subject] != "person":
        return "It"
    return "She" if subject.split()[0][-1] in "aey" else "He"


def corpus(texts: int = 5000) -> TextCorpus:
    """The first documents of a pass, for statistics such as second moments of keys."""
    return TextCorpus(AtlasText().documents(0)[:texts])


def unseen(texts: int = 500, seed: int = 0) -> TextCorpus:
    """Sentences that no pass contains, of subjects about which val and test do not ask."""
    world = World()
    others = [name for name in world.subjects if world.split[name] != "train"]
    sentences = [text for text in AtlasText().unseen() if not any(name in text for name in others)]
    return TextCorpus(random.Random(seed).sample(sentences, texts))
