"""The task ``findings``: what runs say of the survey's findings."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from evaluation.findings import findings
from evaluation.findings.evidence import bodies
from evaluation.findings.single_edits import SURVEYED
from evaluation.report.scorecard import checked
from evaluation.report.stored import runs_in
from evaluation.tasks.task import Reading
from files import write_whole

log = logging.getLogger(__name__)


class Findings(Reading):
    """Judges F1 to F15 by runs of one or several models and data sets.

    ``findings.json`` and ``findings.md`` have the claims of each, their numbers, and what is
    missing with the command that would measure it.

    Args:
        runs: their folders; or folders with such folders in them, as of a study.
        profiles: weights of properties by the profile's name; see `scorecard`.
        page: another file for what ``findings.md`` says; one that is there is replaced.

    Raises:
        ValueError: a profile that names no property, or whose weights do not sum to 1; or a page
            that is no Markdown file.
    """

    def __init__(
        self,
        *,
        runs: Sequence[str],
        profiles: Mapping[str, Mapping[str, float]],
        page: str | None = None,
    ):
        self.runs = runs
        self.profiles = {name: checked(name, weights) for name, weights in profiles.items()}
        if page is not None and not page.endswith(".md"):
            raise ValueError(f"page={page}: expected a file that ends with .md")
        self.page = page

    def run(self, folder: Path, console: Console) -> None:
        """As `Reading.run`.

        Raises:
            FileNotFoundError: there is no run in one of the folders, or it is not through.
        """
        runs = runs_in(self.runs)
        groups = bodies(runs)
        judged = [f for group in groups for f in findings.judged(group, self.profiles)]
        missing = [command for group in groups for command in group.commands(SURVEYED)]
        rows = json.dumps([finding.row() for finding in judged], indent=1, ensure_ascii=False)
        command = f"python edit.py task=findings runs='[{','.join(map(str, self.runs))}]'"
        text = findings.markdown(judged, command, [str(run.folder.path) for run in runs], missing)
        write_whole(folder / "findings.json", rows + "\n")
        write_whole(folder / "findings.md", text)
        if self.page is not None:
            write_whole(self.page, text)
        console.print(findings.table(judged))
        log.info("claims and numbers: %s", self.page or folder / "findings.md")
