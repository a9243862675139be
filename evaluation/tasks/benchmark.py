"""The task ``benchmark``: editors on the records of a split, under a protocol."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import lightning as L
from rich.console import Console

from datamodules.editing import EditingData
from datamodules.pool import Pool
from datamodules.records import Record
from editors.editor import Editor
from evaluation import circumstances
from evaluation.protocols.protocol import Protocol
from evaluation.report import document
from evaluation.report.scorecard import checked
from evaluation.report.stored import StoredRun
from evaluation.report.table import events, table
from evaluation.tasks.task import Task
from models.language_model import LanguageModel
from scoring.known import fitting, known

log = logging.getLogger(__name__)

NO_PROFILES: Mapping[str, Mapping[str, float]] = MappingProxyType({})


class Benchmark(Task):
    """Runs a protocol over the records of a split and shows the tables.

    Args:
        data: whose records.
        split: of the data.
        protocol: makes a protocol of editors, records and folder.
        trainer: tests it.
        pool: what editors may look at beside their requests, if they have any such records.
        known_only: take only records whose true fact the unedited model knows.
        max_new_tokens: that the model has to have room for behind a prompt.
        profiles: of the report's scorecard; see `scorecard`.

    Raises:
        ValueError: a profile that names no property, or whose weights do not sum to 1.
    """

    def __init__(
        self,
        *,
        data: EditingData,
        split: str,
        protocol: Callable[..., Protocol],
        trainer: L.Trainer,
        pool: Pool | None = None,
        known_only: bool = False,
        max_new_tokens: int = 16,
        profiles: Mapping[str, Mapping[str, float]] = NO_PROFILES,
    ):
        self.data = data
        self.split = split
        self.protocol = protocol
        self.trainer = trainer
        self.pool = pool
        self.known_only = known_only
        self.max_new_tokens = max_new_tokens
        self.profiles = {name: checked(name, weights) for name, weights in profiles.items()}

    def under(self, protocol: Callable[..., Protocol]) -> Benchmark:
        """The same benchmark under another protocol."""
        other = copy.copy(self)
        other.protocol = protocol
        return other

    def run(
        self,
        language_model: LanguageModel,
        editors: Mapping[str, Editor],
        folder: Path,
        console: Console,
    ) -> None:
        """As `Task.run`.

        Raises:
            ValueError: the pool has a subject that is tested.
        """
        records, name, left_out = self._records(language_model)
        if self.pool is not None:
            self.pool.disjoint_from(records, self.split)
        protocol = self.protocol(
            editors,
            records,
            folder,
            data=name,
            split=self.split,
            rendering=language_model.rendering,
        )
        if self.trainer.is_global_zero:
            circumstances.write(
                folder,
                model=circumstances.of_model(language_model),
                data=circumstances.of_data(self.data, self.split, records, left_out),
                editors=circumstances.of_editors(editors),
            )
        with protocol.watch:
            self.trainer.test(protocol, verbose=False)
        if self.trainer.is_global_zero:
            _show(folder, protocol.scorer, console)
            report = document.write(folder, [StoredRun.read(folder)], self.profiles)
            log.info("report: %s", report)

    def _records(
        self, language_model: LanguageModel
    ) -> tuple[Sequence[Record], str, dict[str, str]]:
        """What is edited and asked, its name in results, and why some records are left out."""
        name, limit = self.data.name, self.data.limit_of(self.split)
        # the limit counts records that are known, and any record may turn out to be
        records = self.data.ordered(self.split)[: None if self.known_only else limit]
        records, too_long = fitting(records, language_model, self.max_new_tokens)
        for record in too_long:
            log.info("left out, longer than the model takes: %s", record.id)
        left_out = {record.id: "longer than the model takes" for record in too_long}
        if not self.known_only:
            return records, name, left_out
        facts = known(records, language_model, limit)
        log.info("only records whose fact the unedited model knows: %s", f"{len(facts):,}")
        return facts, f"{name} ({len(facts):,} known)", left_out


def _show(folder: Path, scorer: str | None, console: Console) -> None:
    """The tables of a run that is through."""
    rows, costs = (
        json.loads((folder / name).read_text()) for name in ("results.json", "efficiency.json")
    )
    for part in filter(None, (table(rows, costs, scorer), events(rows))):
        console.print(part)
    if (folder / "curves.png").is_file():
        log.info("scores against the number of edits: %s", folder / "curves.png")
