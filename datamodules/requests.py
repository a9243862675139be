"""A user's own requests, in the shape in which EasyEdit takes them; LocFT's files have it too.

``prompt`` and ``target_new``, and whatever else is there: ``subject``, ``ground_truth``,
``rephrase_prompt``, ``locality_prompt`` with ``locality_ground_truth``, ``portability_prompt`` with
``portability_ground_truth``; ``locality`` and ``portability`` (or ``locality_inputs`` and
``portability_inputs``), objects of named questions, each ``prompt`` and ``ground_truth``, or a list
of such, or both of them lists. Answers are written as a text, a list, or a list of aliases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from datamodules import knowedit
from datamodules.editing import FileData
from datamodules.legible import same
from datamodules.naming import subject_of
from datamodules.reading import Fields
from datamodules.records import KINDS, Probe, Record, RecordError, Request

NEEDED = ("prompt", "target_new")
WORDINGS = ("rephrase_prompt", "rephrase_prompts", "rephrase")
GROUPS = ("portability", "portability_inputs", "locality", "locality_inputs")
NAMES = {
    **{name: name for name, kind in KINDS.items() if kind.group not in ("request", "depth")},
    **knowedit.CRITERIA,
    "distracting": "distracting_neighbor",
    "neighbor": "neighborhood",
    "subject_replace": "subject_alias",
    "inverse_relation": "reversed_relation",
    "reversion": "reversed_relation",
}
"""Kinds of questions by the names that users give them."""
NEAR = ("neighborhood", "distracting_neighbor")
"""Kinds whose right answer is set against the new target."""


class RequestsData(FileData):
    """Lists of a user's own, for ``Trainer``: JSON, JSON lines, CSV or parquet.

    A request needs ``prompt`` and ``target_new``, whose further entries are aliases, not used.
    A missing subject is guessed where it is sure (see `naming`), which is a remark; else the record
    is left out. Probes: other wordings as ``generalization``; ``locality_prompt`` as
    ``neighborhood`` where its answer is the old object, else as ``unrelated``;
    ``portability_prompt`` as ``one_hop``; named questions as what their name says, one of
    `NAMES`. Columns that are called otherwise are named by ``columns``.

    Args:
        *files: as FileData takes them.
        columns: the file's name of a column, where it is another: ``{"prompt": "question"}``.
        **options: as FileData takes them.

    Raises:
        ValueError: two columns are to have one name.
    """

    name = "requests"
    published: ClassVar = {}

    def __init__(self, *files, columns: Mapping[str, str] | None = None, **options):
        super().__init__(*files, **options)
        self.columns = dict(columns or {})
        if len(set(self.columns.values())) < len(self.columns):
            raise ValueError(f"columns: one column of the file for two of {self.columns}")

    def record(self, id: str, fields: Fields) -> Record:
        """The record of a request."""
        fields = fields.renamed(self.columns)
        fields.require(*NEEDED)
        wordings = [text for name in WORDINGS if fields.has(name) for text in fields.answers(name)]
        prompt, new = fields.text("prompt"), fields.answers("target_new")[0]
        subject = _subject(fields, prompt, wordings)
        request = Request(prompt, subject, new, knowedit.truth(fields, new))
        true = request.target_true
        probes = [Probe("generalization", wording, new, true) for wording in wordings]
        return Record(
            id, (request,), (*probes, *_single(fields, request), *_named(fields, request))
        )


def _subject(fields: Fields, prompt: str, wordings: list[str]) -> str:
    if fields.has("subject"):
        return fields.text("subject")
    subject = subject_of(prompt, wordings)
    if subject is None:
        raise RecordError("subject", f"is missing, and {prompt!r} does not tell it for sure")
    fields.remark("subject", "missing, guessed from the prompt", repr(subject))
    return subject


def _single(fields: Fields, request: Request) -> Iterator[Probe]:
    """The questions that have columns of their own."""
    if fields.has("portability_prompt"):
        answer, *aliases = fields.answers("portability_ground_truth")
        yield Probe("one_hop", fields.text("portability_prompt"), answer, aliases=tuple(aliases))
    if fields.has("locality_prompt"):
        answer = fields.answers("locality_ground_truth")[0]
        near = request.target_true is not None and same(answer, request.target_true)
        kind, contrast = ("neighborhood", request.target) if near else ("unrelated", None)
        yield Probe(kind, fields.text("locality_prompt"), answer, contrast)


def _named(fields: Fields, request: Request) -> Iterator[Probe]:
    """The questions that stand under names of kinds."""
    for group in filter(fields.has, GROUPS):
        named = fields.inner(group)
        for name in filter(named.has, named):
            if name not in NAMES:
                kinds = ", ".join(NAMES)
                raise RecordError(f"{group}.{name}", f"is no kind of question; expected {kinds}")
            for question in named.pairs(name, "prompt", "ground_truth"):
                yield _question(NAMES[name], question, request)


def _question(kind: str, question: Fields, request: Request) -> Probe:
    answer, *aliases = question.answers("ground_truth")
    near = kind in NEAR and not same(answer, request.target)
    others = () if KINDS[kind].local else tuple(aliases)
    return Probe(kind, question.text("prompt"), answer, request.target if near else None, others)
