"""The steps of a sequence, and what one editor has made of them so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from datamodules.records import Record
from edits.edit import Edit
from evaluation.costs import Cost, Failure
from evaluation.protocols.conflicts import Overruled, settle

Step = tuple[list[Record], list[Overruled]]
"""Records that are edited together, and those left out for one of them."""


@dataclass
class Chain:
    """What one editor has made so far."""

    name: str
    edit: Edit | None = None
    records: list[Record] = field(default_factory=list)


@dataclass
class Progress:
    """What happened from one checkpoint to the next."""

    lines: list[dict] = field(default_factory=list)
    editing: list[Cost] = field(default_factory=list)
    asking: list[Cost] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    overruled: list[Overruled] = field(default_factory=list)


def checkpoints_of(checkpoints: Sequence[int] | None, length: int, step: int) -> list[int]:
    """The numbers of edits after which all are asked; by default after 1, 10, 100, ... steps.

    Raises:
        ValueError: one is beyond the end, or not at the end of a step.
    """
    if checkpoints is None:
        checkpoints, at = [], step
        while at < length:
            checkpoints.append(at)
            at *= 10
    whole = not isinstance(checkpoints, str | int) and all(type(n) is int for n in checkpoints)
    if not whole or any(not 1 <= n <= length or (n % step and n < length) for n in checkpoints):
        raise ValueError(
            f"checkpoints={checkpoints}: expected numbers of edits from {step:,} to {length:,}, "
            f"each at the end of a step of {step:,}"
        )
    return sorted({*checkpoints, length})


def intervals_of(
    records: Sequence[Record], step: int, checkpoints: Sequence[int], conflicts: str
) -> list[list[Step]]:
    """The steps up to each checkpoint from the one before; see ``conflicts.settle``."""
    starts = [0, *checkpoints[:-1]]
    return [
        [settle(records[at:end][:step], conflicts) for at in range(start, end, step)]
        for start, end in zip(starts, checkpoints, strict=True)
    ]
