"""From answers and costs to rows of results."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from datamodules.records import KINDS
from evaluation.report.intervals import harmonic_mean, interval, resampled_means
from evaluation.report.lines import DISTURBED, IMMEDIATE, UNEDITED, UNKNOWN
from scoring.scorers import SCORERS

RUN = (
    *("editor", "model", "data", "split", "protocol", "n", "step", "phase"),
    *("end", "render", "asked"),
)
"""Whose answers a row is about, and to what; `Protocol.run` says what each of them is."""
SCORER_NAMES = tuple(SCORERS)
ALL, SCORE = "all", "harmonic_score"
SCORED = ("reliability", "generalization", "neighborhood")
NOT_MADE, OVERRULED = "not_made", "overruled"
ALREADY_TRUE, REPEATED = "already_true", "subject_repeated"
EVENTS = (DISTURBED, UNKNOWN, NOT_MADE, OVERRULED, ALREADY_TRUE, REPEATED)
"""What happened beside answers: how many of how many and, but for the first two, which and why."""
DIGITS = 6
NAMED = 5
"""Records that a row names."""
Run = tuple
Values = dict[str, list[float]]
"""Values of the probes of each record."""
Cells = Mapping[tuple[str, str], Values]
"""Those of each probe kind and scorer."""


def is_measure(name: str) -> bool:
    """Whether rows of this name hold no shares but a measure of the model or the edit."""
    return name not in (*SCORER_NAMES, SCORE, *EVENTS)


def common_scorer(rows: Iterable[Mapping]) -> str:
    """The first scorer that has values of every editor; the first of all if there is none."""
    names: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["scorer"] in SCORERS:
            names[row["editor"]].add(row["scorer"])
    shared = set(SCORERS).intersection(*names.values())
    return next((name for name in SCORERS if name in shared), SCORER_NAMES[0])


def rows(lines: Iterable[Mapping]) -> list[dict]:
    """One row per run, probe kind and scorer.

    ``mean`` is over records, of each record's mean over its probes of the kind; ``low`` and
    ``high`` bound its 95 % bootstrap interval over records; ``count`` is the number of probes,
    ``records`` that of records. Probes that ask one question together (``any_of``) count as one,
    with the best of their values. ``harmonic_score`` (probe ``all``) is the harmonic mean of
    ``probability_success`` on reliability, generalization and neighborhood, ROME's S.

    ``disturbed`` and ``unknown`` (probe ``all``) count probes (``count`` of ``records``, which are
    all locality probes, and all probes) that were asked but not judged; ``already_true`` and
    ``subject_repeated`` count requests and name them as ``reason``, in the rows of ``unedited``.
    Where there are none there is no such row.

    In a sequence the records that were asked right after their edits count at each later n too, so
    that both phases of an n are about the same records.
    """
    runs: dict[Run, _Lines] = defaultdict(_Lines)
    for line in lines:
        runs[tuple(line[name] for name in RUN)].add(line)
    results = []
    for run in (run for run in runs if runs[run].cells):
        parts = [runs[earlier] for earlier in _so_far(runs, run)]
        run_rows = [*_run_rows(_merged([part.cells for part in parts]))]
        run_rows += _not_judged(sum((part.judged for part in parts), Counter()))
        run_rows += _doubtful([line for part in parts for line in part.requests])
        results += [{**dict(zip(RUN, run, strict=True)), **row} for row in run_rows]
    return results


class _Lines:
    """What the lines of one run amount to."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], Values] = defaultdict(lambda: defaultdict(list))
        self.judged: Counter[tuple[bool, str | None]] = Counter()  # by whether local, and reason
        self.requests: list[Mapping] = []  # the unedited model's answers to them
        self._places: dict[tuple, int] = {}  # of the questions that several probes ask together

    def add(self, line: Mapping) -> None:
        """Take a line in."""
        if line["editor"] == UNEDITED and line["probe"] == "reliability":
            self.requests.append(line)
        self.judged[KINDS[line["probe"]].local, line["judged"]] += 1
        for name, scorer in SCORERS.items():
            if line[name] is None:
                continue
            values = self.cells[line["probe"], name][line["record"]]
            question = (line["record"], line["probe"], name, line["any_of"])
            if question in self._places:
                at = self._places[question]
                values[at] = scorer.best([values[at], line[name]])
                continue
            if line["any_of"]:
                self._places[question] = len(values)
            values.append(line[name])


def _not_judged(judged: Mapping[tuple[bool, str | None], int]) -> Iterator[dict]:
    for reason in (DISTURBED, UNKNOWN):
        count = judged[True, reason] + judged[False, reason]
        among = sum(n for (local, _), n in judged.items() if local or reason == UNKNOWN)
        if count:
            yield _count_row(reason, count, among)


def _doubtful(requests: Sequence[Mapping]) -> Iterator[dict]:
    """Rows of requests whose edit may not be what was meant, of the lines that ask for them."""
    true = [line["record"] for line in requests if line["exact_match"] == 1]
    repeated = [line["record"] for line in requests if line["mentions"] > 1]
    for name, records in ((ALREADY_TRUE, true), (REPEATED, repeated)):
        if records:
            ids = list(dict.fromkeys(records))  # a record may have several such requests
            more = [f"{len(ids) - NAMED:,} more"] if len(ids) > NAMED else []
            yield _count_row(name, len(records), len(requests), ", ".join(ids[:NAMED] + more))


def _count_row(name: str, count: int, among: int, reason: str | None = None) -> dict:
    share = dict.fromkeys(("mean", "low", "high"), round(count / among, DIGITS))
    size = {"count": count, "records": among}
    return {"probe": ALL, "scorer": name, **share, **size} | ({"reason": reason} if reason else {})


def event_rows(costs: Sequence[Mapping]) -> list[dict]:
    """Rows of what happened to an editor beside answers; of all probe kinds, hence probe ``all``.

    ``not_made`` and ``overruled`` count requests (``count`` of ``records``) and say of which, and
    why, as ``reason``; where nothing happened there is no row. Then what `health.of` measured.
    """
    chunks: dict[Run, list[Mapping]] = defaultdict(list)
    for cost in costs:
        chunks[tuple(cost["run"][name] for name in RUN)].append(cost)
    results = []
    for run, chunk_costs in chunks.items():
        costs_so_far = [cost for earlier in _so_far(chunks, run) for cost in chunks[earlier]]
        identity = dict(zip(RUN, run, strict=True))
        events = [*_events(costs_so_far), *_measures(chunk_costs[-1]["health"])]
        results += [{**identity, **row} for row in events]
    return results


def _events(costs: Sequence[Mapping]) -> Iterator[dict]:
    requests = sum(cost["requests"] + cost["overruled_requests"] for cost in costs)
    failures = [failure for cost in costs for failure in cost["failures"]]
    not_made = sum(failure["requests"] for failure in failures)
    if not_made:
        yield _count_row(NOT_MADE, not_made, requests, _reasons(failures))
    overruled = sum(cost["overruled_requests"] for cost in costs)
    if overruled:
        pairs = [f"{a} by {b}" for cost in costs for a, b in cost["overruled"]]
        yield _count_row(OVERRULED, overruled, requests, "; ".join(pairs))


def _measures(health: Mapping[str, Mapping]) -> Iterator[dict]:
    for name, value in health.items():
        bounds = {key: round(value[key], DIGITS) for key in ("mean", "low", "high")}
        size = dict.fromkeys(("count", "records"), value["count"])
        yield {"probe": ALL, "scorer": name, **bounds, **size}


def _so_far(runs: Iterable[Run], run: Run) -> list[Run]:
    """The runs whose records a row of ``run`` is about: itself, and what a sequence did before."""
    values = dict(zip(RUN, run, strict=True))
    if values["protocol"] != "sequential" or values["phase"] != IMMEDIATE:
        return [run]
    at = RUN.index("n")
    alike = [other for other in runs if (*other[:at], run[at], *other[at + 1 :]) == run]
    return sorted((other for other in alike if other[at] <= run[at]), key=lambda other: other[at])


def _merged(parts: Sequence[Cells]) -> Cells:
    """Cells of different records in one; nothing is copied of a single one."""
    if len(parts) == 1:
        return parts[0]
    merged: dict[tuple, dict] = defaultdict(dict)
    for part in parts:
        for key, records in part.items():
            merged[key] |= records
    return merged


def _reasons(failures: Sequence[Mapping], most: int = 3) -> str:
    """The reasons with how many requests they cost, the most frequent ones first."""
    counts: Counter[str] = Counter()
    for failure in failures:
        counts[failure["reason"]] += failure["requests"]
    parts = [f"{count:,} x {reason}" for reason, count in counts.most_common(most)]
    if len(counts) > most:
        parts.append(f"{len(counts) - most:,} other reasons")
    return "; ".join(parts)


def _run_rows(cells: Cells) -> Iterator[dict]:
    """The rows of one editor in one run."""
    order = [(kind, name) for name in SCORER_NAMES for kind in KINDS if (kind, name) in cells]
    means = {key: np.array([np.mean(values) for values in cells[key].values()]) for key in order}
    draws = _draws({key: cells[key].keys() for key in order}, means)
    counts = {key: sum(map(len, cells[key].values())) for key in order}
    for key in order:
        yield _row(key, float(means[key].mean()), draws[key], (counts[key], len(means[key])))
    scored = [(kind, "probability_success") for kind in SCORED]
    if set(scored) <= set(order):
        score = harmonic_mean([means[key].mean() for key in scored])
        size = (sum(counts[key] for key in scored), max(len(means[key]) for key in scored))
        yield _row((ALL, SCORE), float(score), harmonic_mean([draws[key] for key in scored]), size)


def _draws(records: Mapping, means: Mapping) -> dict[tuple[str, str], np.ndarray]:
    """Resampled means of each column; a draw takes whole records, with all that they have."""
    place = {record: at for at, record in enumerate(dict.fromkeys(chain(*records.values())))}
    values = np.full((len(place), len(means)), np.nan)
    for column, (key, column_means) in enumerate(means.items()):
        values[[place[record] for record in records[key]], column] = column_means
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
