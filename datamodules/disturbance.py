"""Probes whose right answer another request changes, where a model has the edits of many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from datamodules.records import LOCALITY, Probe, Record, Request, requests_of

Changes = Mapping[str | None, Sequence[Request]]
"""Requests by the answer that they change; None: where that is not known."""


def changes(requests: Iterable[Request]) -> Changes:
    """What the requests change, for `disturbed`."""
    by_answer = defaultdict(list)
    for request in requests:
        by_answer[request.target_true].append(request)
    return by_answer


def disturbed(probe: Probe, record: Record, changed: Changes) -> bool:
    """Whether a locality probe's right answer is one that another record's request changes.

    That is a probe in which the request's subject stands, and whose target is the answer that the
    request is to change (or any, where that is not known): to keep it would be the mistake. What
    the record's own requests change, its author knew of.
    """
    return probe.kind in LOCALITY and any(
        request.subject in probe.prompt and all(request is not known for known in record.requests)
        for request in (*changed.get(probe.target, ()), *changed.get(None, ()))
    )


def undisturbed(records: Sequence[Record]) -> list[Record]:
    """The records without the probes that a request of another one of them disturbs."""
    changed = changes(requests_of(records))
    return [_without_disturbed(record, changed) for record in records]


def _without_disturbed(record: Record, changed: Changes) -> Record:
    probes = tuple(probe for probe in record.probes if not disturbed(probe, record, changed))
    return record if len(probes) == len(record.probes) else replace(record, probes=probes)
