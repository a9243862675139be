"""The task ``search``: settings of an editor for a model, found on val by successive halving."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from datamodules.editing import EditingData
from editors.editor import Editor
from editors.settings import at_least
from evaluation.searching import report
from evaluation.searching.grid import called, points
from evaluation.searching.halving import Halving
from evaluation.tasks.task import Task
from models.language_model import LanguageModel
from scoring.known import fitting, known

log = logging.getLogger(__name__)

SPLITS = ("val", "train")
"""Where settings may be chosen: never on what is tested."""


class Search(Task):
    """Tries all combinations of some settings, the better ones on more records.

    The candidates are judged as trained editors are (`Validation.score`): by the harmonic mean of
    exact match on requests, paraphrases, and the two plain kinds of locality.

    Args:
        data: whose records.
        split: val or train.
        grid: the values of each setting; see `points`.
        records: that the last candidates are asked about.
        first: that all of them are.
        keep: the share of the candidates that goes on from each round, on 1/keep as many records.
        known_only: take only records whose true fact the unedited model knows.

    Raises:
        ValueError: a split that is tested, an empty grid, or numbers that cannot be.
    """

    def __init__(
        self,
        *,
        data: EditingData,
        split: str,
        grid: Mapping[str, Sequence],
        records: int = 96,
        first: int = 12,
        keep: float = 0.5,
        known_only: bool = False,
    ):
        if split not in SPLITS:
            raise ValueError(f"split={split}: settings are chosen on {' or '.join(SPLITS)}")
        at_least(1, records=records, first=first)
        if first > records:
            raise ValueError(f"first is {first}; expected at most records, {records}")
        if not 0 < keep < 1:
            raise ValueError(f"keep is {keep}; expected a share between 0 and 1")
        self.data = data
        self.split = split
        self.points = {called(point): point for point in points(grid)}
        self.records, self.first, self.keep = records, first, keep
        self.known_only = known_only

    def check(self, editors: Sequence[str]) -> None:
        """As `Task.check`; settings of one editor are searched, not of several."""
        super().check(editors)
        if len(editors) > 1:
            raise ValueError(f"editors={list(editors)}: task=search takes one")

    def run(
        self,
        language_model: LanguageModel,
        editors: Mapping[str, Editor],
        folder: Path,
        console: Console,
    ) -> None:
        """As `Task.run`; the editors are the candidates, by the names of their settings."""
        records, _ = fitting(self.data.ordered(self.split), language_model)
        if self.known_only:
            records = known(records, language_model, self.records)
        records = records[: self.records]
        first = min(self.first, len(records))
        trials = Halving(language_model, editors, records, folder).run(first, self.keep)
        name = next(iter(editors.values())).name
        title = (
            f"task=search: {name}, {len(editors)} settings, {language_model.name}, "
            f"{self.data.name} {self.split}"
        )
        report.write(folder, title, trials, self.points)
        console.print(report.table(title, report.rows(trials, self.points)))
        if trials[0].score >= 0:
            log.info("preset for configs/preset/MODEL/EDITOR.yaml: %s", folder / "preset.yaml")
