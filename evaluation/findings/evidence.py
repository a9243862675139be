"""What runs of one model and one data set say, looked up by editor, probe and protocol."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import hypot

import numpy as np

from datamodules.records import PORTABILITY
from evaluation.findings.checks import Named
from evaluation.report.lines import IMMEDIATE, RETENTION, UNEDITED
from evaluation.report.rows import common_scorer
from evaluation.report.scorecard import LEAST, NOISE, Value, Z
from evaluation.report.stored import StoredRun

LARGE = 1_000_000_000
"""Parameters from which on a model counts as large."""
ASKED = ("reliability", "generalization", "unrelated", "neighborhood")
"""Kinds whose mean says how good single edits are, as far as the data has them."""
KEPT = ("unrelated", "neighborhood")
COSTS = {"seconds_per_edit": "speed", "peak_gib": "memory", "preparation_seconds": "preparation"}


class Evidence:
    """Runs of the same model and data; a value that no run has says what is missing.

    Args:
        runs: of any protocols. Of two of one protocol and editor the later one counts.
    """

    def __init__(self, runs: Sequence[StoredRun]):
        self.runs = runs
        self.model: Mapping = runs[0].about.get("model", {})
        self.scorer = common_scorer([row for run in runs for row in run.rows])

    @property
    def name(self) -> str:
        """Model and data, in words."""
        first = next((row for run in self.runs for row in run.rows), {})
        return f"{first.get('model', '')} · {first.get('data', '')} {first.get('split', '')}"

    @property
    def data(self) -> str:
        """The data set's name."""
        return str(self.runs[0].identity.get("data", ""))

    @property
    def family(self) -> str:
        """The model's."""
        return str(self.model.get("family", ""))

    @property
    def large(self) -> bool:
        """Whether the model is a large one."""
        return self.model.get("parameters", 0) >= LARGE

    @cached_property
    def editors(self) -> list[str]:
        """That any run has."""
        names = dict.fromkeys(name for run in self.runs for name in run.folder.editors)
        return [name for name in names if name != UNEDITED]

    @cached_property
    def _rows(self) -> dict[tuple, Mapping]:
        return {
            (row["editor"], row["probe"], row["protocol"], row["n"], row["phase"]): row
            for run in self.runs
            for row in run.rows
            if row["scorer"] == self.scorer
        }

    @cached_property
    def _costs(self) -> dict[tuple, list[Mapping]]:
        costs = defaultdict(list)
        for run in self.runs:
            for cost in run.costs:
                costs[cost["editor"], run.protocol].append(cost)
        return costs

    # single edits

    def share(self, editor: str, probe: str) -> Named:
        """Of single edits the mean of a kind of probe."""
        return self._named(f"{editor} {probe.replace('_', ' ')}", editor, probe, "single", 1)

    def mean(self, editor: str, *probes: str, name: str = "") -> Named:
        """Of single edits the mean over some kinds of probes, as far as the data has them."""
        parts = [self.share(editor, probe) for probe in probes]
        values = [part.value for part in parts if part.value is not None]
        if not values:
            return Named(f"{editor} {name}", None, parts[0].missing, parts[0].editor)
        mean = float(np.mean([value.mean for value in values]))
        bound = Z * float(np.linalg.norm([value.error for value in values])) / len(values)
        value = Value(mean, max(0.0, mean - bound), min(1.0, mean + bound))
        return Named(f"{editor} {name}", value)

    def quality(self, editor: str) -> Named:
        """The mean of reliability, generalization and the two plain kinds of locality."""
        return self.mean(editor, *ASKED, name="mean of kinds")

    def locality(self, editor: str) -> Named:
        """The mean of the two plain kinds of locality."""
        return self.mean(editor, *KEPT, name="locality")

    def portability(self, editor: str) -> Named:
        """The mean of the kinds of portability."""
        return self.mean(editor, *PORTABILITY, name="portability")

    # many edits

    def sizes(self, editor: str, protocol: str) -> list[int]:
        """The numbers of edits at which an editor was asked."""
        return sorted({key[3] for key in self._rows if (key[0], key[2]) == (editor, protocol)})

    def batch(self, editor: str, probe: str, most: bool) -> Named:
        """Of the largest batch, or the smallest."""
        return self._at(editor, probe, "batch", IMMEDIATE, most)

    def retained(self, editor: str, probe: str, last: bool) -> Named:
        """Of all edits so far in a sequence, at its end or at its first checkpoint."""
        return self._at(editor, probe, "sequential", RETENTION, last)

    def _at(self, editor: str, probe: str, protocol: str, phase: str, most: bool) -> Named:
        sizes = self.sizes(editor, protocol)
        if len(sizes) < 2:
            several = " at several n" if sizes else ""
            return Named(editor, None, f"no {protocol} run{several} of", editor)
        n = sizes[-1 if most else 0]
        name = f"{editor} {probe.replace('_', ' ')} at n = {n:,}"
        return self._named(name, editor, probe, protocol, n, phase)

    # costs

    def cost(self, editor: str, column: str, protocol: str = "single", most: bool = True) -> Named:
        """A column of `efficiency`, of the largest n of a protocol, or the smallest."""
        rows = self._costs.get((editor, protocol), [])
        rows = sorted(rows, key=lambda row: row["n"])
        value = rows[-1 if most else 0].get(column) if rows else None
        name = f"{editor} {column.replace('_', ' ')}"
        if value is None:
            what = f"no {column.replace('_', ' ')}" if rows else f"no {protocol} run"
            return Named(name, None, f"{what} of", editor)
        bound = Z * hypot(NOISE * value, LEAST[COSTS.get(column, "preparation")])
        return Named(name, Value(value, value - bound, value + bound), percent=False)

    # what there is not

    def commands(self, editors: Sequence[str]) -> list[str]:
        """What makes the runs that there are not, of some editors under all protocols."""
        model, data = str(self.model.get("name", "")), self.data.partition(" (")[0]
        options = [f" model={model}"] * (model != "atlas") + [f" data={data}"] * (data != "atlas")
        commands = []
        for protocol in ("single", "batch", "sequential"):
            missing = ",".join(name for name in editors if not self.sizes(name, protocol))
            if missing:
                run = f"python edit.py 'editors=[{missing}]' protocol={protocol}"
                commands.append(run + "".join(options))
        return commands

    def _named(
        self, name: str, editor: str, probe: str, protocol: str, n: int, phase: str = IMMEDIATE
    ) -> Named:
        row = self._rows.get((editor, probe, protocol, n, phase))
        if row is not None:
            return Named(name, Value(row["mean"], row["low"], row["high"]))
        if self.sizes(editor, protocol):
            return Named(name, None, f"no {probe.replace('_', ' ')} probes of", editor)
        return Named(name, None, f"no {protocol} run of", editor)


def bodies(runs: Sequence[StoredRun]) -> list[Evidence]:
    """The runs by what they are about: one `Evidence` for each model, data set and split."""
    groups: dict[tuple, list[StoredRun]] = defaultdict(list)
    for run in runs:
        groups[run.subject["model"], run.subject["data"], run.subject["split"]].append(run)
    return [Evidence(group) for group in groups.values()]
