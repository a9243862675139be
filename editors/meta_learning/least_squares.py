"""Many proposed changes of a layer's output as one update: ridge regression, with its gradient.

Tan, Zhang, Fu: "Massive Editing for Large Language Models via Meta Learning" (MALMEN), ICLR 2024,
https://arxiv.org/abs/2311.04661, section 3.1. Of all updates S of a layer with keys K and proposed
changes D, one a row, the one with the least ``|K S - D|^2 + ridge |S|^2`` is
``(K^T K + ridge I)^-1 K^T D = K^T (K K^T + ridge I)^-1 D``. The smaller of the two systems is
solved, by Cholesky in float64.
"""

# B updates, n rows, d_in/d_out layer widths

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from edits.updates import Dense, LowRank


def least_squares(
    keys: Tensor, changes: Tensor, ridge: Tensor, past: Tensor | None = None
) -> LowRank | Dense:
    """The updates S; differentiable for ``changes`` and ``ridge``, while ``keys`` are constants.

    Args:
        keys: K ``[B, n, d_in]``; rows of zeros have no part in it.
        changes: D ``[B, n, d_out]``.
        ridge: ``[]``, more than 0.
        past: ``[B, p, d_in]``, keys at which no change is proposed: the layer is to stay there.

    Returns:
        In factors where they are fewer numbers than whole matrices.
    """
    if past is not None:
        keys = torch.cat([past.to(keys), keys], 1)
        changes = pad(changes, (0, 0, past.shape[1], 0))
    rows, d_in = keys.shape[1:]
    exact = keys.double()
    if rows > d_in:
        return Dense(_solved(exact.mT @ exact, ridge, keys.mT @ changes))
    return LowRank(keys.mT, _solved(exact @ exact.mT, ridge, changes)).packed()


def _solved(gram: Tensor, ridge: Tensor, right: Tensor) -> Tensor:
    """``(gram + ridge I)^-1 right`` in the precision of ``right``."""
    return _Solve.apply(gram, ridge, right)


class _Solve(torch.autograd.Function):
    """``X = (gram + ridge I)^-1 right``.

    For a loss with the gradient X' at X, that at ``right`` is ``M = (gram + ridge I)^-1 X'``, and
    that at the ridge ``-<M, X>``.
    """

    @staticmethod
    def forward(ctx, gram: Tensor, ridge: Tensor, right: Tensor) -> Tensor:
        ridged = gram + ridge.to(gram.dtype) * torch.eye(gram.shape[-1]).to(gram)
        lower, failed = torch.linalg.cholesky_ex(ridged)
        lower = lower.masked_fill(failed[..., None, None] > 0, torch.nan)  # a step is left out
        solved = torch.cholesky_solve(right.to(gram.dtype), lower)
        ctx.save_for_backward(lower, solved)
        ctx.dtypes = ridge.dtype, right.dtype
        return solved.to(right.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        lower, solved = ctx.saved_tensors
        middle = torch.cholesky_solve(gradient.to(lower.dtype), lower)
        of_ridge, of_right = ctx.dtypes
        return None, -(middle * solved).sum().to(of_ridge), middle.to(of_right)
