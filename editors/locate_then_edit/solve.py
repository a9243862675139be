"""The linear algebra under closed-form edits: a factored second moment and the rank-one update.

ROME (Meng et al., NeurIPS 2022, https://arxiv.org/abs/2202.05262), equation 2: of all updates that
give key ``k`` the output ``v``, ``C^-1 k (v - o)^T / (k^T C^-1 k)`` changes the outputs of the keys
with second moment ``C`` least. Keys and outputs are rows everywhere: ``[N, d_in]``, ``[N, d_out]``.

Departures from the authors' code: ``C`` is never inverted but Cholesky factored in float64, and a
singular or badly conditioned ``C`` gets a ridge (ReLU neurons that never fire make it singular).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from edits.weights import LowRank

logger = logging.getLogger(__name__)

RIDGES = (0.0, 1e-8, 1e-6, 1e-4, 1e-2)
"""Multiples of the mean diagonal, tried in turn."""
LARGEST_CONDITION = 1e10


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
        keys = keys.to(self.lower)
        solved = torch.zeros_like(keys)
        solved[:, self.live] = torch.cholesky_solve(keys[:, self.live].T, self.lower).T
        return solved


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
