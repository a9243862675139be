"""The protocol ``sequential``: edit after edit into the same model, nothing rolled back."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from datamodules.records import Record, requests_of
from datamodules.text import TextCorpus
from editors.editor import Editor
from editors.settings import at_least
from edits.edit import NOTHING, Edit
from edits.journal import journaled
from evaluation.costs import Cost, Work, measured, total
from evaluation.protocols.chain import Chain, Progress, checkpoints_of, intervals_of
from evaluation.protocols.conflicts import describe
from evaluation.protocols.protocol import Protocol
from evaluation.report import health
from evaluation.report.lines import IMMEDIATE, RETENTION, UNEDITED
from scoring.answers import Answer

log = logging.getLogger(__name__)

ALARM = 2.0
"""Perplexity of held-out text over that of the unedited model that is worth a warning."""


class Sequential(Protocol):
    """Edits a model step by step, each editor its own, and asks in between.

    Each record is asked right after its edit (``immediate``), and all records so far are asked at
    every checkpoint (``retention``); so are perplexity and the size of the change. What locality
    probes have to keep is always what the unedited model says. A step that the editor refuses is
    left out, counted and named, and the next one is made on what there is.

    The edit as it is at a checkpoint is saved in ``edits/<editor>/<checkpoint>.safetensors``; a run
    that was interrupted goes on from the last one. Devices share the editors.

    Args:
        editors: As ``Protocol`` takes them.
        records: The same; edited in their order.
        folder: The same.
        length: How many records are edited; None: all.
        step: How many of them are written together.
        checkpoints: After how many edits all are asked; None: after 1, 10, 100, ... steps. The end
            is one in any case.
        text: Texts that perplexity is taken of, or their file; None: none.
        texts: How many of them, from the first.
        journal: Whether weight edits remember each step, so that they can be cut back to it, for
            the memory of all increments.
        conflicts: What is done with requests of one step that contradict each other; see
            ``conflicts.settle``.
        **options: What else ``Protocol`` takes.

    Raises:
        ValueError: a length that is more than there are records, a step of none, checkpoints that
            are not at the end of a step, no such policy, or a conflict under the policy to refuse.
    """

    name = "sequential"

    def __init__(
        self,
        editors: Mapping[str, Editor],
        records: Sequence[Record],
        folder: str | Path,
        *,
        length: int | None = None,
        step: int = 1,
        checkpoints: Sequence[int] | None = None,
        text: str | Sequence[str] | None = None,
        texts: int = 200,
        journal: bool = True,
        conflicts: str = "last",
        **options,
    ):
        super().__init__(editors, records, folder, **options)
        self.length = len(records) if length is None else length
        if not 1 <= self.length <= len(records):
            raise ValueError(
                f"length={length}: expected 1 to {len(records):,}, the records there are"
            )
        at_least(1, step=step, texts=texts)
        self.step = step
        self.checkpoints = checkpoints_of(checkpoints, self.length, step)
        self.texts = [] if text is None else list(TextCorpus(text)[:texts])
        self.journal = journal
        self.conflicts = conflicts
        self.chains: dict[str, Chain] = {}
        self.answers: dict[str, list[Answer]] = {}
        self.intervals = intervals_of(records, step, self.checkpoints, conflicts)

    def settings(self) -> dict[str, object]:
        """What is edited in which steps, and when it is asked."""
        return {
            "length": self.length,
            "step": self.step,
            "checkpoints": self.checkpoints,
            "conflicts": self.conflicts,
            "journal": self.journal,
            "texts": TextCorpus(self.texts).fingerprint if self.texts else None,
        }

    def units(self) -> list[tuple[str, int]]:
        """Editors and the numbers of checkpoints that they have not come to."""
        overruled = [pair for interval in self.intervals for _, pairs in interval for pair in pairs]
        if overruled and self.trainer.is_global_zero:
            log.warning("sequence: %s", describe(overruled))
        if not self.texts and self.trainer.is_global_zero:
            log.info("no text whose perplexity would tell a broken model; text=FILE names some")
        numbers = range(len(self.checkpoints))
        names = (UNEDITED, *self.editors)
        return [(n, c) for n in names for c in numbers if not self.folder.has(n, c)]

    def finished(self, editor: str) -> bool:
        """Whether the editor has come to every checkpoint."""
        return all(self.folder.has(editor, c) for c in range(len(self.checkpoints)))

    def edits_left(self) -> int:
        """The requests up to each checkpoint that an editor has not come to."""
        return sum(
            len(requests_of(self._records(number)))
            for name in self.editors
            for number in range(len(self.checkpoints))
            if not self.folder.has(name, number)
        )

    def share(self, units: list, rank: int, devices: int) -> list[tuple[str, int]]:
        """One device does all the work of an editor; of two each gets every second editor."""
        names = list(dict.fromkeys(name for name, _ in units))[rank::devices]
        return [unit for unit in units if unit[0] in names]

    def do(self, unit: tuple[str, int]) -> None:
        """The steps of an editor up to a checkpoint, and the checkpoint."""
        name, number = unit
        asking = self._ask_unedited(number)
        if name == UNEDITED:
            self._unedited(number, asking)
        else:
            self._edited(name, number)

    def _ask_unedited(self, number: int) -> Cost:
        """What the unedited model says to all that is asked up to a checkpoint."""
        costs = []
        for interval in range(number + 1):
            records = self._records(interval)
            if records[0].id not in self.answers:
                questions = self.questions(records)
                with measured(self.device) as cost:
                    answers = questions.before(self.unedited)
                costs.append(cost)
                for owner, answer in zip(questions.owners, answers, strict=True):
                    self.answers.setdefault(records[owner].id, []).append(answer)
        return total(costs)

    def _records(self, number: int) -> list[Record]:
        """What is edited from the checkpoint before to this one."""
        return [record for records, _ in self.intervals[number] for record in records]

    def _before(self, records: Sequence[Record]) -> list[Answer]:
        return [answer for record in records for answer in self.answers[record.id]]

    def _unedited(self, number: int, asking: Cost) -> None:
        run = self.run(UNEDITED, self.checkpoints[number], self.step, IMMEDIATE)
        records = self._records(number)
        before = self._before(records)
        so_far = requests_of(r for earlier in range(number + 1) for r in self._records(earlier))
        lines = self.lines(run, self.questions(records), before, before, so_far)
        state = health.of(NOTHING.edited(self.language_model), self.texts)
        work = Work(run, self.device, len(lines), asking, health=state)
        self.folder.add(UNEDITED, number, lines, work.line())

    def _edited(self, name: str, number: int) -> None:
        preparing, n = self.preparing.pop(name, Cost.none()), self.checkpoints[number]
        chain = self.chains.get(name) or self._resumed(name, number)
        self.chains[name] = chain
        progress = Progress()
        immediate = self.run(name, n, self.step, IMMEDIATE)
        for records, overruled in self.intervals[number]:
            progress.overruled += overruled
            self._make(chain, records, progress, immediate)
        state = {}
        if chain.edit is not None:
            self._ask(chain, chain.records, progress, self.run(name, n, self.step, RETENTION))
            state = health.of(chain.edit.edited(self.language_model), self.texts)
            self._alarm(name, n, state)
            chain.edit.save(self._path(name, number), self.language_model.name)
        work = Work(
            immediate,
            self.device,
            len(progress.lines),
            total(progress.asking),
            self._records(number),
            at_once=self.step,
            editing=total(progress.editing),
            preparing=preparing,
            failures=progress.failures,
            overruled=progress.overruled,
            health=state,
        )
        self.folder.add(name, number, progress.lines, work.line())
        log.info("%s: %s of %s edits", name, f"{n:,}", f"{self.length:,}")

    def _make(
        self, chain: Chain, records: Sequence[Record], progress: Progress, run: Mapping
    ) -> None:
        """One step, and the questions right after it."""
        attempt = self.attempt(lambda: self._step(chain, records))
        progress.editing.append(attempt.cost)
        if attempt.edit is None:
            if all(attempt.reason != reason for reason, _ in progress.failures):
                log.warning("%s: no edit of %r: %s", chain.name, records[0].id, attempt.reason)
            progress.failures.append((attempt.reason, records))
            self.tell(chain.name, len(requests_of(records)), ())
            return
        chain.edit = attempt.edit
        chain.records += records
        said = len(progress.lines)
        self._ask(chain, records, progress, run)
        self.tell(chain.name, len(requests_of(records)), progress.lines[said:])

    def _step(self, chain: Chain, records: Sequence[Record]) -> Edit:
        """The edit that holds these records, too."""
        edit = self.editors[chain.name].edit(requests_of(records), chain.edit)
        edit.check_finite()  # or all that comes after it would be broken, too
        return journaled(edit, chain.edit) if self.journal else edit

    def _ask(
        self, chain: Chain, records: Sequence[Record], progress: Progress, run: Mapping
    ) -> None:
        assert chain.edit is not None, "questions come behind an edit"
        questions = self.questions(records)
        with measured(self.device) as cost:
            after = questions.ask(chain.edit.edited(self.questioned))
        progress.asking.append(cost)
        before, so_far = self._before(records), requests_of(chain.records)
        progress.lines += self.lines(run, questions, before, after, so_far)

    def _alarm(self, name: str, n: int, state: Mapping[str, Mapping[str, float]]) -> None:
        """Warn of a model that edits have broken."""
        if health.PERPLEXITY not in state:
            return
        now, unedited = state[health.PERPLEXITY]["mean"], self.unedited_perplexity
        if now > ALARM * unedited:
            message = "%s: after %s edits the perplexity of held-out text is %.4g, %.3g unedited"
            log.warning(message, name, f"{n:,}", now, unedited)

    @cached_property
    def unedited_perplexity(self) -> float:
        """Of the held-out texts."""
        return health.perplexity(NOTHING.edited(self.language_model), self.texts)["mean"]

    def _resumed(self, name: str, number: int) -> Chain:
        """The chain as it was at the last checkpoint."""
        chain = Chain(name)
        failed = {
            record
            for cost in self.folder.costs(name)[:number]
            for failure in cost["failures"]
            for record in failure["records"]
        }
        for interval in self.intervals[:number]:
            chain.records += [r for records, _ in interval for r in records if r.id not in failed]
        if chain.records:
            chain.edit = self.editors[name].load(self._path(name, number - 1))
        return chain

    def _path(self, name: str, number: int) -> Path:
        return self.folder.path / "edits" / name / f"{number:06d}.safetensors"
