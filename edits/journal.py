"""A weight edit that remembers how it came about, and can be cut back to any earlier point.

Subtracting what was added does not give back what was there before: floating-point numbers round.
The increments are therefore kept, and an earlier edit is their sum anew, in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, Self

import torch
from torch import Tensor

from edits.edit import Edit, State
from edits.storage import Source
from edits.weights import WeightEdit, WeightHeader


class Increment(WeightHeader):
    """What a file says of an increment."""

    editor: str


class JournalHeader(WeightHeader):
    """What a file says of a journal beside its sum."""

    increments: list[Increment]
    ends: list[int]


@dataclass(frozen=True, eq=False, repr=False)
class Journal(WeightEdit):
    """A weight edit made in steps; editors go on from it as from any other.

    It takes the memory of its sum and of all that it is the sum of.

    Args:
        increments: the edits that it is the sum of, in the order in which they were added.
        ends: how many increments there were at the end of each step.
    """

    kind = "journal"
    header = JournalHeader
    increments: tuple[WeightEdit, ...] = ()
    ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, edit: WeightEdit) -> Journal:
        """A journal that begins with ``edit``, in one step."""
        return cls(**_fields(edit), increments=(_plain(edit),), ends=(1,))

    @property
    def steps(self) -> int:
        """How many steps it has."""
        return len(self.ends)

    def plus(self, other: WeightEdit) -> Self:
        """Both at once, as :meth:`WeightEdit.plus`; ``other`` is one more increment."""
        return replace(super().plus(other), increments=(*self.increments, _plain(other)))

    def ended(self) -> Journal:
        """The same edit, with a step that ends here."""
        return replace(self, ends=(*self.ends, len(self.increments)))

    def cut(self, steps: int) -> Journal:
        """The edit as it was at the end of the first ``steps`` steps, to the bit.

        Raises:
            ValueError: there are not so many steps, or none is asked for.
        """
        if not 1 <= steps <= self.steps:
            raise ValueError(
                f"cannot cut back to step {steps}: the edit has steps 1 to {self.steps}"
            )
        increments = self.increments[: self.ends[steps - 1]]
        whole = reduce(WeightEdit.plus, increments)
        return Journal(**_fields(whole), increments=increments, ends=self.ends[:steps])

    def select(self, index: Tensor | Sequence[int] | int) -> Self:
        """The edits at ``index`` with their increments, as :meth:`WeightEdit.select`."""
        increments = tuple(increment.select(index) for increment in self.increments)
        return replace(super().select(index), increments=increments)

    def to(self, device: torch.device) -> Self:
        """The same edits there."""
        increments = tuple(increment.to(device) for increment in self.increments)
        return replace(super().to(device), increments=increments)

    def state(self) -> State:
        """The sum's, and each increment's with its number in front."""
        header, tensors = super().state()
        increments = []
        for number, increment in enumerate(self.increments):
            settings, parts = increment.state()
            increments.append({"editor": increment.editor, **settings})
            tensors |= {f"{number}/{name}": tensor for name, tensor in parts.items()}
        return {**header, "increments": increments, "ends": list(self.ends)}, tensors

    @classmethod
    def of_state(
        cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Source
    ) -> Self:
        """The journal that `state` was asked of; errors as of `WeightEdit.of_state`."""
        whole = WeightEdit.of_state(header, tensors, source)
        increments = []
        for number, settings in enumerate(header["increments"]):
            start = f"{number}/"
            parts = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
            owner = replace(source.owner, editor=settings["editor"])
            increments.append(WeightEdit.of_state(settings, parts, replace(source, owner=owner)))
        ends = tuple(header["ends"])
        if not increments or list(ends) != sorted({*ends} & {*range(1, len(increments) + 1)}):
            raise ValueError(f"steps end at {list(ends)} of {len(increments)} increments")
        journal = cls(**_fields(whole), increments=tuple(increments), ends=ends)
        if not _same(journal, reduce(WeightEdit.plus, increments)):
            raise ValueError("its increments do not add up to it")
        return journal


def journaled(edit: Edit, before: Edit | None) -> Edit:
    """The edit with a step that ends here, if it is one of those that remember steps.

    Args:
        edit: as it is after the step; it holds ``before``.
        before: as it was before the step, journaled too; None: this is the first step.

    Raises:
        ValueError: the edit has lost the steps of ``before``.
    """
    if not isinstance(edit, WeightEdit):
        return edit
    if before is None:
        return Journal.of(edit)
    if not isinstance(edit, Journal):
        raise ValueError("the edit does not hold the steps made before: it was not added to them")
    return edit.ended()


def _same(one: WeightEdit, other: WeightEdit) -> bool:
    """Whether they change the same layers alike, to the bit."""
    ours, theirs = WeightEdit.state(one)[1], WeightEdit.state(other)[1]
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def _plain(edit: WeightEdit) -> WeightEdit:
    """The edit without a journal of its own."""
    return WeightEdit(**_fields(edit))


def _fields(edit: WeightEdit) -> dict[str, Any]:
    """What a weight edit is, without its steps."""
    return {field.name: getattr(edit, field.name) for field in fields(WeightEdit)}
