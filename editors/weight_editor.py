"""Shared by editors of weights: the earlier edit is in place while the next one is made."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import final

from editors.editor import Editor, Group
from edits.weights import WeightEdit
from watching import watched


class WeightEditor(Editor[WeightEdit]):
    """An editor whose edits are changes of weights, made from the model as it now is."""

    @abstractmethod
    def write(self, groups: Sequence[Group], after: WeightEdit | None) -> WeightEdit:
        """N edits for as many groups of one size, without ``after``, whose hooks are in place."""

    def turns(self, groups: Sequence[Group]) -> Iterable[Sequence[Group]]:
        """Rounds that are written one after another, on top of each other; by default a single one.

        Each holds one group for each of ``groups``, which are of one size.
        """
        return (groups,)

    @final
    def compute(self, groups: Sequence[Group], after: WeightEdit | None) -> WeightEdit:
        """See `Editor.compute`."""
        alike = len({len(group) for group in groups}) == 1
        turns = list(self.turns(groups)) if alike else []
        if len(groups) > 1 and len(turns) != 1:
            return WeightEdit.stack([self.compute([group], after) for group in groups])
        for turn in watched(turns, self.name, "requests", lambda turn: sum(map(len, turn))):
            with nullcontext() if after is None else after.hooks(self.language_model):
                edit = self.write(turn, after)
            after = edit if after is None else after.plus(edit)
        assert after is not None  # a turn at least
        return after
