"""Editing again what an edit has not made true yet."""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.records import Request
from edits.weights import WeightEdit
from models.language_model import LanguageModel
from scoring.known import says


def failing(
    language_model: LanguageModel, edit: WeightEdit, requests: Sequence[Request]
) -> list[int]:
    """Indices of the requests whose target is not the edited model's answer in every token.

    ``edit`` is one edit for all the requests, or one for each; answers are teacher-forced.
    """
    rows = None if len(edit) == 1 else range(len(requests))
    right = says(edit.edited(language_model), requests, rows)
    return [number for number, true in enumerate(right) if not true]


def scattered(edit: WeightEdit, index: Sequence[int], count: int) -> WeightEdit:
    """``count`` edits, of which edit ``index[i]`` is edit i of ``edit`` and the others are none."""
    updates = {name: update.nothing(1) for name, update in edit.updates.items()}
    place = {at: number for number, at in enumerate(index)}
    both = WeightEdit.stack([edit, WeightEdit(updates, edit.editor, edit.model)])
    return both.select([place.get(number, len(edit)) for number in range(count)])
