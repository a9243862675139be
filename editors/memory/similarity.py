"""SERAC's similarity of questions and remembered edits, and the loss that trains it."""

# Q questions, M entries, d width of an embedding

from __future__ import annotations

import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps


def log_similarity(
    queries: Tensor,
    keys: Tensor,
    *,
    scale: float = 1.0,
    heads: int = 1,
    bound: bool = False,
    cosine: bool = False,
    squared: bool = True,
) -> Tensor:
    """``log s = -scale * distance`` ``[Q, M]`` of embeddings ``[Q, d]`` and ``[M, d]``.

    One matrix product. The distance is the squared Euclidean one unless told otherwise, and never
    below 0, whatever rounding does; s is in (0, 1].

    Args:
        queries: of the questions.
        keys: of the entries.
        scale: of the distance.
        heads: the embeddings are cut into so many equal slices, and the smallest distance counts.
        bound: whether embeddings go through tanh.
        cosine: the distance is one minus the cosine.
        squared: False: the distance is the Euclidean one.
    """
    if bound:
        queries, keys = queries.tanh(), keys.tanh()
    queries, keys = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (queries, keys))
    if cosine:
        queries, keys = (torch.nn.functional.normalize(x, dim=-1) for x in (queries, keys))
        distance = (1 - queries @ keys.mT).clamp(min=0)
    else:
        squares = (torch.linalg.vector_norm(x, dim=-1).square() for x in (queries, keys))
        norms = next(squares)[..., None] + next(squares)[:, None]
        distance = torch.baddbmm(norms, queries, keys.mT, alpha=-2).clamp(min=0)
        if not squared:
            distance = torch.where(distance > 0, distance, 1).sqrt() * (distance > 0)
    return -scale * distance.amin(0)


def balanced_bce(positive: Tensor, negative: Tensor, weight: float = 1.0) -> Tensor:
    """Mean of ``-log s`` over pairs in scope, plus mean of ``-log(1 - s)`` over pairs out of it.

    Takes ``log s`` ``[P]`` and ``[N]``; a side without pairs counts 0, and the second one counts
    ``weight`` times. Where s is 1, so that the
    second logarithm has no value, the precision of float32 stands for ``1 - s``.
    """
    apart = -torch.expm1(negative)
    apart = apart + EPS * (apart == 0)
    sides = (-positive, -weight * apart.log())
    return sum((side.mean() for side in sides if side.numel()), start=positive.new_zeros(()))
