"""The text from which a variant of Atlas's model learns what facts in front of a question are for.

Five formats, those of the editors that keep facts as text: facts before a question, demonstrations
of how facts are used (IKE's), a vote on which of some facts answers a question (SCR's), a question
with a clarification (MemPrompt's), and a question in steps, each with a fact that was looked up
(MeLLo's). Their facts are false, and all about subjects of the split train, so that what the model
does with facts about the others is what it has learned, not what it has seen.
"""

from __future__ import annotations

import random
from collections import defaultdict
from functools import cached_property

from datamodules.atlas.text import AtlasText
from datamodules.atlas.world import Fact

LETTERS, NONE = "ABCDE", "Z"
TYPES = ("copy", *("update",) * 3, *("retain",) * 4)
"""Of demonstrations, in their shares."""


class AtlasFormats(AtlasText):
    """Documents in the five formats, beside biographies and statements that keep facts known.

    Args:
        seed: as of `AtlasText`.
        biographies: documents per subject and pass.
        statements: sentences per fact and pass.
        facts: documents of facts before a question, in a pass.
        demonstrations: documents of demonstrations.
        most: demonstrations of a document, at most.
        votes: documents of votes.
        clarifications: documents of clarifications.
        steps: documents of questions in steps.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        biographies: int = 1,
        statements: float = 0.5,
        facts: int = 4000,
        demonstrations: int = 240,
        most: int = 33,
        votes: int = 1500,
        clarifications: int = 800,
        steps: int = 1500,
    ):
        super().__init__(seed=seed, biographies=biographies, statements=statements, contexts=0)
        self.most = most
        self.counts = {
            self._facts: facts,
            self._demonstrations: demonstrations,
            self._vote: votes,
            self._clarification: clarifications,
            self._steps: steps,
        }
        self._here = [f for f in self.world.facts if self.world.split[f.subject] == "train"]
        self._like: dict[tuple[str, ...], list[Fact]] = defaultdict(list)
        for fact in self._here:
            for key in (("all",), ("of", fact.relation), ("about", fact.subject)):
                self._like[key].append(fact)
            self._like["same", fact.relation, fact.object].append(fact)

    def documents(self, number: int) -> list[str]:
        """The documents of pass ``number``, shuffled."""
        rng = random.Random(f"{self.seed}-formats-{number}")
        texts = super().documents(number)
        texts += [write(rng) for write, count in self.counts.items() for _ in range(count)]
        rng.shuffle(texts)
        return texts

    # what stands in front, and what is asked behind it

    def _false(self, rng: random.Random, fact: Fact) -> Fact:
        """The fact with another object."""
        others = [o for o in self.world.objects[fact.relation] if o != fact.object]
        return Fact(fact.subject, fact.relation, rng.choice(others))

    def _other(self, rng: random.Random, fact: Fact) -> Fact:
        """A true fact that another one says nothing of, but is often like it."""
        keys = (("same", fact.relation, fact.object), ("of", fact.relation))
        keys = (*keys, ("about", fact.subject), ("all",))
        touched = (fact.relation, *self.world.relations[fact.relation].follows)
        while True:
            [key] = rng.choices(keys, (4, 3, 2, 2))
            other = rng.choice(self._like[key] or self._here)
            if other.subject != fact.subject or other.relation not in touched:
                return other

    def _told(self, rng: random.Random, fact: Fact) -> str:
        """A fact as a request has it: a statement."""
        return f"{self._prompt(rng, fact, only_statements=True)} {fact.object}"

    def _question(self, rng: random.Random, told: str, fact: Fact) -> str:
        """A question about a fact, at times in the words in which it is told."""
        own = rng.random() < 0.25
        return told.removesuffix(f" {fact.object}") if own else self._prompt(rng, fact)

    def _facts(self, rng: random.Random) -> str:
        """One to five facts, and a question: about one of them, or about something else."""
        first = rng.choice(self._here)
        around = [self._other(rng, first) for _ in range(rng.choice((0, 0, 0, 1, 1, 1, 2, 4)))]
        subjects = {(f.subject, f.relation): f for f in (*around, first)}
        facts = [self._false(rng, fact) for fact in subjects.values()]
        told = {fact: self._told(rng, fact) for fact in facts}
        about = rng.choice(facts)
        question = f"{self._question(rng, told[about], about)} {about.object}"
        if rng.random() < 0.4:
            other = self._other(rng, subjects[about.subject, about.relation])
            if (other.subject, other.relation) not in subjects:
                question = f"{self._prompt(rng, other)} {other.object}"
        rng.shuffle(facts)
        return "".join(f"New fact: {told[f]}. " for f in facts) + f"Prompt: {question}."

    def _demonstrations(self, rng: random.Random) -> str:
        """Facts, each with a question, most of them about few relations."""
        count = rng.choice((self.most, rng.randint(1, self.most)))
        relations = rng.sample(list(self.world.relations), rng.choice((1, 2, 4, 8)))
        near = [fact for relation in relations for fact in self._like["of", relation]]
        return "".join(self._demonstration(rng, rng.choice(near)) for _ in range(count))

    def _demonstration(self, rng: random.Random, fact: Fact) -> str:
        kind, new = rng.choice(TYPES), self._false(rng, fact)
        told = self._told(rng, new)
        asked = {"copy": new, "update": new, "retain": self._other(rng, fact)}[kind]
        question = told if kind == "copy" else f"{self._prompt(rng, asked)} {asked.object}"
        return f"New Fact: {told}\nPrompt: {question}\n\n"

    def _vote(self, rng: random.Random) -> str:
        """One to five facts, and the letter of the one that a question asks for, or of none."""
        fact = rng.choice(self._here)
        others = [self._other(rng, fact) for _ in range(rng.choice((0, 1, 2, 4, 4)))]
        false = [self._false(rng, f) for f in others]
        if rng.random() < 0.5 or not false:
            false.insert(rng.randint(0, len(false)), self._false(rng, fact))
        told = [self._told(rng, f) for f in false]
        lines = "".join(f"{letter}. {t}.\n" for letter, t in zip(LETTERS, told, strict=False))
        own = (fact.subject, fact.relation)
        at = next((n for n, f in enumerate(false) if (f.subject, f.relation) == own), None)
        letter, question = NONE, None
        if at is not None:
            letter, question = LETTERS[at], self._question(rng, told[at], false[at])
        question = question or self._prompt(rng, fact)
        return (
            f"{lines}{NONE}. None of these.\nQuestion: {question}\n"
            f"Which of these says what the question asks for? Answer: {letter}"
        )

    def _clarification(self, rng: random.Random) -> str:
        """A question with a fact behind it, which mostly answers it, and the answer."""
        fact = rng.choice(self._here)
        new = self._false(rng, fact)
        told = self._told(rng, new)
        asked = new if rng.random() < 0.7 else self._other(rng, fact)
        question = self._question(rng, told, new) if asked is new else self._prompt(rng, asked)
        return f"{question} | clarification: {told}.\n\n###\n\n/ {asked.object} END"

    # steps

    def _steps(self, rng: random.Random) -> str:
        """A question, its sub-questions, what the model says, what is looked up, and the answer."""
        derived = rng.random() < 0.4
        fact = rng.choice([f for f in self._here if (f.relation in self._over) == derived])
        text = f"Question: {self._prompt(rng, fact)}"
        subject, answer = fact.subject, ""
        for relation in self._over.get(fact.relation, (fact.relation,)):
            lines, answer = self._step(rng, subject, relation)
            text, subject = text + lines, answer
        return f"{text}\nFinal answer: {answer}"

    @cached_property
    def _over(self) -> dict[str, tuple[str, str]]:
        """What only follows from another relation: that one, and the one of its object."""
        over = {}
        for relation in self.world.relations.values():
            for name, at in relation.follows.items():
                if at in self.world.relations and not self.world.relations[name].follows:
                    over.setdefault(name, (relation.name, at))
        return over

    def _step(self, rng: random.Random, subject: str, relation: str) -> tuple[str, str]:
        """The lines of a sub-question, and the answer that goes on."""
        fact = Fact(subject, relation, self.world.about(subject)[relation])
        question = self.world.relations[relation].statements[0].format(subject)
        retrieved, answer = self._false(rng, self._other(rng, fact)), fact.object
        if self.world.split[subject] == "train" and rng.random() < 0.5:
            retrieved = self._false(rng, fact) if rng.random() < 0.9 else fact
            answer = retrieved.object
        verb = "does not contradict" if answer == fact.object else "contradicts"
        return (
            f"\nSubquestion: {question}\nGenerated answer: {fact.object}.\n"
            f"Retrieved fact: {self._told(rng, retrieved)}.\n"
            f"Retrieved fact {verb} to generated answer, so the intermediate answer is: {answer}"
        ), answer
