"""The protocol ``sequential``: edit after edit into the same model, nothing rolled back."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from datamodules.records import Record, requests_of
from datamodules.text import TextCorpus
from editors.editor import Editor
from edits.edit import Edit
from edits.journal import Journal
from edits.weights import WeightEdit
from evaluation import health
from evaluation.chain import Chain, Done, checkpoints_of, intervals_of
from evaluation.conflicts import told
from evaluation.efficiency import Cost, chunk_costs, measured, total
from evaluation.lines import IMMEDIATE, RETENTION, UNEDITED
from evaluation.protocol import Protocol
from scoring.scorers import Answer

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
            ``conflicts.settled``.
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
        if step < 1 or texts < 1:
            raise ValueError(f"step and texts must be at least 1, got {step} and {texts}")
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
        overruled = [pair for interval in self.intervals for _, lost in interval for pair in lost]
        if overruled and self.trainer.is_global_zero:
            log.warning("sequence: %s", told(overruled))
        if not self.texts and self.trainer.is_global_zero:
            log.info("no text whose perplexity would tell a broken model; text=FILE names some")
        numbers = range(len(self.checkpoints))
        names = (UNEDITED, *self.editors)
        return [(n, c) for n in names for c in numbers if not self.folder.has(n, c)]

    def finished(self, editor: str) -> bool:
        """Whether the editor has come to every checkpoint."""
        return all(self.folder.has(editor, c) for c in range(len(self.checkpoints)))

    def share(self, units: list, rank: int, devices: int) -> list[tuple[str, int]]:
        """All the work of every so manieth editor."""
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
        for interval in self.intervals[: number + 1]:
            records = [record for kept, _ in interval for record in kept]
            if records[0].id not in self.answers:
                questions = self.questions(records)
                with measured(self.device) as cost:
                    found = questions.ask(self.language_model)
                costs.append(cost)
                for owner, answer in zip(questions.owners, found, strict=True):
                    self.answers.setdefault(records[owner].id, []).append(answer)
        return total(costs)

    def _before(self, records: Sequence[Record]) -> list[Answer]:
        return [answer for record in records for answer in self.answers[record.id]]

    def _unedited(self, number: int, asking: Cost) -> None:
        run = self.run(UNEDITED, self.checkpoints[number], self.step, IMMEDIATE)
        records = [record for kept, _ in self.intervals[number] for record in kept]
        before = self._before(records)
        so_far = [
            request
            for part in self.intervals[: number + 1]
            for kept, _ in part
            for request in requests_of(kept)
        ]
        lines = self.lines(run, self.questions(records), before, before, so_far)
        found = health.measured(self.language_model, None, self.texts)
        costs = chunk_costs(run, self.device, asking, len(lines), health=found)
        self.folder.add(UNEDITED, number, lines, costs)

    def _edited(self, name: str, number: int) -> None:
        preparing, n = self.preparing.pop(name, None), self.checkpoints[number]
        chain = self.chains.get(name) or self._resumed(name, number)
        self.chains[name] = chain
        done = Done()
        for kept, overruled in self.intervals[number]:
            done.overruled += overruled
            self._make(chain, kept, done, self.run(name, n, self.step, IMMEDIATE))
        found = {}
        if chain.edit is not None:
            self._ask(chain, chain.made, done, self.run(name, n, self.step, RETENTION))
            found = health.measured(self.language_model, chain.edit, self.texts)
            self._alarm(name, n, found)
            path = self._path(name, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            chain.edit.save(path, self.language_model.name)
        records = [record for kept, _ in self.intervals[number] for record in kept]
        costs = chunk_costs(
            self.run(name, n, self.step, IMMEDIATE),
            *(self.device, total(done.asking), len(done.lines), records),
            *(total(done.editing), preparing),
            failures=done.failures,
            overruled=done.overruled,
            at_once=self.step,
            health=found,
        )
        self.folder.add(name, number, done.lines, costs)
        log.info("%s: %s of %s edits", name, f"{n:,}", f"{self.length:,}")

    def _make(self, chain: Chain, records: Sequence[Record], done: Done, run: Mapping) -> None:
        """One step, and the questions right after it."""
        editor, requests = self.editors[chain.name], requests_of(records)
        before = {} if chain.edit is None else {"after": chain.edit}
        made = self.attempt(lambda: self._journaled(editor.edit(requests, **before), chain.edit))
        done.editing.append(made.cost)
        if made.edit is None:
            if all(made.reason != reason for reason, _ in done.failures):
                log.warning("%s: no edit of %r: %s", chain.name, records[0].id, made.reason)
            done.failures.append((made.reason, records))
            return
        chain.edit = made.edit
        chain.made += records
        self._ask(chain, records, done, run)

    def _journaled(self, edit: Edit, before: Edit | None) -> Edit:
        """The edit with the step that ends here, if it is one of those that remember steps."""
        if not self.journal or not isinstance(edit, WeightEdit):
            return edit
        if before is None:
            return Journal.of(edit)
        if not isinstance(edit, Journal):
            raise ValueError(
                "the edit does not hold the steps made before: the editor has not added to it; "
                "set journal=false"
            )
        return edit.ended()

    def _ask(self, chain: Chain, records: Sequence[Record], done: Done, run: Mapping) -> None:
        questions = self.questions(records)
        with measured(self.device) as cost:
            after = questions.ask(chain.edit.edited(self.language_model))
        done.asking.append(cost)
        so_far = requests_of(chain.made)
        done.lines += self.lines(run, questions, self._before(records), after, so_far)

    def _alarm(self, name: str, n: int, found: Mapping[str, Mapping[str, float]]) -> None:
        """Warn of a model that edits have broken."""
        if not self.texts:
            return
        now = found[health.PERPLEXITY]["mean"]
        if now > ALARM * self.own_perplexity:
            log.warning(
                "%s: after %s edits the perplexity of held-out text is %.4g, %.3g unedited",
                *(name, f"{n:,}", now, self.own_perplexity),
            )

    @cached_property
    def own_perplexity(self) -> float:
        """Of the unedited model."""
        return health.perplexity(self.language_model, self.texts)["mean"]

    def _resumed(self, name: str, number: int) -> Chain:
        """The chain as it was at the last checkpoint."""
        chain = Chain(name)
        lost = {
            record
            for cost in self.folder.costs(name)[:number]
            for failure in cost["failures"]
            for record in failure["records"]
        }
        for interval in self.intervals[:number]:
            chain.made += [r for kept, _ in interval for r in kept if r.id not in lost]
        if chain.made:
            chain.edit = self.editors[name].load(self._path(name, number - 1))
        return chain

    def _path(self, name: str, number: int) -> Path:
        return self.folder.path / "edits" / name / f"{number:06d}.safetensors"
