"""Questions of another task, put beside those of records: what an edit costs elsewhere."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.reading import Fields, fetch, read_rows
from datamodules.records import Probe, Record, RecordError


class OtherTask(ABC):
    """Questions of kind ``other_task``: a target, and a contrast that is wrong.

    Whether the target is the likelier one is the task's accuracy, per token by
    ``probability_success``, as a whole by ``likelihood_success``; on the rows of ``unedited`` it is
    that before any edit. The other scorers say whether an edit leaves the answer alone.

    Args:
        each: questions beside a record. Records share them out in an order drawn from ``seed``, so
            that many records together put all of them.
        seed: of that order.

    Raises:
        ValueError: each is less than 1.
    """

    def __init__(self, *, each: int = 1, seed: int = 0):
        if each < 1:
            raise ValueError(f"each is {each}; expected at least 1")
        self.each = each
        self.seed = seed

    @abstractmethod
    def probes(self) -> list[Probe]:
        """All questions, in order."""

    def beside(self, records: Sequence[Record]) -> list[Record]:
        """The records, each with some of the questions behind its own probes."""
        probes = self.probes()
        random.Random(f"{self.seed}-other_task").shuffle(probes)
        each = min(self.each, len(probes))
        starts = range(0, each * len(records), each)
        return [
            replace(record, probes=(*record.probes, *_from(probes, start, each)))
            for record, start in zip(records, starts, strict=True)
        ]


class Piqa(OtherTask):
    """PIQA (Bisk et al., AAAI 2020, https://arxiv.org/abs/1911.11641): everyday physics.

    Args:
        questions: JSON lines of ``goal``, ``sol1`` and ``sol2``: a path, a URL or a hub id.
        labels: lines of 0 or 1, which solution is right; None: fields ``label`` of the questions,
            or else the file beside them whose name ends with ``_labels.lst``.
        each: as OtherTask takes it.
        seed: the same.

    Raises:
        ValueError: a file that is none of PIQA, or as many labels as there are no questions.
    """

    def __init__(self, questions: str, labels: str | None = None, *, each: int = 1, seed: int = 0):
        super().__init__(each=each, seed=seed)
        self.path = fetch(questions)
        beside = self.path.with_name(f"{self.path.stem}_labels.lst")
        self.labels = fetch(labels) if labels else beside if beside.is_file() else None

    def probes(self) -> list[Probe]:
        """A question for each goal, its right solution against the wrong one."""
        rows = read_rows(self.path)
        labels = [None] * len(rows)
        if self.labels is not None:
            labels = self._read_labels(self.labels, len(rows))
        return [self._probe(at, row, labels[at]) for at, row in enumerate(rows)]

    def _probe(self, at: int, row: object, label: str | None) -> Probe:
        try:
            fields = Fields(row)
            fields.require("goal", "sol1", "sol2", *(["label"] if label is None else []))
            solutions = fields.text("sol1"), fields.text("sol2")
            right = int(fields.number("label") if label is None else label)
            if right not in (0, 1):
                raise RecordError("label", f"expected 0 or 1, got {right}")
            prompt = f"Question: {fields.text('goal')}\nAnswer:"
            return Probe("other_task", prompt, solutions[right], solutions[1 - right])
        except RecordError as error:
            where = f"{self.path.name}[{at}].{error.field}"
            raise ValueError(f"{self.path}: no file of PIQA: {where}: {error.reason}") from None

    def _read_labels(self, path: Path, count: int) -> list[str]:
        labels = path.read_text(encoding="utf-8").split()
        if len(labels) != count or not set(labels) <= {"0", "1"}:
            raise ValueError(
                f"{path}: expected {count:,} lines of 0 or 1, one for each question of "
                f"{self.path.name}; got {len(labels):,} of {', '.join(sorted(set(labels))[:5])}"
            )
        return labels


def _from(probes: Sequence[Probe], start: int, count: int) -> list[Probe]:
    """Some probes in a row, from the first again behind the last."""
    return [probes[at % len(probes)] for at in range(start, start + count)]
