"""Edit records about Atlas: because the world is known, every probe has a true answer."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection

from datamodules.atlas.depth import DepthWriter
from datamodules.atlas.world import Fact, Relation, World
from datamodules.records import Probe, Record, Request

MOST = {"generalization": 2, "neighborhood": 3, "unrelated": 3, "other_relation": 3}
"""How many probes of a kind a record has at most; generalization counts statements."""


class RecordWriter:
    """Writes the records of one split.

    The subject of every probe is of the same split as the request's: what a trained editor meets
    while it trains, as edit or as probe, never comes back when it is tested.

    Args:
        world: the facts.
        split: "train", "val" or "test".
        seed: of the choice of new objects, wordings and probes.
        depth: whether records have the probes of `depth`, behind all others.
        unseen: relations whose facts get no record; probes still ask for them where nothing that
            is changed is to show in them.
    """

    def __init__(
        self,
        world: World,
        split: str,
        seed: int,
        depth: bool = False,
        unseen: Collection[str] = (),
    ):
        self.world = world
        self.split = split
        self.seed = seed
        self.depth = depth
        derived = set().union(*(world.derived(kind) for kind in set(world.kind.values())))
        here = [fact for fact in world.facts if world.split[fact.subject] == split]
        left_out = derived.union(unseen)
        self.facts = [fact for fact in here if fact.relation not in left_out]
        self._all = here
        self._same = defaultdict(list)
        for fact in here:
            self._same[fact.relation, fact.object].append(fact)

    def records(self, variants: int = 1) -> list[Record]:
        """One record for each editable fact and variant; a variant has its own new object."""
        facts = [(fact, variant) for variant in range(variants) for fact in self.facts]
        random.Random(f"{self.seed}-{self.split}").shuffle(facts)
        return [self.record(fact, variant) for fact, variant in facts]

    def record(self, fact: Fact, variant: int) -> Record:
        """The record that gives ``fact`` a new object."""
        rng = random.Random(f"{self.seed}-{fact.subject}-{fact.relation}-{variant}")
        relation = self.world.relations[fact.relation]
        target = self._new_object(rng, fact)
        wording, *others = rng.sample(relation.statements, 1 + MOST["generalization"])
        request = Request(wording.format(fact.subject), fact.subject, target, fact.object)
        paraphrases = [*others, rng.choice(relation.questions)]
        probes = [
            Probe("generalization", prompt.format(fact.subject), target, fact.object)
            for prompt in paraphrases
        ]
        probes += self._portability(rng, fact, relation, request)
        probes += self._locality(rng, fact, relation, request)
        if self.depth:
            probes += DepthWriter(self.world, self.facts, rng).probes(fact, request)
        return Record(f"{fact.subject}/{fact.relation}/{variant}", (request,), tuple(probes))

    def _new_object(self, rng: random.Random, fact: Fact) -> str:
        """Another object of the relation; if possible one about which this split may ask."""
        objects = [o for o in self.world.objects[fact.relation] if o != fact.object]
        reverse = self.world.relations[fact.relation].reverse
        if reverse:
            known = [
                o
                for o in objects
                if self.world.split.get(o) == self.split and reverse in self.world.about(o)
            ]
            objects = known or objects
        return rng.choice(objects)

    def _portability(self, rng, fact: Fact, relation: Relation, request: Request) -> list[Probe]:
        """Alias of the subject, reversed relation, and what follows from the new object."""
        probes, target = [], request.target
        alias = self.world.alias.get(fact.subject)
        if alias:
            prompt = rng.choice(relation.statements).format(alias)
            probes.append(Probe("subject_alias", prompt, target, fact.object))
        if relation.reverse and self.world.split.get(target) == self.split:
            prompt = rng.choice(self.world.relations[relation.reverse].statements)
            probes.append(Probe("reversed_relation", prompt.format(target), fact.subject))
        objects = self.world.about(fact.subject)
        for name, at in relation.follows.items():
            if name not in objects or at == "none":
                continue
            answer = target if at == "same" else self.world.about(target).get(at)
            if answer and answer != objects[name]:
                prompt = rng.choice(self.world.relations[name].statements).format(fact.subject)
                probes.append(Probe("one_hop", prompt, answer, objects[name]))
        return probes

    def _locality(self, rng, fact: Fact, relation: Relation, request: Request) -> list[Probe]:
        """Neighbours, unrelated facts, other relations, and the edit in front of a neighbour."""
        same = [f for f in self._same[fact.relation, fact.object] if f.subject != fact.subject]
        neighbors = rng.sample(same, min(MOST["neighborhood"], len(same)))
        probes = [
            Probe("neighborhood", self._prompt(rng, f), f.object, request.target) for f in neighbors
        ]
        if neighbors:
            statement = f"{request.prompt} {request.target}. "
            prompt = statement + self._prompt(rng, neighbors[-1])
            probes.append(Probe("distracting_neighbor", prompt, fact.object, request.target))
        unrelated = []
        while len(unrelated) < MOST["unrelated"]:
            other = rng.choice(self._all)
            if other.relation != fact.relation and other.subject not in (
                fact.subject,
                request.target,
            ):
                unrelated.append(other)
        others = [
            Fact(fact.subject, name, o)
            for name, o in self.world.about(fact.subject).items()
            if name != fact.relation and name not in relation.follows
        ]
        others = rng.sample(others, min(MOST["other_relation"], len(others)))
        probes += [Probe("unrelated", self._prompt(rng, f), f.object) for f in unrelated]
        probes += [Probe("other_relation", self._prompt(rng, f), f.object) for f in others]
        return probes

    def _prompt(self, rng: random.Random, fact: Fact) -> str:
        return rng.choice(self.world.relations[fact.relation].prompts).format(fact.subject)
