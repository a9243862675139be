"""What an edit is not meant to touch: other facts, and other text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

from datamodules.editing import EditingData
from datamodules.records import Probe, Record, Request
from datamodules.text import TextCorpus
from files.bounds import at_least


class Bystanders:
    """Facts and texts that are asked before and after an edit, to see what else it moves.

    Args:
        data: whose true facts are asked; None: those of ``bystanders.yaml``, which are about the
            world at large.
        split: of the data.
        texts: of which perplexity is taken, or their file; None: everyday sentences.
        limit: facts and texts, of each at most.

    Raises:
        ValueError: the limit is below 1.
    """

    def __init__(
        self,
        data: EditingData | None = None,
        split: str = "val",
        texts: str | Sequence[str] | None = None,
        limit: int = 100,
    ):
        at_least(1, limit=limit)
        self.data, self.split, self.limit = data, split, limit
        shipped = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
        self.facts = [
            Request(prompt, subject, str(answer)) for prompt, answer, subject in shipped["facts"]
        ]
        if data is not None:
            requests = [r for record in data.records(split) for r in record.requests]
            self.facts = [
                Request(r.prompt, r.subject, r.target_true) for r in requests if r.target_true
            ]
        self.texts = list(TextCorpus(shipped["texts"] if texts is None else texts)[:limit])

    def records(self, subjects: Collection[str]) -> list[Record]:
        """Facts about other subjects, each with a probe of itself.

        Args:
            subjects: those that are edited, without regard to case.
        """
        edited = {subject.casefold() for subject in subjects}
        others = [fact for fact in self.facts if fact.subject.casefold() not in edited]
        return [
            Record(f"bystander-{at}", (fact,), (Probe("unrelated", fact.prompt, fact.target),))
            for at, fact in enumerate(others[: self.limit])
        ]
