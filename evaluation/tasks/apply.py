"""The task ``apply``: the facts of a file become true, each is checked, and the edit is kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from datamodules.bystanders import Bystanders
from datamodules.reading import fetch
from datamodules.records import Record, requests_of
from datamodules.requests import RequestsData
from editors.editor import Editor
from editors.settings import at_least
from edits.history import Making
from edits.journal import journaled
from evaluation.correction import FILE, Correction
from evaluation.protocols.conflicts import checked_policy, describe, settle
from evaluation.report import checked
from evaluation.tasks.destinations import Destinations
from evaluation.tasks.task import Task
from files import counted
from models.language_model import LanguageModel
from watching import Watch

log = logging.getLogger(__name__)


class Apply(Task):
    """Makes the facts of a file true with one editor, and says of each whether it is said now.

    Args:
        requests: file of facts; see `RequestsData`.
        columns: the file's names of columns, where they are others.
        bystanders: other facts and text that are asked, too; None: well-known ones.
        step: how many facts are written together, one step after another, each of which can be
            undone; None: all at once.
        conflicts: what is done with facts that contradict each other; see ``conflicts.settle``.
        save: file for the edit; None: `FILE` in the run's folder.
        merge: folder for the edited model.
        export: folder for a LoRA adapter.
        rank: of the adapter, at most; None: all that the edit consists of.
        push: repository of the Hugging Face hub for the edit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no file is named, a step of none, no such policy, or there is something already
            where a result is to go.
    """

    def __init__(
        self,
        *,
        requests: str | None,
        columns: Mapping[str, str] | None = None,
        bystanders: Bystanders | None = None,
        step: int | None = None,
        conflicts: str = "last",
        save: str | None = None,
        merge: str | None = None,
        export: str | None = None,
        rank: int | None = None,
        push: str | None = None,
    ):
        if requests is None:
            raise ValueError("requests is missing: name a file of facts, as in requests=facts.csv")
        at_least(1, step=step)
        self.requests, self.data = fetch(requests), RequestsData(columns=columns)
        self.bystanders = bystanders or Bystanders()
        self.step = step
        self.conflicts = checked_policy(conflicts)
        self.destinations = Destinations(save, merge, export, push, rank)

    def check(self, editors: Sequence[str]) -> None:
        """As `Task.check`; one editor makes all of them."""
        super().check(editors)
        if len(editors) > 1:
            raise ValueError(f"editors={list(editors)}: task=apply takes one, as in [locft]")

    def run(
        self,
        language_model: LanguageModel,
        editors: Mapping[str, Editor],
        folder: Path,
        console: Console,
    ) -> None:
        """As `Task.run`."""
        [(name, editor)] = editors.items()
        records, overruled = settle(self._records(name, editor), self.conflicts)
        if overruled:
            log.warning("left out: %s", describe(overruled))
        correction = self._made(name, editor, language_model, records)
        check = correction.check()
        checked.write(check, folder)
        console.print(checked.tables(check, f"{name} on {language_model.name}"))
        self.destinations.write(correction, folder / FILE)

    def _records(self, name: str, editor: Editor) -> Sequence[Record]:
        """What the file asks for.

        Raises:
            ValueError: a subject had to be guessed, which this editor does not allow.
        """
        reading = self.data.read(self.requests)
        log.info("%s: %s", self.requests, reading.summary().replace("records", "facts", 1))
        guessed = [at for at, remark in reading.remarks if remark.field == "subject"]
        if guessed and editor.at_subject:
            raise ValueError(
                f"{self.requests}: {counted(len(guessed), 'fact')} without a subject, such as "
                f"[{guessed[0]}], and {name} changes the model where it stands: add the column"
            )
        return reading.records

    def _made(
        self, name: str, editor: Editor, language_model: LanguageModel, records: Sequence[Record]
    ) -> Correction:
        """The edit of all, step by step, each of them on top of the ones before."""
        edit, history = None, []
        size = self.step or len(records)
        with Watch(name, len(records), "facts") as watch:
            for start in range(0, len(records), size):
                requests = requests_of(records[start : start + size])
                made = editor.edit(requests, edit)
                made.check_finite()
                edit = journaled(made, edit) if self.step else made
                history.append(Making.now(name, requests, editor.identity()))
                watch.advance(len(requests))
        assert edit is not None  # a record at least
        return Correction(language_model, edit, tuple(history), records, self.bystanders)
