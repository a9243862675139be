"""The task ``locate``: which block holds the facts of a split, by causal tracing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from datamodules.editing import EditingData
from editors.editor import Editor
from evaluation.locating import report
from evaluation.locating.traces import ROLES, effects, recommended
from evaluation.locating.tracing import Tracing, trace
from evaluation.tasks.task import Task
from models.language_model import LanguageModel
from scoring.known import fitting, known

log = logging.getLogger(__name__)


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
        window = self.tracing.width(language_model.blocks)
        records, _ = fitting(self.data.records(self.split), language_model)
        facts = known(records, language_model)
        log.info("facts that the model knows: %d of %d", len(facts), len(records))
        traces = trace(language_model, [record.request for record in facts], self.tracing)
        found = effects(traces)
        layer, role = recommended(found) or (None, None)
        run = {
            "model": language_model.name,
            "data": self.data.name,
            "split": self.split,
            "facts": len(traces),
            "clean": sum(one.clean for one in traces) / len(traces),
            "corrupted": sum(one.corrupted for one in traces) / len(traces),
            "window": window,
            "layer": layer,
            "role": role,
        }
        rows = report.rows({kind: own.numpy() for kind, own in found.items()}, ROLES)
        report.write(folder, run, rows, [one.line() for one in traces])
        console.print(report.table(run, rows))
