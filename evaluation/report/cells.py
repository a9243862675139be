"""What the lines of one run amount to: the values of each record, by probe kind and scorer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from datamodules.records import KINDS
from evaluation.report.lines import UNEDITED
from scoring.scorers import SCORERS

Values = dict[str, list[float]]
"""Values of the probes of each record."""
Cells = Mapping[tuple[str, str], Values]
"""Those of each probe kind and scorer."""


class Column:
    """Values of one probe kind by one scorer, record by record.

    Probes that are one question together are one value: the best of ``any_of``, the worst of
    ``all_of``.
    """

    def __init__(self, scorer: str):
        self.scorer = SCORERS[scorer]
        self.values: Values = defaultdict(list)
        self._places: dict[tuple[str, str], int] = {}

    def add(self, line: Mapping, value: float) -> None:
        """Take the value of a line in."""
        values, combined = self.values[line["record"]], self.scorer.best
        question = line["any_of"]
        if not question and line.get("all_of"):
            question, combined = line["all_of"], self.scorer.worst
        place = (line["record"], question)
        if question and place in self._places:
            at = self._places[place]
            values[at] = combined([values[at], value])
            return
        if question:
            self._places[place] = len(values)
        values.append(value)


@dataclass
class Lines:
    """What the lines of one run amount to.

    Attributes:
        columns: by probe kind and scorer, of the editor.
        floors: the same of the unedited model, asked the same probes.
        judged: how many probes, by whether they are local and why they are not judged.
        verdicts: how many texts a judge was asked about, by why it said nothing.
        requests: the unedited model's answers to them.
    """

    columns: dict[tuple[str, str], Column] = field(default_factory=dict)
    floors: dict[tuple[str, str], Column] = field(default_factory=dict)
    judged: Counter[tuple[bool, str | None]] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    requests: list[Mapping] = field(default_factory=list)

    def add(self, line: Mapping) -> None:
        """Take a line in; those of earlier versions have no floor and no verdict."""
        kind = line["probe"]
        if line["editor"] == UNEDITED and kind == "reliability":
            self.requests.append(line)
        self.judged[KINDS[kind].local, line["judged"]] += 1
        if line.get("verdict") is not None:
            self.verdicts[line["verdict"]] += 1
        _put(self.columns, line, {name: line.get(name) for name in SCORERS})
        _put(self.floors, line, line.get("floor", {}))

    @property
    def cells(self) -> Cells:
        """The editor's values."""
        return {key: column.values for key, column in self.columns.items()}

    @property
    def floor_cells(self) -> Cells:
        """The unedited model's."""
        return {key: column.values for key, column in self.floors.items()}


def merged(parts: Sequence[Cells]) -> Cells:
    """Cells of different records in one; nothing is copied of a single one."""
    if len(parts) == 1:
        return parts[0]
    together: dict[tuple, dict] = defaultdict(dict)
    for part in parts:
        for key, records in part.items():
            together[key] |= records
    return together


def record_means(values: Values, records: Sequence[str] | None = None) -> NDArray:
    """The mean of each record, by default in order; NaN of records that have no value."""
    means = {record: float(np.mean(each)) for record, each in values.items()}
    return np.array(
        [means.get(record, np.nan) for record in (means if records is None else records)]
    )


def _put(columns: dict, line: Mapping, values: Mapping[str, float | None]) -> None:
    for name, value in values.items():
        if value is not None:
            key = line["probe"], name
            columns.setdefault(key, Column(name)).add(line, value)
