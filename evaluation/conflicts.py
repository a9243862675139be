"""Requests that contradict each other: one subject, one relation, two targets.

Methods that solve for several requests at once find a mean of such targets, which is neither; what
is to hold then is a decision, and it is made before an editor sees the requests.
"""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.records import Record, Request

POLICIES = ("last", "refuse")
Overruled = tuple[Record, Record]
"""A record whose request is not made, and the later one that overrules it."""


def settled(
    records: Sequence[Record], policy: str = "last"
) -> tuple[list[Record], list[Overruled]]:
    """The records that are edited together, and those that a later one of them overrules.

    Args:
        records: in order.
        policy: ``last``: of requests that contradict each other the last one is made; ``refuse``:
            there may be none.

    Raises:
        ValueError: there are some, and the policy is to refuse them; or it is no policy.
    """
    policy = checked_policy(policy)
    last = {key(record.request): record for record in records}
    overruled = [
        (record, final)
        for record in records
        if (final := last[key(record.request)]).request.target != record.request.target
    ]
    if overruled and policy == "refuse":
        raise ValueError(f"conflicts=refuse: {told(overruled)}")
    dropped = {id(record) for record, _ in overruled}
    return [record for record in records if id(record) not in dropped], overruled


def checked_policy(policy: str) -> str:
    """The policy.

    Raises:
        ValueError: it is none.
    """
    if policy not in POLICIES:
        raise ValueError(f"conflicts is {policy!r}, expected one of {', '.join(POLICIES)}")
    return policy


def key(request: Request) -> tuple[str, str]:
    """Subject and relation; the relation is the prompt without the subject. Case is ignored."""
    start, end = request.span
    around = f"{request.prompt[:start]}{{}}{request.prompt[end:]}"
    return request.subject.casefold(), " ".join(around.casefold().split())


def told(overruled: Sequence[Overruled], most: int = 3) -> str:
    """How many requests contradict a later one of their step, and which."""
    shown = "; ".join(
        f"{one.id!r} ({one.request.prompt} {one.request.target}) and {other.id!r} "
        f"(... {other.request.target})"
        for one, other in overruled[:most]
    )
    more = f"; and {len(overruled) - most:,} more" if len(overruled) > most else ""
    count = f"{len(overruled):,} request{'s contradict' if len(overruled) > 1 else ' contradicts'}"
    return f"{count} a later one of the same step: {shown}{more}"
