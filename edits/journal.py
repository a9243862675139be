"""A weight edit that remembers how it came about, and can be cut back to any earlier point.

Subtracting what was added does not give back what was there before: floating-point numbers round.
The increments are therefore kept, and an earlier edit is their sum anew, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from edits import storage
from edits.weights import WeightEdit
from models.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class Journal(WeightEdit):
    """A weight edit made in steps; editors go on from it as from any other.

    It takes the memory of its sum and of all that it is the sum of.

    Args:
        increments: the edits that it is the sum of, in the order in which they were added.
        ends: how many increments there were at the end of each step.
    """

    increments: tuple[WeightEdit, ...] = ()
    ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, edit: WeightEdit) -> Journal:
        """A journal that begins with ``edit``, in one step."""
        return cls(edit.updates, edit.editor, edit.model, edit.past_keys, (_plain(edit),), (1,))

    @property
    def steps(self) -> int:
        """How many steps it has."""
        return len(self.ends)

    def plus(self, other: WeightEdit) -> Journal:
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
        kept = self.increments[: self.ends[steps - 1]]
        whole = reduce(WeightEdit.plus, kept)
        return Journal(
            whole.updates, whole.editor, whole.model, whole.past_keys, kept, self.ends[:steps]
        )

    def select(self, index: Tensor | Sequence[int] | int) -> Self:
        """The edits at ``index`` with their increments, as :meth:`WeightEdit.select`."""
        increments = tuple(increment.select(index) for increment in self.increments)
        return replace(super().select(index), increments=increments)

    def to(self, device: torch.device) -> Self:
        """The same edits there."""
        increments = tuple(increment.to(device) for increment in self.increments)
        return replace(super().to(device), increments=increments)

    def save(self, path: str | Path, base: str = "") -> None:
        """As :meth:`WeightEdit.save`; the file can be loaded as a plain weight edit too."""
        journal = [(edit.editor, edit.updates, edit.past_keys) for edit in self.increments]
        storage.write(
            Path(path),
            *(self.updates, self.editor, self.model, base, self.past_keys),
            *(journal, self.ends),
        )

    @classmethod
    def load(cls, path: str | Path, language_model: LanguageModel | None = None) -> Journal:
        """As :meth:`WeightEdit.load`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not an edit's file, not of this model, or holds no increments.
        """
        found, ends = storage.read_journal(Path(path))
        whole = WeightEdit.load(path, language_model)
        increments = [WeightEdit(updates, by, whole.model, keys) for by, updates, keys in found]
        if language_model is not None:
            increments = [increment.to(language_model.device) for increment in increments]
        return cls(
            *(whole.updates, whole.editor, whole.model, whole.past_keys),
            *(tuple(increments), tuple(ends)),
        )


def _plain(edit: WeightEdit) -> WeightEdit:
    """The edit without a journal of its own."""
    return WeightEdit(edit.updates, edit.editor, edit.model, edit.past_keys)
