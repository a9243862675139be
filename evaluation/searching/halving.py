"""Successive halving: all candidates on a few records, the better half on twice as many.

Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
AISTATS 2016, https://arxiv.org/abs/1502.07943, with a number of records for their budget.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, nan
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datamodules.records import Record
from editors.editor import Editor
from editors.validation import JUDGED
from edits.edit import NOTHING
from evaluation.report.intervals import harmonic_mean, interval, resampled_means
from files import first_line, write_whole
from models.language_model import LanguageModel
from scoring.questions import Questions
from scoring.scorers import exact_match

log = logging.getLogger(__name__)

CHUNK = 16
"""Records whose edits are made and asked in one go."""
TRIALS = "trials.json"


@dataclass
class Trial:
    """What a candidate has reached so far.

    Attributes:
        name: the candidate's.
        values: of each judged kind, for each record that has it, the mean exact match of its
            probes; in the order of the records.
        records: how many were edited.
        reason: why it could not go on, if it could not.
    """

    name: str
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    records: int = 0
    reason: str = ""

    def share(self, kind: str) -> tuple[float, float, float]:
        """Mean and 95 % interval over records of a kind; NaN where there is none."""
        values = np.array(self.values.get(kind, []))
        if not len(values):
            return nan, nan, nan
        low, high = interval(resampled_means(values[:, None])[:, 0])
        return float(values.mean()), low, high

    @property
    def score(self) -> float:
        """Harmonic mean of the kinds' shares, of those that have probes; below 0 if it failed."""
        means = [float(np.mean(values)) for values in self.values.values() if values]
        return -1.0 if self.reason or not means else float(harmonic_mean(means))


def rungs(first: int, records: int, keep: float) -> list[int]:
    """How many records are asked in each round: growing as the candidates get fewer."""
    sizes = [first]
    while sizes[-1] < records:
        sizes.append(min(records, ceil(sizes[-1] / keep)))
    return sizes


class Halving:
    """Finds the best of some editors.

    What was asked lies in the folder; who goes on there does not ask it again.

    Args:
        model: the unedited model, as questions are put to it.
        editors: the candidates, by name.
        records: to edit, the most that any candidate sees.
        folder: where trials are kept.
    """

    def __init__(
        self,
        model: LanguageModel,
        editors: Mapping[str, Editor],
        records: Sequence[Record],
        folder: Path,
    ):
        self.model, self.editors, self.records = model, editors, records
        self.path = folder / TRIALS
        self.trials = {name: Trial(name) for name in editors}
        if self.path.is_file():
            self._take_over(json.loads(self.path.read_text(encoding="utf-8")))

    def run(self, first: int, keep: float) -> list[Trial]:
        """All trials, the best first: who came further is before who did not."""
        left = list(self.editors)
        for size in rungs(first, len(self.records), keep):
            for name in tqdm(left, desc=f"{size} records", disable=None):
                self._extend(self.trials[name], size)
            left = [trial.name for trial in self._ranked() if trial.name in left]
            left = [name for name in left if not self.trials[name].reason]
            log.info("%s records: %s", size, "; ".join(left[:3]) or "no candidate is left")
            left = left[: max(1, int(len(left) * keep))]
        return self._ranked()

    def _ranked(self) -> list[Trial]:
        return sorted(self.trials.values(), key=lambda t: (-t.records, -t.score))

    def _extend(self, trial: Trial, size: int) -> None:
        """Edit and ask the records up to a number."""
        for start in range(trial.records, size, CHUNK):
            records = self.records[start : min(start + CHUNK, size)]
            try:
                for kind, value in self._values(self.editors[trial.name], records):
                    trial.values[kind].append(value)
            except ValueError as error:
                trial.reason = first_line(str(error))
                log.warning("%s: %s", trial.name, trial.reason)
                break
            trial.records = start + len(records)
        self._keep()

    def _values(self, editor: Editor, records: Sequence[Record]) -> Iterator[tuple[str, float]]:
        """For each record and judged kind that it has, the mean over its probes."""
        edit = editor.make([record.requests for record in records])
        questions = Questions(records, kinds=JUDGED, generate=(), contrasts=False)
        after = questions.ask(edit.edited(self.model), each=True)
        before = questions.ask(NOTHING.edited(self.model))
        values: dict[tuple[int, str], list[float]] = defaultdict(list)
        asked = zip(questions.owners, questions.probes, after, before, strict=True)
        for owner, probe, new, old in asked:
            values[owner, probe.kind].append(exact_match(probe, new, old))
        for (_, kind), of_record in values.items():
            yield kind, float(np.mean(of_record))

    def _keep(self) -> None:
        trials = {name: vars(trial) for name, trial in self.trials.items()}
        write_whole(self.path, json.dumps(trials) + "\n")

    def _take_over(self, stored: Mapping[str, Mapping]) -> None:
        for name, values in stored.items():
            if name in self.trials:
                kept = {kind: list(v) for kind, v in values["values"].items()}
                self.trials[name] = Trial(
                    name, defaultdict(list, kept), values["records"], values["reason"]
                )
