"""ZsRE (Levy et al., CoNLL 2017) in the question-answering form that MEND made of it.

Fields: ``src`` a question, ``subject`` within it, ``rephrase`` a back-translation of it, ``alt``
the new target, ``answers`` the true ones, ``pred`` what MEND's BART answered (no truth, not used),
``loc`` an unrelated question of Natural Questions with its answer ``loc_ans``, ``cond`` a summary;
in the files of `survey` also its questions, and mostly no ``loc``.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

from datamodules import survey
from datamodules.editing import FileData
from datamodules.legible import same
from datamodules.reading import Fields
from datamodules.records import Probe, Record, RecordError, Request

NEW_TARGETS = ("shuffled", "alt")


class ZsreData(FileData):
    """ZsRE for ``Trainer``; by default the files that ROME's authors publish.

    The request is ``src`` with target ``alt``, and ``answers[0]`` as what was true; where ``alt``
    is itself one of the ``answers`` (regardless of case), ``target_true`` is None: such a request
    corrects BART, and there is no old object to set it against. Probes: ``rephrase`` as
    ``generalization``, and ``loc``, where there is one, as ``unrelated``, with its "nq question: "
    as published; where a record has such fields, what `survey` says of portability. Blanks at the
    ends of fields are dropped.

    **Reduced files** have no ``answers``, and their ``alt`` is the TRUE answer. For records without
    the field ``answers``, ``new_targets`` says what becomes of it:

    * ``"shuffled"``: ``target_true`` is ``alt``, and the new target is drawn (by ``seed`` and the
      record's index) from the ``alt`` of the file's records that ask in the same words, the subject
      aside; if these all have the same answer, from those of all records. Answers to the very same
      question are never drawn, so the target differs from ``target_true`` in more than case.
    * ``"alt"``: the target is ``alt``, the truth; ``target_true`` is None.

    Args:
        *files: as FileData takes them.
        new_targets: of records that only have a true answer: ``"shuffled"`` or ``"alt"``.
        **options: as FileData takes them.

    Raises:
        ValueError: new_targets is neither.
    """

    name = "zsre"
    published: ClassVar = {
        "train": "https://rome.baulab.info/data/dsets/zsre_mend_train.json",
        "test": "https://rome.baulab.info/data/dsets/zsre_mend_eval.json",
    }

    def __init__(self, *files, new_targets: str = "shuffled", **options):
        super().__init__(*files, **options)
        if new_targets not in NEW_TARGETS:
            raise ValueError(f"new_targets is {new_targets!r}; expected {' or '.join(NEW_TARGETS)}")
        self.new_targets = new_targets

    def begin(self, rows: Sequence[object]) -> None:
        """Collects the answers of a file, from which new targets are drawn."""
        self.others = OtherAnswers(rows, self.seed)

    def record(self, id: str, fields: Fields) -> Record:
        """The record of a question."""
        target, true = self._targets(id, fields)
        request = Request(fields.text("src"), fields.text("subject"), target, true)
        probes = [
            Probe("generalization", fields.text("rephrase"), target, true),
            *survey.subject_question(fields, request),
            *survey.reversed_relation(fields, request),
            *survey.one_hop(fields, request),
        ]
        if "loc" in fields:
            probes.append(Probe("unrelated", fields.text("loc"), fields.text("loc_ans")))
        return Record(id, (request,), tuple(probes))

    def _targets(self, id: str, fields: Fields) -> tuple[str, str | None]:
        """The new target, and what was true."""
        fields.require("subject", "src", "rephrase", "alt")
        alt = fields.text("alt")
        if "answers" in fields:
            true = fields.texts("answers")
            known = any(same(alt, answer) for answer in true)
            return alt, None if known or not true else true[0]
        if self.new_targets == "alt":
            return alt, None
        index = id.rpartition("-")[2]
        return self.others.draw(index, fields.text("src"), fields.text("subject")), alt


class OtherAnswers:
    """New targets for records that only have a true one: answers to like questions of the file."""

    def __init__(self, rows: Sequence[object], seed: int):
        self.seed = seed
        self.alike: dict[str, list[str]] = defaultdict(list)  # wording -> answers
        self.right: dict[str, set[str]] = defaultdict(set)  # question -> its answers, case folded
        for row in rows:
            try:
                fields = Fields(row)
                if "answers" in fields:
                    continue
                question, answer = fields.text("src"), fields.text("alt")
                self.alike[_wording(question, fields.text("subject"))].append(answer)
                self.right[question.casefold()].add(answer.casefold())
            except RecordError:
                continue  # named when the record itself is built
        self.all = [answer for answers in self.alike.values() for answer in answers]

    def draw(self, index: str, question: str, subject: str) -> str:
        """An answer that is not one of ``question``; RecordError if the file has no other."""
        right = self.right[question.casefold()]
        for pool in (self.alike[_wording(question, subject)], self.all):
            others = [answer for answer in pool if answer.casefold() not in right]
            if others:
                return random.Random(f"{self.seed}-{index}").choice(others)
        raise RecordError("alt", "no record of the file has another answer to take as new target")


def _wording(question: str, subject: str) -> str:
    return question.casefold().replace(subject.casefold(), "{}")
