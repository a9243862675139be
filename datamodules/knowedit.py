"""KnowEdit (Zhang et al., 2024, https://arxiv.org/abs/2401.01286): facts with consequences.

Fields: ``subject``, ``prompt``, ``target_new``, perhaps ``ground_truth`` and ``rephrase_prompt``;
``portability`` and ``locality`` hold lists of ``prompt`` and ``ground_truth`` under the names of
`CRITERIA`. Answers are written as a text, a list, or a list of lists of aliases. WikiBio has
``text``, ``concept`` and ``labels`` in their place: a biography that goes on with a long target.
"""

from __future__ import annotations

from typing import ClassVar

from datamodules.editing import FileData
from datamodules.legible import same
from datamodules.reading import Fields
from datamodules.records import Probe, Record, RecordError, Request

CRITERIA = {
    "Reasoning": "one_hop",
    "Subject_Aliasing": "subject_alias",
    "Logical_Generalization": "entailed",
    "Relation_Specificity": "other_relation",
    "Forgetfulness": "kept_objects",
}
"""What the questions of a criterion are, but for those that the subject answers."""
GROUPS = ("portability", "locality")


class KnowEditData(FileData):
    """KnowEdit's WikiRecent, Wiki-CounterFact, ZsRE and WikiBio for ``Trainer``.

    A record's format is told by its fields, and its probes' kinds by `CRITERIA`; but a question of
    Logical Generalization that the subject answers is ``reversed_relation``: in ZsRE it is each of
    them, in WikiRecent one of 74. ``target_true`` is the first ``ground_truth``, and None where
    that is missing or one of them is the new target. A portability question has the old object as
    its contrast where it is about the new target. What a probe lacks is a remark, and leaves out
    the probe alone.

    ConvSent and Sanitation, which have no single target, are refused.
    """

    name = "knowedit"
    published: ClassVar = {"test": "hub:zjunlp/KnowEdit/benchmark/ZsRE/ZsRE-test-all.json"}

    def record(self, id: str, fields: Fields) -> Record:
        """The record of an object of any of the four."""
        if "labels" in fields:
            return _biography(id, fields)
        fields.require("subject", "prompt", "target_new")
        new, *aliases = fields.answers("target_new")
        request = Request(fields.text("prompt"), fields.text("subject"), new, truth(fields, new))
        probes = []
        if fields.has("rephrase_prompt"):
            prompt, true = fields.text("rephrase_prompt"), request.target_true
            probes.append(Probe("generalization", prompt, new, true, tuple(aliases)))
        return Record(id, (request,), (*probes, *criteria(fields, request)))


def _biography(id: str, fields: Fields) -> Record:
    fields.require("text", "concept", "labels")
    request = Request(fields.text("text"), fields.text("concept"), fields.text("labels"))
    return Record(id, (request,), tuple(criteria(fields, request)))


def truth(fields: Fields, new: str, name: str = "ground_truth") -> str | None:
    """What was true, if the field says so; None also where the new target was true already."""
    if not fields.has(name):
        return None
    true = fields.answers(name)
    if any(same(new, answer) for answer in true):
        fields.remark(name, "new target is true already: nothing is set against it", new)
        return None
    return true[0]


def criteria(fields: Fields, request: Request) -> list[Probe]:
    """The probes of ``portability`` and ``locality``.

    Raises:
        RecordError: one of them is no object, or has a criterion that is none.
    """
    probes = []
    for group in filter(fields.has, GROUPS):
        named = fields.inner(group)
        for name in filter(named.has, named):
            if name not in CRITERIA:
                raise RecordError(f"{group}.{name}", f"expected one of {', '.join(CRITERIA)}")
            probes += fields.usable(
                f"{group}.{name}", lambda part, name=name: _probe(CRITERIA[name], part, request)
            )
    return probes


def _probe(kind: str, part: Fields, request: Request) -> Probe:
    answer, *aliases = part.answers("ground_truth")
    if kind == "entailed" and same(answer, request.subject):
        kind = "reversed_relation"
    about = kind in ("subject_alias", "entailed") and same(answer, request.target)
    contrast, hops = request.target_true if about else None, 2 if kind == "one_hop" else 0
    return Probe(kind, part.text("prompt"), answer, contrast, tuple(aliases), hops=hops)
