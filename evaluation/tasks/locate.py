"""The task ``locate``: which block holds the facts of a split, by causal tracing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from datamodules.editing import EditingData
from editors.editor import Editor
from evaluation.locating import report
from evaluation.locating.locate import locate
from evaluation.locating.tracing import Tracing
from evaluation.tasks.task import Task
from models.language_model import LanguageModel


class Locate(Task):
    """Traces the facts of a split that the model knows, and says which block to edit.

    Args:
        data: whose records.
        split: of the data.
        tracing: how facts are traced.
    """

    def __init__(self, *, data: EditingData, split: str, tracing: Tracing):
        self.data = data
        self.split = split
        self.tracing = tracing

    def check(self, editors: Sequence[str]) -> None:
        """Refuse editors: there is nothing for them to do.

        Raises:
            ValueError: there is one.
        """
        if editors:
            raise ValueError(f"editors={list(editors)}: task=locate takes none")

    def run(
        self,
        language_model: LanguageModel,
        editors: Mapping[str, Editor],
        folder: Path,
        console: Console,
    ) -> None:
        """As `Task.run`."""
        located = locate(language_model, self.data.records(self.split), self.tracing)
        run, rows = located.run(self.data.name, self.split), report.rows(located.effects)
        report.write(folder, run, rows, located.traces)
        console.print(report.table(run, rows))
