"""The files that hold a run's results, and the page that shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isnan
from types import MappingProxyType
from typing import cast

import pandas as pd

from evaluation.folder import RunFolder
from evaluation.report.efficiency import efficiency
from evaluation.report.health import PERPLEXITY, RELATIVE_NORM, UPDATE_NORM
from evaluation.report.lines import DISTURBED, UNEDITED, UNKNOWN
from evaluation.report.rows import (
    ALREADY_TRUE,
    EVENTS,
    NOT_MADE,
    OVERRULED,
    REPEATED,
    SCORE,
    SCORER_NAMES,
    event_rows,
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
        UNKNOWN: "Share of the probes that presume what the unedited model does not know: not "
        "judged.",
        PERPLEXITY: "Perplexity per token of text about something else.",
        UPDATE_NORM: "Frobenius norm of the change of weights.",
        RELATIVE_NORM: "Frobenius norm of the change over that of the changed layers' weights.",
    }
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
    costs = efficiency(chunks)
    write_whole(folder.path / "results.json", json.dumps(results, indent=1) + "\n")
    write_whole(folder.path / "results.csv", pd.DataFrame(results).to_csv(index=False))
    write_whole(folder.path / "efficiency.json", json.dumps(costs, indent=1) + "\n")
    write_whole(folder.path / "results.md", markdown(results, costs))
    return results


def markdown(results: Sequence[Mapping], costs: Sequence[Mapping] = ()) -> str:
    """The rows as one table per scorer, editors by probe kinds, and a table of the costs.

    Where a run has several n or phases, each editor has a line for each.
    """
    if not results:
        return "No answers yet.\n"
    frame = pd.DataFrame(results)
    sections = [f"# {caption(results)}", "Means in percent with 95 % intervals over records."]
    sections += taken(results)
    lines = ["editor", *(name for name in ("n", "phase") if len(frame[name].unique()) > 1)]
    for name, part in frame.groupby("scorer", sort=False):
        cells = part.assign(cell=part.apply(_cell, axis=1)).set_index([*lines, "probe"])["cell"]
        table = cast(pd.DataFrame, cells.unstack("probe"))
        order = part.drop_duplicates(lines).set_index(lines).index
        table = table.reindex(index=order, columns=part["probe"].unique()).fillna("-")
        text = table.reset_index().to_markdown(index=False, disable_numparse=True)
        sections += [f"## {name}", MEANINGS.get(str(name), "A measure of the edit's size."), text]
    if costs:
        table = pd.DataFrame(costs).set_index("editor").astype(object).map(_shown)
        text = table.to_markdown(disable_numparse=True)
        sections += ["## efficiency", "Seconds, and GiB at the peak of editing.", text]
    return "\n\n".join(sections) + "\n"


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


def _cell(row: Mapping) -> str:
    if is_measure(row["scorer"]):
        return f"{row['mean']:.4g} ({row['low']:.4g} to {row['high']:.4g})"
    if row["scorer"] in EVENTS:
        count = f"{row['count']:,} of {row['records']:,}"
        why = "" if row["scorer"] in (DISTURBED, UNKNOWN) else f": {row['reason']}"
        return f"{count}{why}".replace("|", "\\|")
    mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
    return f"{mean:z.1f} ({low:z.1f} to {high:z.1f})"


def _shown(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return "-" if isnan(value) else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
