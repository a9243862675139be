"""ZsRE (Levy et al., CoNLL 2017) in the question-answering form that MEND made of it.

Fields: ``src`` a question, ``subject`` within it, ``rephrase`` a back-translation of it, ``alt``
the new target, ``answers`` the true ones, ``pred`` what MEND's BART answered (no truth, not used),
``loc`` an unrelated question of Natural Questions with its answer ``loc_ans``, ``cond`` a summary.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from datamodules.editing import FileData
from datamodules.reading import Fields, Reading, collect, fetch, read_rows
from datamodules.records import Probe, Record, RecordError, Request

NEW_TARGETS = ("shuffled", "alt")


def read_zsre(source: str | Path, new_targets: str = "shuffled", seed: int = 0) -> Reading:
    """Reads a file of ZsRE records in MEND's format; ``source`` as ``reading.fetch`` takes it.

    The request is ``src`` with target ``alt``, and ``answers[0]`` as what was true; where ``alt``
    is itself one of the ``answers`` (regardless of case), ``target_true`` is None: such a request
    corrects BART, and there is no old object to set it against. Probes: ``rephrase`` as
    ``generalization``, and ``loc`` as ``unrelated``, with its "nq question: " as published.

    **Reduced files** have no ``answers``, and their ``alt`` is the TRUE answer. For records without
    the field ``answers``, ``new_targets`` says what becomes of it:

    * ``"shuffled"``: ``target_true`` is ``alt``, and the new target is drawn (by ``seed`` and the
      record's index) from the ``alt`` of the file's records that ask in the same words, the subject
      aside; if these all have the same answer, from those of all records. Answers to the very same
      question are never drawn, so the target differs from ``target_true`` in more than case.
    * ``"alt"``: the target is ``alt``, the truth; ``target_true`` is None.

    Ids are the file's name and the record's index in it: ``zsre_eval-17``. Blanks at the ends of
    fields are dropped.
    """
    if new_targets not in NEW_TARGETS:
        raise ValueError(f"new_targets is {new_targets!r}; expected {' or '.join(NEW_TARGETS)}")
    path = fetch(source)
    rows = read_rows(path)
    answers = OtherAnswers(rows, seed) if new_targets == "shuffled" else None

    def build(index: int, fields: Fields) -> Record:
        return _record(f"{path.stem}-{index}", fields, *_targets(index, fields, answers))

    return collect(path, rows, build)


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

    def draw(self, index: int, question: str, subject: str) -> str:
        """An answer that is not one of ``question``; RecordError if the file has no other."""
        right = self.right[question.casefold()]
        for pool in (self.alike[_wording(question, subject)], self.all):
            others = [answer for answer in pool if answer.casefold() not in right]
            if others:
                return random.Random(f"{self.seed}-{index}").choice(others)
        raise RecordError("alt", "no record of the file has another answer to take as new target")


def _wording(question: str, subject: str) -> str:
    return question.casefold().replace(subject.casefold(), "{}")


def _targets(index: int, fields: Fields, answers: OtherAnswers | None) -> tuple[str, str | None]:
    fields.require("subject", "src", "rephrase", "alt", "loc", "loc_ans")
    alt = fields.text("alt")
    if "answers" in fields:
        true = fields.texts("answers")
        known = alt.casefold() in {answer.casefold() for answer in true}
        return alt, None if known or not true else true[0]
    if answers is None:
        return alt, None
    return answers.draw(index, fields.text("src"), fields.text("subject")), alt


def _record(name: str, fields: Fields, target: str, target_true: str | None) -> Record:
    request = Request(fields.text("src"), fields.text("subject"), target, target_true)
    return Record(
        name,
        request,
        (
            Probe("generalization", fields.text("rephrase"), target, target_true),
            Probe("unrelated", fields.text("loc"), fields.text("loc_ans")),
        ),
    )


class ZsreData(FileData):
    """ZsRE for ``Trainer``; by default the files that ROME's authors publish."""

    name = "zsre"
    published: ClassVar = {
        "train": "https://rome.baulab.info/data/dsets/zsre_mend_train.json",
        "test": "https://rome.baulab.info/data/dsets/zsre_mend_eval.json",
    }

    def __init__(self, *args, new_targets: str = "shuffled", **kwargs):
        super().__init__(*args, **kwargs)
        self.new_targets = new_targets

    def read(self, source: str) -> Reading:
        """Reads one file with ``read_zsre``."""
        return read_zsre(source, self.new_targets, self.seed)
