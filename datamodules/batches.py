"""Token ids of texts in padded batches of like length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

# B texts, T tokens

Item = TypeVar("Item")


def as_dataset(items: Sequence[Item]) -> Dataset[Item]:
    """The same object: PyTorch takes any sequence, though its annotations name a class."""
    return cast(Dataset[Item], items)


def padded_batches(
    rows: Iterable[Sequence[int]], tokens_per_batch: int, pad: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and attention mask [B, T] of rows of like length, right padded, the shortest first.

    A batch has at most ``tokens_per_batch`` padded tokens B * T, unless one row has more.
    """
    ordered = sorted(rows, key=len)  # stable: ties in the rows' order
    start = 0
    for end in range(1, len(ordered) + 1):
        if end == len(ordered) or (end + 1 - start) * len(ordered[end]) > tokens_per_batch:
            yield _padded(ordered[start:end], pad)
            start = end


def _padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    width = len(rows[-1])  # in order of length: the last is the longest
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])  # [B, T]
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(width) < lengths[:, None]).long()
