"""Probes of the group ``depth`` about Atlas; `datamodules.depth` says what counts as right."""

from __future__ import annotations

import random
from collections.abc import Sequence

from datamodules import depth
from datamodules.atlas.text import pronoun
from datamodules.atlas.world import Fact, World
from datamodules.records import Probe, Request

OPTIONS = 4
"""Answers that a choice offers."""


class DepthWriter:
    """Writes them; each needs another fact of the relation, of which a control question is asked.

    Args:
        world: the facts.
        facts: those about which may be asked.
        rng: of wordings, options and their order, and of the other fact.
    """

    def __init__(self, world: World, facts: Sequence[Fact], rng: random.Random):
        self.world = world
        self.facts = facts
        self.rng = rng

    def probes(self, fact: Fact, request: Request) -> list[Probe]:
        """Those of a fact whose object a request changes."""
        old, new = fact.object, request.target
        probes = depth.negated(f"It is not true that {self._clause(fact)}", old, new)
        probes += self._yes_no(fact, new, old, "yes_no")
        probes += self._choice(fact, new, old, "choice")
        others = [
            f for f in self.facts if f.relation == fact.relation and f.object not in (old, new)
        ]
        if others:
            other = self.rng.choice(others)
            probes += self._yes_no(other, other.object, new, "yes_no_control")
            probes += self._choice(other, other.object, new, "choice_control")
        return probes + self._leak(fact, new, old)

    def _statement(self, fact: Fact) -> str:
        return self.rng.choice(self.world.relations[fact.relation].statements).format(fact.subject)

    def _clause(self, fact: Fact) -> str:
        """A statement behind other words."""
        text = self._statement(fact)
        return text if text.startswith(fact.subject) else text[0].lower() + text[1:]

    def _yes_no(self, fact: Fact, right: str, wrong: str, kind: str) -> list[Probe]:
        question = f"Question: Is it true that {self._clause(fact)} {{}}? {depth.ANSWER}"
        return depth.yes_no(question.format(right), question.format(wrong), kind)

    def _choice(self, fact: Fact, right: str, wrong: str, kind: str) -> list[Probe]:
        question = self.rng.choice(self.world.relations[fact.relation].questions)
        objects = [o for o in self.world.objects[fact.relation] if o not in (right, wrong)]
        size = min(OPTIONS - 2, len(objects))
        options = [right, wrong, *self.rng.sample(objects, size)]
        self.rng.shuffle(options)
        return depth.choice(question.format(fact.subject), options, right, wrong, kind)

    def _leak(self, fact: Fact, new: str, old: str) -> list[Probe]:
        """A biography that has begun with a fact that has nothing to do with this one, if any."""
        follows = {name: relation.follows for name, relation in self.world.relations.items()}
        others = [
            Fact(fact.subject, name, o)
            for name, o in self.world.about(fact.subject).items()
            if name not in (fact.relation, *follows[fact.relation])
            and fact.relation not in follows[name]
            and o not in (old, new)
        ]
        if not others:
            return []
        other = self.rng.choice(others)
        start = f"{self._statement(other)} {other.object}. {pronoun(self.world, fact.subject)}"
        return depth.leak(start, new, old)
