"""From answers and costs to rows of results."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from datamodules.records import DEPTH, KINDS, PORTABILITY
from evaluation.report.cells import Cells, Lines, Values, merged, record_means
from evaluation.report.intervals import (
    function_interval,
    harmonic_mean,
    mean_interval,
    share_difference,
    share_interval,
)
from evaluation.report.lines import DISTURBED, IMMEDIATE, UNEDITED, UNKNOWN
from scoring.scorers import SCORER_OF_DEPTH, SCORERS

log = logging.getLogger(__name__)

RUN = (
    *("editor", "model", "data", "split", "protocol", "n", "step", "phase"),
    *("end", "render", "asked", "free"),
)
"""Whose answers a row is about, and to what; `Protocol.run` says what each of them is."""
SCORER_NAMES = tuple(SCORERS)
JUDGE, EXACT = "judge", "normalized_exact_match"
ALL, SCORE = "all", "harmonic_score"
SCORED = ("reliability", "generalization", "neighborhood")
NOT_MADE, OVERRULED = "not_made", "overruled"
ALREADY_TRUE, REPEATED = "already_true", "subject_repeated"
NO_VERDICT, AGREEMENT = "no_verdict", "judge_agreement"
EVENTS = (
    *(DISTURBED, UNKNOWN, NOT_MADE, OVERRULED, ALREADY_TRUE, REPEATED),
    *(NO_VERDICT, AGREEMENT),
)
"""What happened beside answers: how many of how many and, but for the first two, which and why."""
DIGITS = 6
NAMED = 5
"""Records that a row names."""
Run = tuple


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


def shown_scorer(rows: Sequence[Mapping], scorer: str | None) -> str | None:
    """The scorer that was asked for; exact match where that is the judge, which said nothing."""
    if scorer != JUDGE or any(row["scorer"] == JUDGE for row in rows):
        return scorer
    log.warning("no verdict of a judge: scored by %s instead", EXACT)
    return EXACT


def scorer_of(kind: str, scorer: str) -> str:
    """The scorer that is shown of a probe kind: its own, if its group is ``depth``."""
    return SCORER_OF_DEPTH.get(kind, scorer)


def depth_rows(rows: Sequence[Mapping], scorer: str) -> list[Mapping]:
    """Rows of the group ``depth`` by the kind's own scorer, where that is another one."""
    of_depth = [row for row in rows if row["probe"] in DEPTH and row["scorer"] != scorer]
    return [row for row in of_depth if row["scorer"] == scorer_of(row["probe"], scorer)]


def gain_rows(rows: Sequence[Mapping]) -> list[Mapping]:
    """Those of editors about what the unedited model may know already, with what was gained."""
    kinds = (*PORTABILITY, *DEPTH)
    edited = (row for row in rows if row["editor"] != UNEDITED)
    return [row for row in edited if row["probe"] in kinds and "gain" in row]


def rows(lines: Iterable[Mapping]) -> list[dict]:
    """One row per run, probe kind and scorer.

    ``mean`` is over records, of each record's mean over its probes of the kind; ``low`` and
    ``high`` bound its 95 % interval over records, see `intervals`; ``count`` is the number of
    probes, ``records`` that of records. Probes that ask one question together count as one, with
    the best of their values (``any_of``) or the worst (``all_of``). ``floor`` is the mean of the
    unedited model, asked the same probes, ``gain`` what the editor has above it, with the bounds
    ``gain_low`` and ``gain_high``, paired over records. ``harmonic_score`` (probe ``all``) is the
    harmonic mean of ``probability_success`` on reliability, generalization and neighborhood,
    ROME's S.

    ``disturbed`` and ``unknown`` (probe ``all``) count probes (``count`` of ``records``, which are
    all locality probes, and all probes) that were asked but not judged, ``no_verdict`` texts of
    which a judge did not say whether they are right; ``already_true`` and
    ``subject_repeated`` count requests and name them as ``reason``, in the rows of ``unedited``.
    Where there are none there is no such row.

    In a sequence the records that were asked right after their edits count at each later n too, so
    that both phases of an n are about the same records.
    """
    runs: dict[Run, Lines] = defaultdict(Lines)
    for line in lines:
        runs[tuple(line.get(name, "") for name in RUN)].add(line)  # of earlier versions: no free
    results = []
    for run in (run for run in runs if runs[run].cells):
        parts = [runs[earlier] for earlier in _so_far(runs, run)]
        cells, floors = merged([p.cells for p in parts]), merged([p.floor_cells for p in parts])
        run_rows = [*_run_rows(cells, floors)]
        run_rows += _not_judged(sum((part.judged for part in parts), Counter()))
        run_rows += _not_said(sum((part.verdicts for part in parts), Counter()))
        run_rows += _doubtful([line for part in parts for line in part.requests])
        results += [{**dict(zip(RUN, run, strict=True)), **row} for row in run_rows]
    return results


def _not_judged(judged: Mapping[tuple[bool, str | None], int]) -> Iterator[dict]:
    for reason in (DISTURBED, UNKNOWN):
        count = judged[True, reason] + judged[False, reason]
        among = sum(n for (local, _), n in judged.items() if local or reason == UNKNOWN)
        if count:
            yield _count_row(reason, count, among)


def _not_said(verdicts: Counter[str]) -> Iterator[dict]:
    """A row of the texts that a judge was asked about and that it gave no verdict on, if any."""
    silent = Counter({reason: count for reason, count in verdicts.items() if reason})
    if silent:
        yield _count_row(NO_VERDICT, silent.total(), verdicts.total(), _listed(silent))


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
        chunks[tuple(cost["run"].get(name, "") for name in RUN)].append(cost)
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


def _reasons(failures: Sequence[Mapping]) -> str:
    """The reasons with how many requests they cost, the most frequent ones first."""
    counts: Counter[str] = Counter()
    for failure in failures:
        counts[failure["reason"]] += failure["requests"]
    return _listed(counts)


def _listed(counts: Counter[str], most: int = 3) -> str:
    parts = [f"{count:,} x {reason}" for reason, count in counts.most_common(most)]
    if len(counts) > most:
        parts.append(f"{len(counts) - most:,} other reasons")
    return "; ".join(parts)


def _run_rows(cells: Cells, floors: Cells) -> Iterator[dict]:
    """The rows of one editor in one run."""
    order = [(kind, name) for name in SCORER_NAMES for kind in KINDS if (kind, name) in cells]
    for key in order:
        yield _row(key, cells[key], floors.get(key))
    scored = [(kind, "probability_success") for kind in SCORED]
    if set(scored) <= set(order):
        yield _score_row([cells[key] for key in scored])


def _row(key: tuple[str, str], values: Values, floor: Values | None) -> dict[str, object]:
    means, count, share = record_means(values), _count(values), SCORERS[key[1]].share
    bounds = share_interval(means, count) if share else mean_interval(means)
    row = _numbers(key, float(means.mean()), bounds, (count, len(means)))
    if floor is None:
        return row
    unedited = record_means(floor, list(values))
    gain = float((means - unedited).mean())
    low, high = (
        share_difference(means, unedited, count) if share else mean_interval(means - unedited)
    )
    more = {"floor": unedited.mean(), "gain": gain, "gain_low": low, "gain_high": high}
    return row | {name: round(float(value), DIGITS) for name, value in more.items()}


def _score_row(columns: Sequence[Values]) -> dict[str, object]:
    """That of ROME's S."""
    records, counts = list(dict.fromkeys(chain(*columns))), [*map(_count, columns)]
    score = harmonic_mean([record_means(values).mean() for values in columns])
    bounds = function_interval(
        lambda shares: float(harmonic_mean(shares)),
        [record_means(values, records) for values in columns],
        counts,
    )
    return _numbers((ALL, SCORE), float(score), bounds, (sum(counts), max(map(len, columns))))


def _count(values: Values) -> int:
    return sum(map(len, values.values()))


def _numbers(
    key: tuple[str, str], mean: float, bounds: tuple[float, float], size: tuple[int, int]
) -> dict[str, object]:
    return {
        "probe": key[0],
        "scorer": key[1],
        "mean": round(mean, DIGITS),
        "low": round(bounds[0], DIGITS),
        "high": round(bounds[1], DIGITS),
        "count": size[0],
        "records": size[1],
    }
