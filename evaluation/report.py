"""From answers to result rows, and the files that hold them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from math import isnan
from types import MappingProxyType

import numpy as np
import pandas as pd

from datamodules.records import PROBE_KINDS
from evaluation.efficiency import efficiency
from evaluation.folder import RunFolder, write_whole
from evaluation.intervals import harmonic_mean, interval, resampled_means
from evaluation.scorers import SCORERS

RUN = ("editor", "model", "data", "split", "protocol", "n")
SCORER_NAMES = tuple(scorer.__name__ for scorer in SCORERS)
ALL, SCORE = "all", "harmonic_score"
SCORED = ("reliability", "generalization", "neighborhood")
MEANINGS = MappingProxyType(
    {scorer.__name__: scorer.__doc__.split("\n", 1)[0] for scorer in SCORERS}
    | {SCORE: "Harmonic mean of probability_success on reliability, generalization, neighborhood."}
)
DIGITS = 6


def write(folder: RunFolder) -> list[dict]:
    """Write what the folder's answers amount to, each file whole or not at all; return the rows.

    ``results.json`` and ``results.csv`` depend on the answers only; seconds and memory stand in
    ``efficiency.json``; ``results.md`` shows both.
    """
    found = [row for editor in folder.editors for row in rows(folder.lines(editor))]
    costs = efficiency({editor: folder.costs(editor) for editor in folder.editors})
    write_whole(folder.path / "results.json", json.dumps(found, indent=1) + "\n")
    write_whole(folder.path / "results.csv", pd.DataFrame(found).to_csv(index=False))
    write_whole(folder.path / "efficiency.json", json.dumps(costs, indent=1) + "\n")
    write_whole(folder.path / "results.md", markdown(found, costs))
    return found


def rows(lines: Iterable[Mapping]) -> list[dict]:
    """One row per run, probe kind and scorer.

    ``mean`` is over records, of each record's mean over its probes of the kind; ``low`` and
    ``high`` bound its 95 % bootstrap interval over records; ``count`` is the number of probes,
    ``records`` that of records. ``harmonic_score`` (probe ``all``) is the harmonic mean of
    ``probability_success`` on reliability, generalization and neighborhood, ROME's S.
    """
    values: dict[tuple, dict[tuple, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for line in lines:
        run = values[tuple(line[name] for name in RUN)]
        for name in SCORER_NAMES:
            if line[name] is not None:
                run[line["probe"], name][line["record"]].append(line[name])
    return [
        {**dict(zip(RUN, run, strict=True)), **row}
        for run, cells in values.items()
        for row in _run_rows(cells)
    ]


def _run_rows(cells: Mapping[tuple[str, str], Mapping[str, list[float]]]) -> Iterator[dict]:
    """The rows of one editor in one run; ``cells`` hold each record's values by kind and scorer."""
    order = [(kind, name) for name in SCORER_NAMES for kind in PROBE_KINDS if (kind, name) in cells]
    means = {key: np.array([np.mean(values) for values in cells[key].values()]) for key in order}
    draws = _draws({key: cells[key].keys() for key in order}, means)
    counts = {key: sum(map(len, cells[key].values())) for key in order}
    for key in order:
        yield _row(key, means[key].mean(), draws[key], (counts[key], len(means[key])))
    scored = [(kind, "probability_success") for kind in SCORED]
    if set(scored) <= set(order):
        score = harmonic_mean([means[key].mean() for key in scored])
        size = (sum(counts[key] for key in scored), max(len(means[key]) for key in scored))
        yield _row((ALL, SCORE), score, harmonic_mean([draws[key] for key in scored]), size)


def _draws(records: Mapping, means: Mapping) -> dict[tuple[str, str], np.ndarray]:
    """Resampled means of each column; a draw takes whole records, with all that they have."""
    place = {record: at for at, record in enumerate(dict.fromkeys(chain(*records.values())))}
    values = np.full((len(place), len(means)), np.nan)
    for column, (key, own) in enumerate(means.items()):
        values[[place[record] for record in records[key]], column] = own
    return dict(zip(means, resampled_means(values).T, strict=True))


def _row(
    key: tuple[str, str], mean: float, draws: np.ndarray, size: tuple[int, int]
) -> dict[str, object]:
    low, high = interval(draws)
    return {
        "probe": key[0],
        "scorer": key[1],
        "mean": round(float(mean), DIGITS),
        "low": round(low, DIGITS),
        "high": round(high, DIGITS),
        "count": size[0],
        "records": size[1],
    }


def markdown(found: Sequence[Mapping], costs: Sequence[Mapping] = ()) -> str:
    """The rows as one table per scorer, editors by probe kinds, and a table of the costs."""
    if not found:
        return "No answers yet.\n"
    frame = pd.DataFrame(found)
    sections = [f"# {caption(found)}", "Means in percent with 95 % intervals over records."]
    for name, part in frame.groupby("scorer", sort=False):
        cells = part.assign(cell=part.apply(_cell, axis=1))
        table = cells.pivot(index="editor", columns="probe", values="cell")
        table = table.reindex(index=part["editor"].unique(), columns=part["probe"].unique())
        sections += [f"## {name}", MEANINGS[name], table.fillna("-").to_markdown()]
    if costs:
        table = pd.DataFrame(costs).set_index("editor").astype(object).map(_shown)
        text = table.to_markdown(disable_numparse=True)
        sections += ["## efficiency", "Seconds, and GiB at the peak of editing.", text]
    return "\n\n".join(sections) + "\n"


def caption(found: Sequence[Mapping]) -> str:
    """Protocol, data, model and size of a run, in words."""
    first, sizes = found[0], {}
    for row in found:
        sizes[row["editor"]] = max(row["records"], sizes.get(row["editor"], 0))
    bounds = sorted({min(sizes.values()), max(sizes.values())})
    size = " to ".join(f"{number:,}" for number in bounds)
    what = " ".join(filter(None, (first["data"], first["split"])))
    return f"{first['protocol']} edits · {what} · {first['model']} · {size} records"


def _cell(row: Mapping) -> str:
    mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
    return f"{mean:z.1f} ({low:z.1f} to {high:z.1f})"


def _shown(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return "-" if isnan(value) else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
