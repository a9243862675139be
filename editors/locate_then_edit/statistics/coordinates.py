"""Coordinates of a layer's keys in which solutions need not mention the second moment.

A second moment ``C`` is never inverted but Cholesky factored in float64 (`Factor`), and a singular
or badly conditioned one gets a ridge (ReLU neurons that never fire make it singular). In the
coordinates of its little used directions (`NullSpace`) it is left out altogether.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

RIDGES = (0.0, 1e-8, 1e-6, 1e-4, 1e-2)
"""Multiples of the mean diagonal, tried in turn."""
LARGEST_CONDITION = 1e10


class Coordinates(Protocol):
    """Coordinates of a layer's keys in which solutions need not mention the second moment."""

    @property
    def width(self) -> int:
        """R."""
        ...

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

    @property
    def width(self) -> int:
        """R."""
        return len(self.lower)

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


@dataclass(frozen=True)
class Blocks:
    """Coordinates of each expert of a mixture: the stacked keys' parts, each in its own.

    With `Factor` as the parts, solutions are those of a second moment that is block diagonal.
    """

    parts: Sequence[Coordinates]

    @property
    def width(self) -> int:
        """R."""
        return sum(part.width for part in self.parts)

    def into(self, keys: Tensor) -> Tensor:
        """``[..., E f]`` to ``[..., r]``."""
        blocks = keys.unflatten(-1, (len(self.parts), -1)).unbind(-2)
        return torch.cat([x.into(k) for x, k in zip(self.parts, blocks, strict=True)], -1)

    def back(self, rows: Tensor) -> Tensor:
        """``[..., r]`` to ``[..., E f]``."""
        blocks = rows.split([part.width for part in self.parts], -1)
        return torch.cat([x.back(k) for x, k in zip(self.parts, blocks, strict=True)], -1)


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


@dataclass(frozen=True)
class NullSpace:
    """Orthonormal directions ``[d, r]`` float64 that keys hardly use, as coordinates."""

    basis: Tensor

    @property
    def width(self) -> int:
        """R."""
        return self.basis.shape[1]

    def into(self, keys: Tensor) -> Tensor:
        """``Q^T k`` of each row, ``[..., d]`` to ``[..., r]``."""
        return keys.to(self.basis) @ self.basis

    def back(self, rows: Tensor) -> Tensor:
        """``Q x`` of each row, ``[..., r]`` to ``[..., d]``."""
        return rows @ self.basis.mT


def null_space(moment: Tensor, threshold: float, name: str = "C") -> NullSpace:
    """The eigenvectors of a second moment ``[d, d]`` whose eigenvalues are below the threshold.

    Logs how many they are, and the leak: the share of the second moment that lies in them.

    Raises:
        ValueError: there are none.
    """
    values, vectors = torch.linalg.eigh(moment.double())
    below = values < threshold
    if not below.any():
        raise ValueError(
            f"threshold {threshold:g}: no eigenvalue of the second moment {name!r} is below it; "
            f"they are {float(values[0]):.3g} to {float(values[-1]):.3g}"
        )
    leak = float(values[below].clamp_min(0).sum() / values.sum())
    count = int(below.sum())
    logger.info("%s: %d of %d directions are free; leak %.2g", name, count, len(values), leak)
    return NullSpace(vectors[:, below])


def of_each(fit: Callable[[Tensor, str], Coordinates], moment: Tensor, name: str) -> Coordinates:
    """What ``fit`` makes of a second moment; of those of experts ``[E, f, f]``, of each.

    An expert that no token was sent to counts as one whose inputs are all in use alike, as much as
    those of the others are in the mean.
    """
    if moment.ndim == 2:
        return fit(moment, name)
    size = moment.diagonal(dim1=1, dim2=2).mean()
    like = size * torch.eye(moment.shape[-1]).to(moment)
    used = [one if one.any() else like for one in moment]
    return Blocks([fit(one, f"{name}, expert {number}") for number, one in enumerate(used)])
