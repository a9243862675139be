"""Demonstrations: facts of a pool, with questions that they answer and questions that they do not.

Zheng, Li, Dong, Fan, Wu, Xu, Chang: "Can We Edit Factual Knowledge by In-Context Learning?", EMNLP
2023, https://arxiv.org/abs/2305.12740.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.records import PROBE_KINDS, Probe, Record, Request
from editors.settings import at_least, one_of
from edits.layout import Fact, Layout

TYPES = ("copy", "update", "retain")


@dataclass(frozen=True)
class Demonstrations:
    """How many demonstrations stand in front of an edit, and of which types.

    A ``copy`` asks for the fact in its own words, an ``update`` in others; a ``retain`` asks for
    something that the fact says nothing of.

    Attributes:
        count: how many, beside the copy of the edit itself.
        copies: the share of copies among them, of ``copies + updates + retains``.
        updates: that of updates.
        retains: that of retains.
        update_kinds: probes that an update may ask.
        retain_kinds: probes that a retain may ask: those of the first kind that a record has.
        end: what stands behind each.
        seed: of the order of types, and of which probe is asked.

    Raises:
        ValueError: an attribute is out of its range.
    """

    count: int = 32
    copies: int = 1
    updates: int = 3
    retains: int = 4
    update_kinds: Sequence[str] = ("generalization",)
    retain_kinds: Sequence[str] = ("neighborhood", "unrelated", "other_relation")
    end: str = "\n\n"
    seed: int = 0

    def __post_init__(self):
        at_least(0, copies=self.copies, updates=self.updates, retains=self.retains, seed=self.seed)
        at_least(1, count=self.count, shares=self.copies + self.updates + self.retains)
        for kind in (*self.update_kinds, *self.retain_kinds):
            one_of("kind of a demonstration", kind, PROBE_KINDS)

    def types(self, count: int, generator: random.Random) -> list[str]:
        """The types of so many demonstrations, in the stated shares, in a drawn order."""
        wanted = (self.copies, self.updates, self.retains)
        cycle = [name for name, share in zip(TYPES, wanted, strict=True) for _ in range(share)]
        generator.shuffle(cycle)
        drawn = (cycle * (count // len(cycle) + 1))[:count]
        generator.shuffle(drawn)
        return drawn

    def before(self, request: Request, near: Sequence[Record], layout: Layout) -> list[str]:
        """The demonstrations in front of a request, farthest first, its own copy last.

        They depend on nothing but the request and what is near it.

        Args:
            request: what is to become true.
            near: records, the nearest first.
            layout: how facts and questions are put.
        """
        generator = random.Random(f"{self.seed} {request.prompt} {request.target}")
        types = self.types(len(near), generator)
        shown = [
            demonstration(record.requests[0], self.asked(record, kind, generator), layout, self.end)
            for record, kind in zip(near, types, strict=True)
        ]
        return [*shown[::-1], demonstration(request, None, layout, self.end)]

    def asked(self, record: Record, kind: str, generator: random.Random) -> Probe | None:
        """What a demonstration of this type asks; None: a copy, or there is nothing else."""
        if kind == "update":
            probes = record.of_kind(*self.update_kinds)
        else:
            by_kind = [record.of_kind(one) for one in self.retain_kinds] if kind == "retain" else []
            probes = next(filter(None, by_kind), ())
        return generator.choice(probes) if probes else None


def demonstration(request: Request, probe: Probe | None, layout: Layout, end: str) -> str:
    """A fact, a question and its answer; without a probe the fact itself is asked for."""
    prompt, answer = request.prompt, request.target
    if probe is not None:
        prompt, answer = probe.prompt, probe.target
    question = layout.framed([Fact(request.prompt, request.target)], prompt)
    return f"{question} {answer}{end}"
