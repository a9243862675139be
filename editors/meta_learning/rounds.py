"""Editing again what an edit has not made true yet."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from datamodules.records import Request
from edits.weights import Dense, LowRank, WeightEdit
from models.language_model import LanguageModel


def failing(
    language_model: LanguageModel, edit: WeightEdit, requests: Sequence[Request]
) -> list[int]:
    """Indices of the requests whose target is not the edited model's answer in every token.

    ``edit`` is one edit for all the requests, or one for each; answers are teacher-forced.
    """
    rows = None if len(edit) == 1 else range(len(requests))
    scores = edit.edited(language_model).score(
        [request.prompt for request in requests], [request.target for request in requests], rows
    )
    pairs = zip(scores.predicted, scores.targets, strict=True)
    return [n for n, (said, target) in enumerate(pairs) if not torch.equal(said, target)]


def spread(edit: WeightEdit, index: Sequence[int], count: int) -> WeightEdit:
    """``count`` edits, of which edit ``index[i]`` is edit i of ``edit`` and the others are none."""
    nothing = WeightEdit(
        {name: _nothing(update) for name, update in edit.updates.items()},
        edit.editor,
        edit.model,
    )
    place = {at: number for number, at in enumerate(index)}
    return WeightEdit.stack([edit, nothing]).select([place.get(n, len(edit)) for n in range(count)])


def _nothing(like: LowRank | Dense) -> LowRank:
    tensor = like.left if isinstance(like, LowRank) else like.weight
    d_in, d_out = like.shape
    return LowRank(tensor.new_zeros(1, d_in, 0), tensor.new_zeros(1, 0, d_out))
