"""The linear algebra under closed-form edits.

ROME (Meng et al., NeurIPS 2022, https://arxiv.org/abs/2202.05262), equation 2: of all updates that
give key ``k`` the output ``v``, ``C^-1 k (v - o)^T / (k^T C^-1 k)`` changes the outputs of the keys
with second moment ``C`` least. Keys and outputs are rows everywhere: ``[N, d_in]``, ``[N, d_out]``.
MEMIT and its successors (`ridge`) ask the same of many keys at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from editors.locate_then_edit.statistics.coordinates import LARGEST_CONDITION, condition
from edits.updates import LowRank


def rank_one(directions: Tensor, keys: Tensor, residuals: Tensor) -> LowRank:
    """N updates that add ``residuals`` to the output at ``keys``: ``u r^T / (u^T k)``, u unit long.

    Where ``u^T k`` is zero the update is zero: no multiple of ``u`` changes that key's output.

    Args:
        directions: ``[N, d_in]``, of any length; ROME's ``C^-1 k``.
        keys: ``[N, d_in]``.
        residuals: changes of the output, ``[N, d_out]``.
    """
    units = torch.nn.functional.normalize(directions, dim=-1)
    products = (units * keys).sum(-1, keepdim=True)
    rights = torch.where(products == 0, 0.0, residuals / products)
    return LowRank(units[:, :, None], rights[:, None, :])


def ridge(keys: Tensor, weight: float) -> Tensor:
    """``K (weight I + K^T K)^-1 = (weight I + K K^T)^-1 K``, ``[N, n, d]``, of keys K one a row.

    With residuals R, one a row, its transpose times R is the update U that makes
    ``|K U - R|^2 + weight |U|^2`` least; with weight 0, the smallest U for which ``K U = R``. The
    two forms are equal by the push-through identity; the smaller system is solved. In coordinates
    in which C is the identity (`Coordinates.into`, then `Coordinates.back`) it is
    ``(weight C + K^T K)^-1 K^T R``, MEMIT's equation 14.

    Args:
        keys: ``[N, n, d]`` float64.
        weight: 0 or more.

    Raises:
        ValueError: the keys depend on each other so much that ``weight`` does not separate them.
    """
    count, size = keys.shape[-2:]
    if count == 1:  # of a key of zeros the answer is zeros, whatever its residual
        squares = keys.square().sum(-1, keepdim=True) + weight
        return torch.where(squares == 0, 0.0, keys / squares)
    if weight and count > size:
        return torch.cholesky_solve(keys.mT, _weighted(keys.mT @ keys, weight, count)).mT
    return torch.cholesky_solve(keys, _weighted(keys @ keys.mT, weight, count))


def _weighted(grams: Tensor, weight: float, count: int) -> Tensor:
    """Cholesky factors of ``grams + weight I``, ``[N, n, n]``; checks their condition."""
    grams.diagonal(dim1=-2, dim2=-1).add_(weight)
    lowers, failed = torch.linalg.cholesky_ex(grams)
    for gram, lower, wrong in zip(grams, lowers, failed, strict=True):
        if wrong or not condition(gram, lower) < LARGEST_CONDITION:
            raise ValueError(
                f"{count} keys are linearly dependent, as those of one subject are, and weight "
                f"{weight:g} does not separate them: give each subject once, or a larger weight"
            )
    return lowers
