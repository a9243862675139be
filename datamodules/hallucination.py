"""HalluEditBench (Huang et al., ICLR 2025, https://arxiv.org/abs/2410.16251): models' errors.

CSV files, one for a model and a topic: ``subject``, ``relation``, ``object`` (the truth, which the
edit is to teach), ``question``, the model's wrong answer ``output_MODEL``, and questions about it:
``paraphrased_question``, ``reversed_relation_question``, ``question_2hop`` to ``question_6hop``
with their answers, ``locality_question`` (without one), ``yes_question`` and ``no_question``,
``multiple_choice_with_letters`` and the right letter in ``multiple_choice_labels``.
"""

from __future__ import annotations

import re
from typing import ClassVar

from datamodules import depth
from datamodules.editing import FileData
from datamodules.reading import Fields
from datamodules.records import Probe, Record, RecordError, Request

HOPS = range(2, 7)
OPTION = re.compile(r"(?:^|\s{2,})([A-Z])\.\s+")


class HallucinationData(FileData):
    """HalluEditBench for ``Trainer``; its files have to be given, each is about one model's errors.

    The new target is the truth, so ``target_true`` is None; that a model is wrong before is checked
    for the model of the file only. Probes: the paraphrase; the reversed question, answered by the
    subject; questions of two to six ``hops``; the locality question as ``other_relation`` where it
    names the subject, else ``unrelated``, scored on the words of the new target, since it has no
    answer: the edit is not to put them there. Yes and no, and the choice among four: see `depth`.
    """

    name = "hallucination"
    published: ClassVar = {}

    def record(self, id: str, fields: Fields) -> Record:
        """The record of a row."""
        fields.require("subject", "object", "question")
        request = Request(fields.text("question"), fields.text("subject"), fields.text("object"))
        probes = [*_questions(fields, request), *_hops(fields), *_depth(fields, request)]
        return Record(id, (request,), tuple(probes))


def _questions(fields: Fields, request: Request) -> list[Probe]:
    probes = []
    if fields.has("paraphrased_question"):
        prompt = fields.text("paraphrased_question")
        probes.append(Probe("generalization", prompt, request.target))
    if fields.has("reversed_relation_question"):
        prompt = fields.text("reversed_relation_question")
        probes.append(Probe("reversed_relation", prompt, request.subject))
    if fields.has("locality_question"):
        prompt = fields.text("locality_question")
        about = request.subject.casefold() in prompt.casefold()
        probes.append(Probe("other_relation" if about else "unrelated", prompt, request.target))
    return probes


def _hops(fields: Fields) -> list[Probe]:
    return [
        Probe("one_hop", fields.text(f"question_{n}hop"), fields.text(f"answer_{n}hop"), hops=n)
        for n in HOPS
        if fields.has(f"question_{n}hop")
    ]


def _depth(fields: Fields, request: Request) -> list[Probe]:
    probes = []
    if fields.has("yes_question") and fields.has("no_question"):
        probes += depth.yes_no(fields.text("yes_question"), fields.text("no_question"))
    if fields.has("multiple_choice_with_letters"):
        options, label = _options(fields), fields.text("multiple_choice_labels")
        if label not in options or len(options) < 2:
            raise RecordError("multiple_choice_labels", f"{label!r} is none of {options}")
        texts = list(options.values())
        probes += depth.choice(request.prompt, texts, options[label], _output(fields))
    return probes


def _output(fields: Fields) -> str:
    """What the model of the file said; empty where the file does not tell."""
    name = next((name for name in fields if name.startswith("output_")), "")
    return fields.text(name) if name and fields.has(name) else ""


def _options(fields: Fields) -> dict[str, str]:
    """The options by their letters, in the published order."""
    parts = OPTION.split(fields.text("multiple_choice_with_letters"))
    return {letter: text.strip() for letter, text in zip(parts[1::2], parts[2::2], strict=True)}
