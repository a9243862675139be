"""The linear algebra under closed-form edits: a factored second moment and its solutions.

ROME (Meng et al., NeurIPS 2022, https://arxiv.org/abs/2202.05262), equation 2: of all updates that
give key ``k`` the output ``v``, ``C^-1 k (v - o)^T / (k^T C^-1 k)`` changes the outputs of the keys
with second moment ``C`` least. Keys and outputs are rows everywhere: ``[N, d_in]``, ``[N, d_out]``.
MEMIT and its successors (`ridge`) ask the same of many keys at once.

Departures from the authors' code: ``C`` is never inverted but Cholesky factored in float64, and a
singular or badly conditioned ``C`` gets a ridge (ReLU neurons that never fire make it singular).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from edits.weights import LowRank

logger = logging.getLogger(__name__)

RIDGES = (0.0, 1e-8, 1e-6, 1e-4, 1e-2)
"""Multiples of the mean diagonal, tried in turn."""
LARGEST_CONDITION = 1e10


class Coordinates(Protocol):
    """Coordinates of a layer's keys in which solutions need not mention the second moment."""

    def into(self, keys: Tensor) -> Tensor:
        """Rows ``[..., d]`` in these coordinates, ``[..., r]`` float64."""
        ...

    def back(self, rows: Tensor) -> Tensor:
        """The transposed linear map, ``[..., r]`` to ``[..., d]``."""
        ...


@dataclass(frozen=True)
class Factor:
    """Cholesky factor: ``lower @ lower^T = C + ridge * mean(diag C) * I``, float64.

    ``live`` marks the coordinates that the factor covers, ``[d]`` bool.
    """

    lower: Tensor
    ridge: float
    live: Tensor

    def solve(self, keys: Tensor) -> Tensor:
        """``C^-1 k`` of each row, ``[N, d]`` float64; exactly zero outside ``live``."""
        return self.back(self.into(keys))

    def into(self, keys: Tensor) -> Tensor:
        """``lower^-1 k`` of each row, ``[..., d]`` to ``[..., live]``: there C is the identity."""
        rows = keys.to(self.lower)[..., self.live]
        solved = torch.linalg.solve_triangular(self.lower, rows.flatten(0, -2).mT, upper=False)
        return solved.mT.view(rows.shape)

    def back(self, rows: Tensor) -> Tensor:
        """``lower^-T x`` of each row, ``[..., live]`` to ``[..., d]``; zero outside ``live``."""
        solved = torch.linalg.solve_triangular(self.lower.mT, rows.flatten(0, -2).mT, upper=True)
        keys = rows.new_zeros(*rows.shape[:-1], len(self.live))
        keys[..., self.live] = solved.mT.view(rows.shape)
        return keys


def factor(moment: Tensor, name: str = "C", live_only: bool = False) -> Factor:
    """Factors a second moment ``[d, d]`` with the smallest of `RIDGES` that conditions it.

    Args:
        moment: symmetric and positive semidefinite.
        name: what it belongs to, for messages.
        live_only: leave out coordinates whose diagonal is at most 1e-12 of the mean, that is
            neurons that never fired; updates are zero there. Otherwise the ridge stands in for
            them, and a key that is zero there as well gets zeros too.

    Raises:
        ValueError: not square, not finite, or not positive even with the largest ridge.
    """
    if moment.ndim != 2 or moment.shape[0] != moment.shape[1]:
        raise ValueError(f"second moment {name!r}: expected [d, d], got {list(moment.shape)}")
    if not moment.isfinite().all():
        raise ValueError(f"second moment {name!r} holds values that are not finite")
    moment = moment.double()
    scale = moment.diagonal().mean()
    live = moment.diagonal() > (1e-12 * scale if live_only else -torch.inf)
    moment = moment[live][:, live]
    for ridge in RIDGES:
        ridged = moment + ridge * scale * torch.eye(len(moment)).to(moment)
        lower, failed = torch.linalg.cholesky_ex(ridged)
        if not failed and condition(ridged, lower) < LARGEST_CONDITION:
            if ridge:
                logger.warning("second moment %r is ill conditioned: ridge %g used", name, ridge)
            return Factor(lower, ridge, live)
    raise ValueError(f"second moment {name!r} is not positive, even with ridge {RIDGES[-1]:g}")


def condition(matrix: Tensor, lower: Tensor, steps: int = 20) -> float:
    """Estimate of the condition number from a few power and inverse power iterations."""
    largest = smallest = torch.linspace(0.5, 1.5, len(matrix)).to(matrix)[:, None]
    for _ in range(steps):
        largest = matrix @ (largest / largest.norm())
        smallest = torch.cholesky_solve(smallest / smallest.norm(), lower)
    return float(largest.norm() * smallest.norm())


def rank_one(directions: Tensor, keys: Tensor, residuals: Tensor) -> LowRank:
    """N updates that add ``residuals`` to the output at ``keys``: ``u r^T / (u^T k)``, u unit long.

    Where ``u^T k`` is zero the update is zero: no multiple of ``u`` changes that key's output.

    Args:
        directions: ``[N, d_in]``, of any length; ROME's ``C^-1 k``.
        keys: ``[N, d_in]``.
        residuals: wanted changes of the output, ``[N, d_out]``.
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
    in which C is the identity (`Factor.into`, then `Factor.back`) it is
    ``(weight C + K^T K)^-1 K^T R``, MEMIT's equation 14.

    Args:
        keys: ``[N, n, d]`` float64.
        weight: 0 or more.

    Raises:
        ValueError: the keys depend on each other so much that ``weight`` does not separate them.
    """
    count, size = keys.shape[-2:]
    if count == 1:  # a key of zeros is answered with zeros, whatever is asked of it
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
