"""SERAC's similarity of questions and remembered edits, and the loss that trains it."""

# Q questions, M entries, d width of an embedding

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from editors.settings import at_least, positive

EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Of two embeddings; by default the squared Euclidean one.

    Attributes:
        scale: What it is multiplied by.
        heads: The embeddings are cut into so many equal slices, and the smallest distance counts.
        bound: Whether embeddings go through tanh.
        cosine: Whether it is one minus the cosine.
        squared: Whether a Euclidean one is squared.

    Raises:
        ValueError: no head, or a scale that is not above 0.
    """

    scale: float = 1.0
    heads: int = 1
    bound: bool = False
    cosine: bool = False
    squared: bool = True

    def __post_init__(self):
        at_least(1, heads=self.heads)
        positive(scale=self.scale)


def log_similarity(queries: Tensor, keys: Tensor, distance: Distance) -> Tensor:
    """``log s = -distance`` ``[Q, M]`` of the questions' ``[Q, d]`` and entries' ``[M, d]``.

    One matrix product. A distance is never below 0, whatever rounding does; s is in (0, 1].
    """
    if distance.bound:
        queries, keys = queries.tanh(), keys.tanh()
    queries, keys = (x.unflatten(-1, (distance.heads, -1)).transpose(0, 1) for x in (queries, keys))
    if distance.cosine:
        queries, keys = (torch.nn.functional.normalize(x, dim=-1) for x in (queries, keys))
        values = (1 - queries @ keys.mT).clamp(min=0)
    else:
        squares = (torch.linalg.vector_norm(x, dim=-1).square() for x in (queries, keys))
        norms = next(squares)[..., None] + next(squares)[:, None]
        values = torch.baddbmm(norms, queries, keys.mT, alpha=-2).clamp(min=0)
        if not distance.squared:
            values = torch.where(values > 0, values, 1).sqrt() * (values > 0)
    return -distance.scale * values.amin(0)


def balanced_bce(positive: Tensor, negative: Tensor, weight: float = 1.0) -> Tensor:
    """Mean of ``-log s`` over pairs in scope, plus mean of ``-log(1 - s)`` over pairs out of it.

    Takes ``log s`` ``[P]`` and ``[N]``; a side without pairs counts 0, and the second one counts
    ``weight`` times. Where s is 1, so that the second logarithm has no value, the precision of
    float32 stands for ``1 - s``.
    """
    apart = -torch.expm1(negative)
    apart = apart + EPS * (apart == 0)
    sides = (-positive, -weight * apart.log())
    return sum((side.mean() for side in sides if side.numel()), start=positive.new_zeros(()))
