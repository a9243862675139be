"""Which editor is better than which: differences of means, paired over the records of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

from datamodules.records import KINDS
from evaluation.report.cells import Cells, Lines, Values, record_means
from evaluation.report.intervals import mean_interval, share_difference
from evaluation.report.rows import DIGITS, scorer_of
from scoring.scorers import SCORERS


def differences(lines: Mapping[str, Iterable[Mapping]], scorer: str) -> list[dict]:
    """A row for each two editors and probe kind: how much the first is above the second.

    Columns: ``editor``, ``against``, ``probe``, ``scorer`` (of depth, the kind's own), the
    ``difference`` with its 95 % bounds ``low`` and ``high``, and the number of ``records`` that
    both have. A difference whose bounds enclose 0 is not supported by these records.

    Args:
        lines: of one run of each editor: one n and phase.
        scorer: whose values are compared.
    """
    cells = {editor: _cells(each) for editor, each in lines.items()}
    return [
        {"editor": editor, "against": other, "probe": kind, "scorer": name} | row
        for editor, other in combinations(cells, 2)
        for kind in KINDS
        for name in [scorer_of(kind, scorer)]
        if (row := _row(cells[editor].get((kind, name)), cells[other].get((kind, name)), name))
    ]


def _cells(lines: Iterable[Mapping]) -> Cells:
    collected = Lines()
    for line in lines:
        collected.add(line)
    return collected.cells


def _row(one: Values | None, other: Values | None, scorer: str) -> dict[str, float]:
    """What is said of two editors; nothing where they have no record in common."""
    both = [record for record in one or {} if record in (other or {})]
    if not one or not other or not both:
        return {}
    first, second = record_means(one, both), record_means(other, both)
    probes = sum(len(one[record]) for record in both)
    bounds = (
        share_difference(first, second, probes)
        if SCORERS[scorer].share
        else mean_interval(first - second)
    )
    numbers = {"difference": (first - second).mean(), "low": bounds[0], "high": bounds[1]}
    rounded = {name: round(float(value), DIGITS) for name, value in numbers.items()}
    return {**rounded, "records": len(both)}
