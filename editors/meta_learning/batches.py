"""Batches cut into parts of like length, since most of a mixed batch would be padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from models.encoding import IGNORED, Batch

T = TypeVar("T")

FILLED = 0.65  # a part's shortest row is at least this share of its longest


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items, ``size`` at a time."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def parts_by_length(
    batch: Batch, whole: bool = False, most: int | None = None
) -> list[tuple[Tensor, Batch]]:
    """The rows of each part (indices into ``batch``), and the part without the padding it shares.

    Together the parts hold every row once, the longest first, and each at ``most`` so many. With
    ``whole`` their number does not depend on lengths: for processes that have to make equally many
    passes.
    """
    lengths = batch.lengths
    order = lengths.argsort(descending=True, stable=True)
    starts, longest, most = [], 0.0, most or len(lengths)
    for start, length in enumerate(lengths[order].tolist()):
        short = not whole and length < FILLED * longest
        if not starts or short or start - starts[-1] == most:
            starts.append(start)
            longest = length
    parts = order.tensor_split(starts[1:])
    return [(rows, batch.rows(rows).trimmed()) for rows in parts if len(rows)]


def without_last(batch: Batch) -> Batch:
    """The batch without its last tokens ``[B, T - 1]``, which predict no label; labels stay."""
    return replace(
        batch, input_ids=batch.input_ids[:, :-1], attention_mask=batch.attention_mask[:, :-1]
    )


def predicting(batch: Batch) -> Tensor:
    """Positions (bool) ``[B, T - 1]`` that predict a target token: one before each label."""
    return batch.labels[:, 1:] != IGNORED


def predicted(batch: Batch) -> Tensor:
    """The target tokens ``[n]`` of the positions in `predicting`, in order."""
    return batch.labels[:, 1:][predicting(batch)]
