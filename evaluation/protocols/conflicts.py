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


def settle(records: Sequence[Record], policy: str = "last") -> tuple[list[Record], list[Overruled]]:
    """The records that are edited together, and those that a later one of them overrules.

    A record that has several requests is made whole or not at all: it is overruled if one of them
    is contradicted by a later record that is made. Requests of one record are not compared.

    Args:
        records: in order.
        policy: ``last``: of requests that contradict each other the last one is made; ``refuse``:
            there may be none.

    Raises:
        ValueError: there are some, and the policy is to refuse them; or it is no policy.
    """
    policy = checked_policy(policy)
    remaining: list[Record] = []
    overruled: list[Overruled] = []
    last: dict[tuple[str, str], Record] = {}
    for record in reversed(records):
        candidates = (last.get(key(request)) for request in record.requests)
        final = next(
            (other for other in candidates if other and contradictions(record, other)), None
        )
        if final is not None:
            overruled.append((record, final))
            continue
        remaining.append(record)
        for request in record.requests:
            last.setdefault(key(request), record)
    overruled.reverse()
    if overruled and policy == "refuse":
        raise ValueError(f"conflicts=refuse: {describe(overruled)}")
    return remaining[::-1], overruled


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


def contradictions(record: Record, later: Record) -> list[tuple[Request, Request]]:
    """Pairs of their requests that give one fact two targets."""
    return [
        (one, other)
        for one in record.requests
        for other in later.requests
        if key(one) == key(other) and one.target != other.target
    ]


def describe(overruled: Sequence[Overruled], most: int = 3) -> str:
    """How many requests contradict a later one of their step, and which."""
    shown = "; ".join(_both(*pair) for pair in overruled[:most])
    more = f"; and {len(overruled) - most:,} more" if len(overruled) > most else ""
    count = f"{len(overruled):,} request{'s contradict' if len(overruled) > 1 else ' contradicts'}"
    return f"{count} a later one of the same step: {shown}{more}"


def _both(record: Record, later: Record) -> str:
    one, other = contradictions(record, later)[0]
    return f"{record.id!r} ({one.prompt} {one.target}) and {later.id!r} (... {other.target})"
