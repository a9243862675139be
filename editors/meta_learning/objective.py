"""What hypernetworks are trained for: new answers to the outer questions, old ones elsewhere."""

# B edits, R questions, T tokens, d hidden width

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from editors.meta_learning.batches import parts_by_length, predicting, without_last
from editors.meta_learning.losses import example_means, kl, nll
from edits.weights import WeightEdit
from models.encoding import Batch
from models.language_model import LanguageModel


def outer_losses(
    language_model: LanguageModel,
    edit: WeightEdit,
    batch: Batch,
    record: Sequence[int],
    outer: int,
    kl_positions: str = "all",
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Edit loss and locality loss (nats per token), each the mean over the edits.

    Args:
        language_model: the unedited model.
        edit: B edits; the losses are differentiable for them.
        batch: R questions, the outer ones first, then the locality probes.
        record: which edit each question meets.
        outer: number of outer questions.
        kl_positions: see `Training`.
        smoothing: of the edit loss's targets; see `Training`.
    """
    record = torch.as_tensor(record, device=batch.input_ids.device)
    rows, values = [], []
    for part_rows, part in parts_by_length(batch):
        first = int((part_rows < outer).sum())
        part_rows, order = part_rows.sort()  # outer questions first
        rows.append(part_rows)
        values.append(
            _question_losses(
                language_model,
                edit,
                part.rows(order),
                record[part_rows],
                first,
                kl_positions == "all",
                smoothing,
            )
        )
    losses = torch.cat(values)[torch.cat(rows).argsort()]  # [R]
    edit_loss = example_means(losses[:outer], record[:outer], len(edit)).mean()
    return edit_loss, example_means(losses[outer:], record[outer:], len(edit)).mean()


def _question_losses(
    model: LanguageModel,
    edit: WeightEdit,
    batch: Batch,
    record: Tensor,
    outer: int,
    whole_texts: bool,
    smoothing: float,
) -> Tensor:
    """Loss of each question ``[R]``: nll of the first ``outer``, KL from unedited of the others."""
    counts = local_counts = predicting(batch)
    tokens = without_last(batch)
    if whole_texts and outer < len(record) and batch.source is None:
        tokens, local_counts = batch, batch.attention_mask.bool()
    with edit.hooks(model, record):
        hidden = model.hidden(tokens)  # [R, T, d]
    row, position = counts[:outer].nonzero(as_tuple=True)
    targets = batch.labels[row, position + 1]
    losses = nll(model.head(hidden[row, position]), targets, smoothing)
    values = example_means(losses, row, outer)
    if outer == len(record):
        return values
    row, position = local_counts[outer:].nonzero(as_tuple=True)
    with torch.no_grad():
        before = model.hidden(tokens.rows(slice(outer, None)))
        before = model.head(before[row, position])
    losses = kl(before, model.head(hidden[outer + row, position]))
    return torch.cat([values, example_means(losses, row, len(record) - outer)])
