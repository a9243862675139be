"""The task ``study``: a benchmark under several protocols, and one report of all of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from editors.editor import Editor
from evaluation.protocols.protocol import Protocol
from evaluation.report import document
from evaluation.report.stored import runs_in
from evaluation.tasks.benchmark import Benchmark
from evaluation.tasks.compare import choices
from evaluation.tasks.task import Task
from models.language_model import LanguageModel

log = logging.getLogger(__name__)


class Study(Task):
    """Runs a benchmark under one protocol after another, each in a folder below the study's.

    Each is a run of its own, which is gone on with where it was; so a study that was killed is
    resumed as any run, and what it had finished stays as it is.

    Args:
        benchmark: what is edited and asked; its own protocol is not run.
        protocols: by the names of their folders, in order.

    Raises:
        ValueError: there is none, or a name is no folder's.
    """

    def __init__(self, *, benchmark: Benchmark, protocols: Mapping[str, Callable[..., Protocol]]):
        if not protocols:
            raise ValueError("protocols is empty: name some, as study.protocols has them")
        for name in protocols:
            if Path(name).name != name:
                raise ValueError(f"protocols: {name!r} is no name of a folder")
        self.benchmark = benchmark
        self.protocols = protocols

    def run(
        self,
        language_model: LanguageModel,
        editors: Mapping[str, Editor],
        folder: Path,
        console: Console,
    ) -> None:
        """As `Task.run`."""
        for name, protocol in self.protocols.items():
            log.info("study: %s", name)
            self.benchmark.under(protocol).run(language_model, editors, folder / name, console)
        if self.benchmark.trainer.is_global_zero:
            self._report(folder, console)

    def _report(self, folder: Path, console: Console) -> None:
        """Of all protocols together."""
        runs = runs_in([folder / name for name in self.protocols])
        path = document.write(folder, runs, self.benchmark.profiles)
        cards = document.scorecards(runs, self.benchmark.profiles)
        if cards is not None:
            console.print(choices(cards.cards))
        log.info("report of the study: %s", path)
