"""From answers to result rows, and the files that hold them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from math import isnan
from types import MappingProxyType

import numpy as np
import pandas as pd

from datamodules.records import KINDS
from evaluation.efficiency import efficiency
from evaluation.folder import RunFolder
from evaluation.health import PERPLEXITY, RELATIVE_NORM, UPDATE_NORM
from evaluation.intervals import harmonic_mean, interval, resampled_means
from evaluation.lines import IMMEDIATE, UNEDITED
from evaluation.scorers import SCORERS
from files import write_whole

RUN = ("editor", "model", "data", "split", "protocol", "n", "step", "phase")
SCORER_NAMES = tuple(scorer.__name__ for scorer in SCORERS)
ALL, SCORE = "all", "harmonic_score"
SCORED = ("reliability", "generalization", "neighborhood")
NOT_MADE, OVERRULED, DISTURBED = "not_made", "overruled", "disturbed"
ALREADY_TRUE, REPEATED = "already_true", "subject_repeated"
EVENTS = (DISTURBED, NOT_MADE, OVERRULED, ALREADY_TRUE, REPEATED)
"""What happened beside answers: how many of how many and, but for the first, which and why."""
MEANINGS = MappingProxyType(
    {scorer.__name__: scorer.__doc__.split("\n", 1)[0] for scorer in SCORERS}
    | {
        SCORE: "Harmonic mean of probability_success on reliability, generalization, neighborhood.",
        NOT_MADE: "Share of the requests of which the editor made no edit, and why.",
        OVERRULED: "Share of the requests that a later one of the same step contradicts.",
        ALREADY_TRUE: "Share of the requests whose target the unedited model says.",
        REPEATED: "Share of the requests that mention their subject twice: the last one is edited.",
        DISTURBED: "Share of the locality probes whose answer another request changes: not judged.",
        PERPLEXITY: "Perplexity per token of text about something else.",
        UPDATE_NORM: "Frobenius norm of the change of weights.",
        RELATIVE_NORM: "Frobenius norm of the change over that of the changed layers' weights.",
    }
)
HEALTH = (PERPLEXITY, UPDATE_NORM, RELATIVE_NORM)
"""What is no share: these rows' means are shown as they are."""
DIGITS = 6
NAMED = 5
"""Records that a row names."""
Run = tuple
Cells = Mapping[tuple[str, str], Mapping[str, list[float]]]


def write(folder: RunFolder) -> list[dict]:
    """Write what the folder's answers amount to, each file whole or not at all; return the rows.

    ``results.json`` and ``results.csv`` depend on the answers only; seconds and memory stand in
    ``efficiency.json``; ``results.md`` shows both.
    """
    chunks = {editor: folder.costs(editor) for editor in folder.editors}
    found = []
    for editor, costs in chunks.items():
        found += [*rows(folder.lines(editor)), *event_rows(costs)]
    costs = efficiency(chunks)
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

    ``disturbed`` (probe ``all``) counts locality probes (``count`` of ``records``) that were asked
    but not judged; ``already_true`` and ``subject_repeated`` count requests and name them as
    ``reason``, in the rows of ``unedited``. Where there are none there is no such row.

    In a sequence the records that were asked right after their edits count at each later n too, so
    that both phases of an n are about the same records.
    """
    values: dict[Run, dict[tuple, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    judged: dict[Run, Counter[bool]] = defaultdict(Counter)
    asked: dict[Run, list[Mapping]] = defaultdict(list)
    for line in lines:
        key = tuple(line[name] for name in RUN)
        if line["editor"] == UNEDITED and line["probe"] == "reliability":
            asked[key].append(line)
        if KINDS[line["probe"]].local:
            judged[key][not line["disturbed"]] += 1
        for name in SCORER_NAMES:
            if line[name] is not None:
                values[key][line["probe"], name][line["record"]].append(line[name])
    found = []
    for run in values:
        met = _so_far(values, run)
        own = [*_run_rows(_merged(values[earlier] for earlier in met))]
        own += _disturbed(sum((judged[earlier] for earlier in met), Counter()))
        own += _doubtful([line for earlier in met for line in asked[earlier]])
        found += [{**dict(zip(RUN, run, strict=True)), **row} for row in own]
    return found


def _disturbed(judged: Mapping[bool, int]) -> list[dict]:
    if not judged[False]:
        return []
    return [_count_row(DISTURBED, judged[False], judged[False] + judged[True])]


def _doubtful(asked: Sequence[Mapping]) -> Iterator[dict]:
    """Rows of requests whose edit may not be what was meant, of the lines that ask for them."""
    true = [line["record"] for line in asked if line["exact_match"] == 1]
    repeated = [line["record"] for line in asked if line["mentions"] > 1]
    for name, records in ((ALREADY_TRUE, true), (REPEATED, repeated)):
        if records:
            ids = list(dict.fromkeys(records))  # a record may have several such requests
            more = [f"{len(ids) - NAMED:,} more"] if len(ids) > NAMED else []
            yield _count_row(name, len(records), len(asked), ", ".join(ids[:NAMED] + more))


def _count_row(name: str, count: int, among: int, reason: str | None = None) -> dict:
    share = dict.fromkeys(("mean", "low", "high"), round(count / among, DIGITS))
    size = {"count": count, "records": among}
    return {"probe": ALL, "scorer": name, **share, **size} | ({"reason": reason} if reason else {})


def event_rows(costs: Sequence[Mapping]) -> list[dict]:
    """Rows of what happened to an editor beside answers; of all probe kinds, hence probe ``all``.

    ``not_made`` and ``overruled`` count requests (``count`` of ``records``) and say of which, and
    why, as ``reason``; where nothing happened there is no row. Then what `health.measured` found.
    """
    chunks: dict[Run, list[Mapping]] = defaultdict(list)
    for cost in costs:
        chunks[tuple(cost["run"][name] for name in RUN)].append(cost)
    found = []
    for run, own in chunks.items():
        met = [cost for earlier in _so_far(chunks, run) for cost in chunks[earlier]]
        asked = sum(cost["requests"] + len(cost["overruled"]) for cost in met)
        failures = [failure for cost in met for failure in cost["failures"]]
        overruled = [pair for cost in met for pair in cost["overruled"]]
        events = [
            (NOT_MADE, sum(len(f["records"]) for f in failures), _reasons(failures)),
            (OVERRULED, len(overruled), "; ".join(f"{a} by {b}" for a, b in overruled)),
        ]
        named = dict(zip(RUN, run, strict=True))
        for name, count, reason in events:
            if count and asked:
                found.append({**named, **_count_row(name, count, asked, reason)})
        for name, value in own[-1]["health"].items():
            bounds = {key: round(value[key], DIGITS) for key in ("mean", "low", "high")}
            size = dict.fromkeys(("count", "records"), value["count"])
            found.append({**named, "probe": ALL, "scorer": name, **bounds, **size})
    return found


def _so_far(runs: Iterable[Run], run: Run) -> list[Run]:
    """The runs whose records a row of ``run`` is about: itself, and what a sequence did before."""
    own = dict(zip(RUN, run, strict=True))
    if own["protocol"] != "sequential" or own["phase"] != IMMEDIATE:
        return [run]
    at = RUN.index("n")
    alike = [one for one in runs if (*one[:at], run[at], *one[at + 1 :]) == run]
    return sorted((one for one in alike if one[at] <= run[at]), key=lambda one: one[at])


def _merged(parts: Iterable[Cells]) -> Cells:
    """Cells of different records in one; nothing is copied of a single one."""
    first, *others = parts
    if not others:
        return first
    merged: dict[tuple, dict] = defaultdict(dict)
    for part in (first, *others):
        for key, records in part.items():
            merged[key] |= records
    return merged


def _reasons(failures: Sequence[Mapping], most: int = 3) -> str:
    """The reasons with how many requests they cost, the most frequent ones first."""
    counts: Counter[str] = Counter()
    for failure in failures:
        counts[failure["reason"]] += len(failure["records"])
    shown = [f"{count:,} x {reason}" for reason, count in counts.most_common(most)]
    if len(counts) > most:
        shown.append(f"{len(counts) - most:,} other reasons")
    return "; ".join(shown)


def _run_rows(cells: Mapping[tuple[str, str], Mapping[str, list[float]]]) -> Iterator[dict]:
    """The rows of one editor in one run; ``cells`` hold each record's values by kind and scorer."""
    order = [(kind, name) for name in SCORER_NAMES for kind in KINDS if (kind, name) in cells]
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
    """The rows as one table per scorer, editors by probe kinds, and a table of the costs.

    Where a run has several n or phases, each editor has a line for each.
    """
    if not found:
        return "No answers yet.\n"
    frame = pd.DataFrame(found)
    sections = [f"# {caption(found)}", "Means in percent with 95 % intervals over records."]
    lines = ["editor", *(name for name in ("n", "phase") if frame[name].nunique() > 1)]
    for name, part in frame.groupby("scorer", sort=False):
        cells = part.assign(cell=part.apply(_cell, axis=1)).set_index([*lines, "probe"])["cell"]
        table = cells.unstack("probe")
        order = part.drop_duplicates(lines).set_index(lines).index
        table = table.reindex(index=order, columns=part["probe"].unique()).fillna("-")
        text = table.reset_index().to_markdown(index=False, disable_numparse=True)
        sections += [f"## {name}", MEANINGS[name], text]
    if costs:
        table = pd.DataFrame(costs).set_index("editor").astype(object).map(_shown)
        text = table.to_markdown(disable_numparse=True)
        sections += ["## efficiency", "Seconds, and GiB at the peak of editing.", text]
    return "\n\n".join(sections) + "\n"


def caption(found: Sequence[Mapping]) -> str:
    """Protocol, data, model and size of a run, in words."""
    first, sizes = found[0], {}
    for row in (row for row in found if row["scorer"] in SCORER_NAMES):
        sizes[row["editor"]] = max(row["records"], sizes.get(row["editor"], 0))
    bounds = sorted({min(sizes.values()), max(sizes.values())})
    size = " to ".join(f"{number:,}" for number in bounds)
    what = " ".join(filter(None, (first["data"], first["split"])))
    each = f", {first['step']:,} at a time" if first["protocol"] == "sequential" else ""
    return f"{first['protocol']} edits{each} · {what} · {first['model']} · {size} records"


def _cell(row: Mapping) -> str:
    if row["scorer"] in HEALTH:
        return f"{row['mean']:.4g} ({row['low']:.4g} to {row['high']:.4g})"
    if row["scorer"] in EVENTS:
        count = f"{row['count']:,} of {row['records']:,}"
        why = "" if row["scorer"] == DISTURBED else f": {row['reason']}"
        return f"{count}{why}".replace("|", "\\|")
    mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
    return f"{mean:z.1f} ({low:z.1f} to {high:z.1f})"


def _shown(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return "-" if isnan(value) else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
