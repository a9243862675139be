"""Atlas: a small world of facts about cities, countries and people, and how it is put into words.

The facts lie in ``world.csv`` (geography from GeoNames, CC BY 4.0, and CLDR; the people are
invented), the wording in ``relations.yaml``.
"""

from __future__ import annotations

import csv
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
HELD_OUT = 8  # per cent of the combinations of a fact and a prompt that no training text contains


@dataclass(frozen=True)
class Fact:
    """One fact of the world."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True)
class Relation:
    """A relation and its wording; see the head of ``relations.yaml`` for the fields."""

    name: str
    kind: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    pronoun: tuple[str, ...]
    follows: dict[str, str] = field(default_factory=dict, hash=False)
    reverse: str | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """All prompts that name the subject: statements, then questions."""
        return self.statements + self.questions


class World:
    """The facts, by subject, with the split of each subject and its aliases."""

    def __init__(self):
        wording = yaml.safe_load((HERE / "relations.yaml").read_text(encoding="utf-8"))
        self.relations = {
            name: Relation(name, **{key: _frozen(value) for key, value in fields.items()})
            for name, fields in wording.items()
        }
        self.facts: list[Fact] = []
        self.kind: dict[str, str] = {}
        self.split: dict[str, str] = {}
        self.alias: dict[str, str] = {}
        self._objects: dict[str, dict[str, str]] = defaultdict(dict)
        with (HERE / "world.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                self._add(**row)

    def _add(self, subject: str, kind: str, split: str, relation: str, object: str) -> None:
        self.kind[subject], self.split[subject] = kind, split
        if relation == "alias":
            self.alias[subject] = object
            return
        self.facts.append(Fact(subject, relation, object))
        self._objects[subject][relation] = object

    @cached_property
    def subjects(self) -> list[str]:
        """All subjects, in the order of the table."""
        return list(self.kind)

    @cached_property
    def objects(self) -> dict[str, list[str]]:
        """The objects that each relation has, sorted."""
        by_relation = defaultdict(set)
        for fact in self.facts:
            by_relation[fact.relation].add(fact.object)
        return {relation: sorted(objects) for relation, objects in by_relation.items()}

    def about(self, subject: str) -> dict[str, str]:
        """Relation -> object of one subject; empty for what is no subject of this world."""
        return self._objects.get(subject, {})

    def derived(self, subject_kind: str) -> set[str]:
        """Relations of a kind of subject that follow from another one and are never edited."""
        return {
            name
            for relation in self.relations.values()
            if relation.kind == subject_kind
            for name in relation.follows
            if not self.relations[name].follows
        }


def _frozen(value: Any) -> Any:  # whatever YAML holds
    return tuple(value) if isinstance(value, list) else value


def held_out(fact: Fact, prompt: str) -> bool:
    """Whether this wording of this fact is kept out of every training text."""
    return zlib.crc32(f"{fact.subject}|{prompt}".encode()) % 100 < HELD_OUT
