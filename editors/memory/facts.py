"""From requests to facts that are remembered: each once, and what is done where two contradict."""

from __future__ import annotations

from collections.abc import Callable

from datamodules.records import Request
from editors.editor import Group
from edits.layout import Fact
from edits.remembered import Remembered

CONFLICTS = ("last", "refuse")


def fact_of(request: Request) -> Fact:
    """What is remembered of a request."""
    return Fact(request.prompt, request.target, subject=request.subject)


def told(
    group: Group,
    identifier: Callable[[Fact], str],
    conflicts: str,
    after: Remembered | None,
) -> list[Request]:
    """The requests of a group without those that a later one overrules, in order.

    Args:
        group: of requests.
        identifier: what tells a fact from others.
        conflicts: whether the ``last`` of those that contradict each other counts, or to
            ``refuse`` them.
        after: the edit that they come on top of.

    Raises:
        ValueError: two give one fact two targets, or one and the edit do, and that is refused.
    """
    held = () if after is None else after.memories[0]
    targets = {identifier(fact): fact.target for fact in held}
    last: dict[str, int] = {}
    for at, request in enumerate(group):
        name, target = identifier(fact_of(request)), request.target
        if conflicts == "refuse" and targets.setdefault(name, target) != target:
            raise ValueError(
                f"conflicts=refuse: {request.prompt!r} is to be {targets[name]!r} and {target!r}; "
                "expected one target"
            )
        last[name] = at
    return [group[at] for at in sorted(last.values())]
