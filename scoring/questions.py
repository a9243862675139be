"""Putting the probes of several records to a model in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from math import inf, isnan

from datamodules.records import GENERATED, KINDS, PROBE_KINDS, Probe, Record
from edits.edit import EditedModel
from models.generation import Text
from models.scores import Scores
from scoring.answers import NO_TOKEN, Answer, Reading
from scoring.known import knows


@dataclass(frozen=True)
class Questions:
    """The probes of some records, record by record, and how they are asked.

    Args:
        records: Whose probes are asked.
        generate: The probe kinds that are also answered by free generation.
        max_new_tokens: Tokens generated; more where an expected answer is as long as that, or the
            kind has it so.
        kinds: The probe kinds that are asked.
        contrasts: Whether wrong answers are scored.
        stop: Strings before which a generated text ends.
    """

    records: Sequence[Record]
    generate: Sequence[str] = GENERATED
    max_new_tokens: int = 16
    kinds: Sequence[str] = PROBE_KINDS
    contrasts: bool = True
    stop: Sequence[str] = ()

    @property
    def probes(self) -> list[Probe]:
        """All probes that are asked, in the order of the answers."""
        return [probe for record in self.records for probe in record.of_kind(*self.kinds)]

    @property
    def owners(self) -> list[int]:
        """For each probe the position of its record, which is also that of its edit."""
        return [at for at, record in enumerate(self.records) for _ in record.of_kind(*self.kinds)]

    def ask(self, model: EditedModel, each: bool = False) -> list[Answer]:
        """The answer to each probe; ``each``: by the edit of the probe's own record.

        Targets, contrasts, aliases and distractors are scored together, all of a probe behind one
        reading of its prompt. An edit that only generates is not asked for scores.
        """
        answers = [Answer() for _ in self.probes]
        if model.edit.scores:
            answers = self._scored(model, each)
        return self._with_texts(model, self._looked_up(model, answers, each), each)

    def before(self, unedited: EditedModel) -> list[Answer]:
        """The unedited model's answer to each probe, and whether it knows what a probe presumes."""
        conditions = [pair for probe in self.probes for pair in probe.known]
        answers = self.ask(unedited)
        if not conditions:
            return answers
        right = iter(knows(unedited, conditions))
        pairs = zip(answers, self.probes, strict=True)
        return [replace(a, knows=all(list(islice(right, len(p.known))))) for a, p in pairs]

    def _scored(self, model: EditedModel, each: bool) -> list[Answer]:
        probes, owners = self.probes, self.owners
        targets = [(at, probe.target) for at, probe in enumerate(probes)]
        contrasts = [(at, p.contrast) for at, p in enumerate(probes) if p.contrast is not None]
        aliases = [(at, alias) for at, probe in enumerate(probes) for alias in probe.aliases]
        distractors = [(at, text) for at, probe in enumerate(probes) for text in probe.distractors]
        if not self.contrasts:
            contrasts, distractors = [], []
        rows = [*targets, *contrasts, *aliases, *distractors]
        scores = model.score(
            [probe.prompt for probe in probes],
            [text for _, text in rows],
            behind=[at for at, _ in rows],
            rows=owners if each else None,
        )
        readings = iter(_readings(scores))
        right = [[next(readings)] for _ in targets]
        contrast = {at: next(readings) for at, _ in contrasts}
        wrong: list[list[Reading]] = [[] for _ in targets]
        for at, _ in aliases:
            right[at].append(next(readings))
        for at, _ in distractors:
            wrong[at].append(next(readings))
        return [
            Answer(tuple(right[at]), contrast.get(at), distractors=tuple(wrong[at]))
            for at, _ in targets
        ]

    def _looked_up(self, model: EditedModel, answers: list[Answer], each: bool) -> list[Answer]:
        """The same answers, with what was found for them, if questions are looked up."""
        prompts = [probe.prompt for probe in self.probes]
        found = model.found(prompts, rows=self.owners if each else None)
        if found is None:
            return answers
        return [replace(answer, found=hit) for answer, hit in zip(answers, found, strict=True)]

    def _with_texts(self, model: EditedModel, answers: list[Answer], each: bool) -> list[Answer]:
        """The same answers, with the free continuation where it is asked for."""
        probes, owners, answers = self.probes, self.owners, list(answers)
        lengths = self._lengths(model)
        by_length = sorted((at for at in lengths), key=lengths.__getitem__)
        for tokens, group in groupby(by_length, key=lengths.__getitem__):
            same = list(group)
            prompts = [probes[at].prompt for at in same]
            rows = [owners[at] for at in same] if each else None
            texts = model.generate(prompts, rows=rows, max_new_tokens=tokens, stop=self.stop)
            for at, text in zip(same, texts, strict=True):
                # who answers by more than one generation does not say how its text ended
                ended = text.ended if isinstance(text, Text) else None
                answers[at] = replace(answers[at], text=text, ended=ended)
        return answers

    def _lengths(self, model: EditedModel) -> dict[int, int]:
        """How many tokens are generated for each probe that is answered by free generation."""
        probes = self.probes
        free = [at for at, probe in enumerate(probes) if probe.kind in self.generate]
        lengths = {at: max(self.max_new_tokens, KINDS[probes[at].kind].tokens) for at in free}
        rows = [
            (at, answer)
            for at in free
            if not KINDS[probes[at].kind].local
            for answer in probes[at].answers
        ]
        prompts = [probes[at].prompt for at, _ in rows]
        tokens = model.language_model.answer_lengths(prompts, [answer for _, answer in rows])
        for (at, _), length in zip(rows, tokens, strict=True):
            # one token more than the answer, to see whether a word goes on behind it
            lengths[at] = max(lengths[at], length + 1)
        return lengths


def _readings(scores: Scores) -> list[Reading]:
    nlls = [-float(log_probs.double().mean()) for log_probs in scores.log_probs]
    readings = []
    for targets, predicted, nll in zip(scores.targets, scores.predicted, nlls, strict=True):
        right, answer = tuple(targets.tolist()), tuple(predicted.tolist())
        if isnan(nll):  # a broken model makes nothing likely, and what it says matches nothing
            answer, nll = (NO_TOKEN,) * len(answer), inf
        readings.append(Reading(right, answer, nll))
    return readings
