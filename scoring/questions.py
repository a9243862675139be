"""Putting the probes of several records to a model in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import inf, isnan

from datamodules.records import GENERATED, KINDS, Probe, Record
from edits.edit import EditedModel
from scoring.scorers import Answer


@dataclass(frozen=True)
class Questions:
    """The probes of some records, record by record, and how they are asked.

    Args:
        records: Whose probes are asked.
        generate: The probe kinds that are also answered by free generation.
        max_new_tokens: Tokens generated; more where an expected answer is as long as that.
    """

    records: Sequence[Record]
    generate: Sequence[str] = GENERATED
    max_new_tokens: int = 16

    @property
    def probes(self) -> list[Probe]:
        """All probes, in the order of the answers."""
        return [probe for record in self.records for probe in record.questions]

    @property
    def owners(self) -> list[int]:
        """For each probe the position of its record, which is also that of its edit."""
        return [at for at, record in enumerate(self.records) for _ in record.questions]

    def ask(self, model: EditedModel, each: bool = False) -> list[Answer]:
        """The answer to each probe; ``each``: by the edit of the probe's own record.

        Targets and contrasts are scored together, as rows of one call.
        """
        probes, owners = self.probes, self.owners
        contrasts = [at for at, probe in enumerate(probes) if probe.contrast is not None]
        asked = [*range(len(probes)), *contrasts]
        scores = model.score(
            [probes[at].prompt for at in asked],
            [probe.target for probe in probes] + [probes[at].contrast for at in contrasts],
            rows=[owners[at] for at in asked] if each else None,
        )
        nlls = [-float(log_probs.double().mean()) for log_probs in scores.log_probs]
        nlls = [inf if isnan(nll) else nll for nll in nlls]  # a diverged edit makes nothing likely
        contrast_nlls = dict(zip(contrasts, nlls[len(probes) :], strict=True))
        answers = [
            Answer(
                targets=tuple(scores.targets[at].tolist()),
                predicted=tuple(scores.predicted[at].tolist()),
                nll=nlls[at],
                contrast_nll=contrast_nlls.get(at),
            )
            for at in range(len(probes))
        ]
        return self._with_texts(model, answers, each)

    def _with_texts(self, model: EditedModel, answers: list[Answer], each: bool) -> list[Answer]:
        """The same answers, with the free continuation where it is asked for."""
        probes, owners, answers = self.probes, self.owners, list(answers)

        def length(at: int) -> int:
            # One token more than the answer, to see whether a word goes on behind it.
            own = 0 if KINDS[probes[at].kind].local else len(answers[at].targets) + 1
            return max(self.max_new_tokens, own)

        asked = [at for at, probe in enumerate(probes) if probe.kind in self.generate]
        for tokens, group in groupby(sorted(asked, key=length), key=length):
            same = list(group)
            prompts = [probes[at].prompt for at in same]
            rows = [owners[at] for at in same] if each else None
            texts = model.generate(prompts, rows=rows, max_new_tokens=tokens)
            for at, text in zip(same, texts, strict=True):
                answers[at] = replace(answers[at], text=text)
        return answers
