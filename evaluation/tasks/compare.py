"""The task ``compare``: several runs in one report, with a scorecard of all their editors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from evaluation.folder import differences
from evaluation.report import document
from evaluation.report.scorecard import Card, checked
from evaluation.report.stored import StoredRun, runs_in
from evaluation.tasks.task import Reading

log = logging.getLogger(__name__)


class Compare(Reading):
    """Puts runs of the same model and records, of any protocols, into one report.

    Args:
        runs: their folders; or folders with such folders in them.
        profiles: weights of properties by the profile's name; see `scorecard`.
        mixed: whether the runs may be of different models or data, side by side.

    Raises:
        ValueError: a profile that names no property, or whose weights do not sum to 1.
    """

    def __init__(
        self,
        *,
        runs: Sequence[str],
        profiles: Mapping[str, Mapping[str, float]],
        mixed: bool = False,
    ):
        self.runs = runs
        self.profiles = {name: checked(name, weights) for name, weights in profiles.items()}
        self.mixed = mixed

    def run(self, folder: Path, console: Console) -> None:
        """As `Reading.run`.

        Raises:
            FileNotFoundError: there is no run in one of the folders, or it is not through.
            ValueError: the runs are about different things, and that was not asked for.
        """
        runs = runs_in(self.runs)
        if not self.mixed:
            alike(runs)
        path = document.write(folder, runs, self.profiles)
        cards = document.scorecards(runs, self.profiles)
        if cards is not None:
            console.print(choices(cards.cards))
        log.info("report: %s", path)


def alike(runs: Sequence[StoredRun]) -> None:
    """Refuse runs of different models or records.

    Raises:
        ValueError: names two of them and how they differ.
    """
    first = runs[0]
    for other in runs[1:]:
        for name, values in differences(first.subject, other.subject):
            raise ValueError(
                f"runs: {first.folder.path} and {other.folder.path} have different {name} "
                f"({values}), so that they cannot be compared; compare.mixed=true shows them all "
                "the same"
            )


def choices(cards: Sequence[Card]) -> Table:
    """What each profile chooses, and whether the intervals support it."""
    table = Table(box=box.SIMPLE_HEAD, title="which editor for what", title_justify="left")
    for column in ("profile", "first", "average", "not told from it by the intervals"):
        table.add_column(column, justify="right" if column == "average" else "left")
    for card in cards:
        [(editor, score), *_] = card.scores.items()
        table.add_row(card.profile, editor, f"{score:.3f}", ", ".join(card.behind) or "none")
    return table
