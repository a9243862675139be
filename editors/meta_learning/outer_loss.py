"""What hypernetworks are trained for: new answers to the outer questions, old ones elsewhere."""

# B edits, R questions, T tokens, d hidden width

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from editors.descent import means
from editors.meta_learning.batches import parts_by_length, predicting, without_last
from editors.meta_learning.decoupled import Part
from editors.meta_learning.losses import kl, nll
from editors.meta_learning.training import HypernetworkTraining
from edits.weights import WeightEdit
from models.encoding import Batch
from models.language_model import LanguageModel


def outer_losses(
    language_model: LanguageModel,
    edit: WeightEdit,
    batch: Batch,
    owner: Tensor | Sequence[int],
    outer: int,
    kl_positions: str = "all",
    smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Edit loss and locality loss (nats per token), each the mean over the edits.

    Given the ``weights`` of a part of the questions, it is what that part adds to the two losses.

    Args:
        language_model: the unedited model.
        edit: B edits; the losses are differentiable for them.
        batch: R questions, the outer ones first, then the locality probes.
        owner: number of the edit that each question is asked of.
        outer: number of outer questions.
        kl_positions: see `HypernetworkTraining`.
        smoothing: of the edit loss's targets; see `HypernetworkTraining`.
        weights: ``[R]`` of the questions in the means; by default `shares` of these questions.
    """
    owner = torch.as_tensor(owner, device=batch.input_ids.device)
    rows, values = [], []
    for part_rows, part in parts_by_length(batch, whole=language_model.sharded):
        first = int((part_rows < outer).sum())
        part_rows, order = part_rows.sort()  # outer questions first
        rows.append(part_rows)
        values.append(
            _question_losses(
                language_model,
                edit,
                part.rows(order),
                owner[part_rows],
                first,
                kl_positions == "all",
                smoothing,
            )
        )
    losses = torch.cat(values)[torch.cat(rows).argsort()]  # [R]
    weights = shares(owner, outer, len(edit)) if weights is None else weights
    losses = losses * weights.to(losses)
    return losses[:outer].sum(), losses[outer:].sum()


def shares(owner: Tensor, outer: int, edits: int) -> Tensor:
    """Each question's weight ``[R]`` in the mean over the edits of the mean over their questions.

    The mean is over the outer questions, or over the locality probes, whichever a question is.
    """
    sides = owner[:outer], owner[outer:]
    counts = [torch.bincount(side, minlength=edits)[side] for side in sides]
    return 1 / (edits * torch.cat(counts).double())


def outer_parts(
    language_model: LanguageModel,
    batch: Batch,
    owner: Tensor | Sequence[int],
    outer: int,
    weights: Tensor,
    settings: HypernetworkTraining,
    after: WeightEdit | None = None,
) -> list[Part]:
    """`outer_losses` in parts of at most ``questions_per_batch`` questions.

    With ``after`` the losses are those of an edit on top of it.
    """
    owner = torch.as_tensor(owner, device=batch.input_ids.device)

    def part(rows: slice) -> Part:
        return lambda edit: outer_losses(
            language_model,
            edit if after is None else after.plus(edit),
            batch.rows(rows),
            owner[rows],
            min(max(outer - rows.start, 0), rows.stop - rows.start),
            settings.kl_positions,
            settings.smoothing,
            weights[rows],
        )

    size = len(owner) if language_model.sharded else settings.questions_per_batch
    ends = [*range(0, len(owner), size), len(owner)]
    return [part(slice(start, stop)) for start, stop in pairwise(ends)]


def _question_losses(
    model: LanguageModel,
    edit: WeightEdit,
    batch: Batch,
    owner: Tensor,
    outer: int,
    whole_texts: bool,
    smoothing: float,
) -> Tensor:
    """Loss of each question ``[R]``: nll of the first ``outer``, KL from unedited of the others."""
    counts = local_counts = predicting(batch)
    tokens = without_last(batch)
    if whole_texts and outer < len(owner) and batch.source is None:
        tokens, local_counts = batch, batch.attention_mask.bool()
    with edit.hooks(model, owner):
        hidden = model.hidden(tokens)  # [R, T, d]
    row, position = counts[:outer].nonzero(as_tuple=True)
    targets = batch.labels[row, position + 1]
    losses = nll(model.head(hidden[row, position]), targets, smoothing)
    values = means(losses, row, outer)
    if outer == len(owner):
        return values
    row, position = local_counts[outer:].nonzero(as_tuple=True)
    with torch.no_grad():
        before = model.hidden(tokens.rows(slice(outer, None)))
        before = model.head(before[row, position])
    losses = kl(before, model.head(hidden[outer + row, position]))
    return torch.cat([values, means(losses, row, len(owner) - outer)])
