"""Records asked of a model that has the edits of others too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from datamodules.records import LOCALITY, Probe, Record, Request


def undisturbed(
    records: Sequence[Record], requests: Sequence[Request] | None = None
) -> list[Record]:
    """The records without the locality probes whose right answer one of the requests changes.

    That is a probe in which a request's subject stands, not its own record's, and whose target is
    the answer that the request is to change (or any, where that is not known): to keep it would be
    the mistake.

    Args:
        records: whose probes are asked.
        requests: all that the model has been edited for; None: those of the records.
    """
    changed = defaultdict(list)
    for request in [r.request for r in records] if requests is None else requests:
        changed[request.target_true].append(request)
    return [_without_disturbed(record, changed) for record in records]


def _without_disturbed(record: Record, changed: Mapping[str | None, list[Request]]) -> Record:
    def kept(probe: Probe) -> bool:
        return probe.kind not in LOCALITY or not any(
            request.subject in probe.prompt and request is not record.request
            for request in (*changed.get(probe.target, ()), *changed.get(None, ()))
        )

    probes = tuple(probe for probe in record.probes if kept(probe))
    return record if len(probes) == len(record.probes) else replace(record, probes=probes)
