"""Edits that do not meet: each group of requests is edited into the clean model, alone."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.records import Record, Request, requests_of
from editors.editor import Editor
from edits.edit import Edit
from evaluation.costs import Cost, Work, measured
from evaluation.protocols.conflicts import Overruled, describe
from evaluation.protocols.protocol import Protocol
from evaluation.report.lines import IMMEDIATE, UNEDITED
from scoring.answers import Answer
from scoring.questions import Questions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chunk:
    """Records that are edited and asked in one go, ``n`` of them to an edit; 1 or all of them.

    Some have no part in it, since later ones of the group overrule them.
    """

    records: Sequence[Record]
    n: int
    overruled: Sequence[Overruled] = ()

    @property
    def together(self) -> list[Request]:
        """The requests of an edit that the probes of other records meet too."""
        return [] if self.n == 1 else requests_of(self.records)

    def edit(self, editor: Editor) -> Edit:
        """One edit for each record, or one for all of them."""
        if self.n == 1:
            return editor.make([record.requests for record in self.records])
        edit = editor.edit(requests_of(self.records))
        edit.check_finite()  # of single ones each has its own answers, which count as wrong
        return edit


class Independent(Protocol):
    """Chunk by chunk: edit, then ask all probes of the chunk in one batch."""

    @abstractmethod
    def chunks(self) -> list[Chunk]:
        """All the work, in order."""

    def units(self) -> list[int]:
        """The numbers of the chunks that some editor has not done."""
        self.parts, names = self.chunks(), [UNEDITED, *self.editors]
        for part in self.parts:
            if part.overruled and self.trainer.is_global_zero:
                log.warning("batch of %s: %s", f"{part.n:,}", describe(part.overruled))
        numbers = range(len(self.parts))
        return [c for c in numbers if not all(self.folder.has(name, c) for name in names)]

    def finished(self, editor: str) -> bool:
        """Whether the editor has done every chunk."""
        return all(self.folder.has(editor, c) for c in range(len(self.parts)))

    def edits_left(self) -> int:
        """The requests of all chunks that an editor has not done."""
        return sum(
            len(requests_of(part.records))
            for name in self.editors
            for number, part in enumerate(self.parts)
            if not self.folder.has(name, number)
        )

    def share(self, units: list[int], rank: int, devices: int) -> list[int]:
        """Of two devices each gets every second chunk, and so on."""
        return units[rank::devices]

    def do(self, unit: int) -> None:
        """A chunk, by the unedited model and by every editor that has not done it."""
        part = self.parts[unit]
        questions = self.questions(part.records)
        with measured(self.device) as asking:
            before = questions.before(self.unedited)
        if not self.folder.has(UNEDITED, unit):
            run = self.run(UNEDITED, part.n, part.n, IMMEDIATE)
            lines = self.lines(run, questions, before, before, part.together)
            work = Work(run, self.device, len(questions.probes), asking)
            self.folder.add(UNEDITED, unit, lines, work.line())
        for name in self.editors:
            if not self.folder.has(name, unit):
                self._evaluate(name, unit, questions, before)

    def _evaluate(
        self, name: str, unit: int, questions: Questions, before: Sequence[Answer]
    ) -> None:
        part, editor = self.parts[unit], self.editors[name]
        preparing = self.preparing.pop(name, Cost.none())
        attempt = self.attempt(lambda: part.edit(editor))
        run, lines, failures = self.run(name, part.n, part.n, IMMEDIATE), [], []
        with measured(self.device) as asking:
            if attempt.edit is None:
                failures = [(attempt.reason, part.records)]
                requests = len(requests_of(part.records))
                log.warning("%s: no edit of %s requests: %s", name, f"{requests:,}", attempt.reason)
            else:
                after = questions.ask(attempt.edit.edited(self.questioned), each=part.n == 1)
                lines = self.lines(run, questions, before, after, part.together)
        work = Work(
            run,
            self.device,
            len(lines),
            asking,
            part.records,
            at_once=len(requests_of(part.records)),
            editing=attempt.cost,
            preparing=preparing,
            failures=failures,
            overruled=part.overruled,
        )
        self.folder.add(name, unit, lines, work.line())
        self.tell(name, len(requests_of(part.records)), lines)
