"""Merging changes of one weight: TIES.

Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023,
https://arxiv.org/abs/2306.01708, as WISE's code (EasyEdit) has it.
"""

# M changes

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ties(changes: Tensor, weights: Sequence[float], density: float) -> Tensor:
    """The change that stands for several ``[M, ...]``.

    Of each the largest are kept; where their weighted sum says which sign there is to be, those of
    that sign count, in their weighted mean. A sum of 0 counts as plus.

    Args:
        changes: of the same weight.
        weights: of each change.
        density: share of each one's elements that is kept, rounded down; 1: all.
    """
    share = torch.tensor(weights, dtype=changes.dtype, device=changes.device)
    share = share.view(-1, *[1] * (changes.ndim - 1))
    kept = torch.stack([trimmed(change, density) for change in changes]) * share
    sign = torch.where(kept.sum(0) >= 0, 1.0, -1.0).to(kept)
    agreed = (kept.sign() == sign).to(kept)
    return (kept * agreed).sum(0) / (share * agreed).sum(0).clamp(min=1e-8)


def trimmed(change: Tensor, density: float) -> Tensor:
    """The change with all but its largest elements at 0."""
    flat = change.flatten()
    count = int(density * len(flat))
    places = flat.abs().float().topk(count).indices
    return torch.zeros_like(flat).index_copy(0, places, flat[places]).view_as(change)
