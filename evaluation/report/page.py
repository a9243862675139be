"""The files that hold a run's results, and the page that shows them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from types import MappingProxyType

import pandas as pd

from datamodules.records import KINDS
from evaluation import circumstances
from evaluation.folder import RunFolder
from evaluation.report import judging
from evaluation.report.efficiency import efficiency
from evaluation.report.health import PERPLEXITY, RELATIVE_NORM, UPDATE_NORM
from evaluation.report.lines import DISTURBED, UNEDITED, UNKNOWN
from evaluation.report.rows import (
    AGREEMENT,
    ALL,
    ALREADY_TRUE,
    EVENTS,
    NO_VERDICT,
    NOT_MADE,
    OVERRULED,
    REPEATED,
    RUN,
    SCORE,
    SCORER_NAMES,
    event_rows,
    gain_rows,
    is_measure,
    rows,
)
from files import write_whole
from scoring.scorers import SCORERS

MEANINGS = MappingProxyType(
    {name: scorer.description for name, scorer in SCORERS.items()}
    | {
        SCORE: "Harmonic mean of probability_success on reliability, generalization, neighborhood.",
        NOT_MADE: "Share of the requests of which the editor made no edit, and why.",
        OVERRULED: "Share of the requests that a later one of the same step contradicts.",
        ALREADY_TRUE: "Share of the requests whose target the unedited model says.",
        REPEATED: "Share of the requests that mention their subject twice: the last one is edited.",
        DISTURBED: "Share of the locality probes whose answer another request changes: not judged.",
        NO_VERDICT: "Share of the texts of which the judge did not say whether they are right.",
        AGREEMENT: "Share of the labelled answers about Atlas of which the judge says the same.",
        UNKNOWN: "Share of the probes that presume what the unedited model does not know: not "
        "judged.",
        PERPLEXITY: "Perplexity per token of text about something else.",
        UPDATE_NORM: "Frobenius norm of the change of weights.",
        RELATIVE_NORM: "Frobenius norm of the change over that of the changed layers' weights.",
    }
)
GAIN = "What the unedited model is asked too, with an interval that is paired over records."
COSTS = (
    "Seconds, and GiB at the peak: of a preparation (once per model; what the cache held costs "
    "nothing), of an edit and of a question."
)
ORIGIN = "origin"
DEFAULTS = MappingProxyType({"render": "text", "end": "none", "asked": "text"})
"""How texts are put to a model unless a caption says otherwise."""


def write(folder: RunFolder) -> list[dict]:
    """Write what the folder's answers amount to, each file whole or not at all; return the rows.

    ``results.json`` and ``results.csv`` depend on the answers only, and rows of an editor that
    learns say as ``origin`` which checkpoint was taken; seconds and memory stand in
    ``efficiency.json``; ``results.md`` shows both.
    """
    chunks = {editor: folder.costs(editor) for editor in folder.editors}
    results, origins = [], folder.origins
    for editor, costs in chunks.items():
        origin = {ORIGIN: origins[editor]} if editor in origins else {}
        parts = [*rows(folder.lines(editor)), *event_rows(costs)]
        results += [{**row, **origin} for row in parts]
    agreement = judging.numbers(folder.path)
    if agreement and results:
        run = {name: results[0][name] for name in RUN} | {"editor": UNEDITED}
        results.append({**run, "probe": ALL, "scorer": AGREEMENT, **agreement})
    costs = efficiency(chunks, circumstances.training_costs(folder.path))
    write_whole(folder.path / "results.json", json.dumps(results, indent=1) + "\n")
    write_whole(folder.path / "results.csv", pd.DataFrame(results).to_csv(index=False))
    write_whole(folder.path / "efficiency.json", json.dumps(costs, indent=1) + "\n")
    write_whole(folder.path / "results.md", markdown(results, costs))
    return results


def markdown(results: Sequence[Mapping], costs: Sequence[Mapping] = ()) -> str:
    """The rows as one table per scorer, editors by probe kinds, and a table of the costs."""
    if not results:
        return "No answers yet.\n"
    parts = [f"# {caption(results)}", "Means in percent with 95 % intervals over records."]
    parts += taken(results)
    for section in sections(results, costs):
        frame = pd.DataFrame(section.rows, columns=section.columns).astype(str)
        text = frame.replace("\\|", r"\|", regex=True).to_markdown(
            index=False, disable_numparse=True
        )
        parts += [f"## {section.title}", section.meaning, text]
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class Cell:
    """What stands in a table: a value, and the bounds of its interval if it has one."""

    text: str
    bounds: str = ""

    def __str__(self):
        return f"{self.text} ({self.bounds})" if self.bounds else self.text


@dataclass(frozen=True)
class Section:
    """A table of a page, and what its values mean."""

    title: str
    meaning: str
    columns: list[str]
    rows: list[list[Cell]]


def sections(results: Sequence[Mapping], costs: Sequence[Mapping] = ()) -> list[Section]:
    """One table per scorer, editors by probe kinds, and one of the costs.

    Where a run has several n or phases, each editor has a line for each.
    """
    lines = ["editor", *(name for name in ("n", "phase") if len({r[name] for r in results}) > 1)]
    parts = []
    for name in dict.fromkeys(row["scorer"] for row in results):
        part = [row for row in results if row["scorer"] == name]
        meaning = MEANINGS.get(name, "A measure of the edit's size.")
        parts.append(Section(name, meaning, *_of_scorer(part, lines, _cell)))
        if gains := gain_rows(part):
            table = _of_scorer(gains, lines, _gain)
            parts.append(Section(f"{name}: gain over the unedited model", GAIN, *table))
    if costs:
        rows = [[Cell(_shown(value)) for value in row.values()] for row in costs]
        parts.append(Section("efficiency", COSTS, [name for name in costs[0]], rows))
    return parts


def _of_scorer(
    results: Sequence[Mapping], lines: Sequence[str], cell: Callable[[Mapping], Cell]
) -> tuple[list[str], list[list[Cell]]]:
    """The columns, probe kinds, and the rows, editors, of one scorer's table, in their order."""
    there = {row["probe"] for row in results}
    probes = [probe for probe in (*KINDS, ALL) if probe in there]
    table: dict[tuple, dict[str, Cell]] = defaultdict(dict)
    for row in results:
        table[tuple(row[line] for line in lines)][row["probe"]] = cell(row)
    rows = [
        [*(Cell(str(value)) for value in line), *(cells.get(p, Cell("-")) for p in probes)]
        for line, cells in table.items()
    ]
    return [*lines, *probes], rows


def caption(results: Sequence[Mapping]) -> str:
    """Protocol, data, model and size of a run, in words."""
    first, sizes = results[0], {}
    for row in (row for row in results if row["scorer"] in SCORER_NAMES):
        sizes[row["editor"]] = max(row["records"], sizes.get(row["editor"], 0))
    bounds = sorted({min(sizes.values()), max(sizes.values())})
    size = " to ".join(f"{number:,}" for number in bounds)
    what = " ".join(filter(None, (first["data"], first["split"])))
    each = f", {first['step']:,} at a time" if first["protocol"] == "sequential" else ""
    parts = [f"{first['protocol']} edits{each}", what, first["model"], f"{size} records"]
    return " · ".join([*parts, *_renderings(results)])


def taken(results: Sequence[Mapping]) -> list[str]:
    """The checkpoints of editors that learn, and what they reached on val."""
    rows_of = {row["editor"]: row for row in results if ORIGIN in row}
    return [f"{editor}: {row[ORIGIN]}" for editor, row in rows_of.items()]


def _renderings(results: Sequence[Mapping]) -> list[str]:
    """How texts were put to the models, where it is not the usual way."""
    edited = [row for row in results if row["editor"] != UNEDITED] or results
    values = {name: list(dict.fromkeys(row[name] for row in edited)) for name in DEFAULTS}
    unusual = {name: texts for name, texts in values.items() if set(texts) != {DEFAULTS[name]}}
    settings = [f"{name}={'|'.join(texts)}" for name, texts in unusual.items()]
    return [" ".join(settings)] if settings else []


def _cell(row: Mapping) -> Cell:
    if is_measure(row["scorer"]):
        return Cell(f"{row['mean']:.4g}", f"{row['low']:.4g} to {row['high']:.4g}")
    if row["scorer"] in EVENTS:
        count = f"{row['count']:,} of {row['records']:,}"
        why = "" if row["scorer"] in (DISTURBED, UNKNOWN) else f": {row['reason']}"
        return Cell(count + why)
    mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
    return Cell(f"{mean:z.1f}", f"{low:z.1f} to {high:z.1f}")


def _gain(row: Mapping) -> Cell:
    gain, low, high = (100 * row[name] for name in ("gain", "gain_low", "gain_high"))
    return Cell(f"{gain:+z.1f}", f"{low:z.1f} to {high:z.1f}")


def _shown(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return "-" if isnan(value) else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
