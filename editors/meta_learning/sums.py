"""Sums over rows, of which running statistics are made: those of two sets of rows add up.

In float64, so that the order in which rows come is of no consequence. The sums of an edit are part
of it, so that the next edit of the edited model goes on with them.
"""

# n rows, d their width

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edits.weights import WeightEdit

LEAST_EIGENVALUE = 1e-6
"""Of a covariance that is inverted, as a share of the mean eigenvalue."""
AT_ONCE = 512
"""Rows of which squares are in a processor's cache together."""


@dataclass(frozen=True, eq=False)
class Sums:
    """What is kept of n rows ``[n, d]``.

    Attributes:
        count: ``[]``, n.
        total: ``[d]``, their sum.
        square: ``[d]``, the sum of their squares; or ``[d, d]``, of their outer products.
    """

    count: Tensor
    total: Tensor
    square: Tensor

    @staticmethod
    def of(rows: Tensor, products: bool = False, unbiased: bool = False) -> Sums:
        """The sums of the rows.

        Args:
            rows: ``[n, d]``.
            products: whether outer products are kept, for `whitened`.
            unbiased: whether squared deviations from these rows' mean count n/(n - 1) times, as in
                the published code of MALMEN and UltraEdit, where the variance so depends on how
                rows come in chunks.

        Raises:
            ValueError: a single row with ``unbiased``, of which that code would make NaN.
        """
        rows = rows.double()
        count = torch.tensor(float(len(rows)), dtype=torch.float64, device=rows.device)
        parts = (x.T @ x if products else x.square().sum(0) for x in rows.split(AT_ONCE))
        square = sum(parts, start=rows.new_zeros(()))
        if unbiased:
            if len(rows) < 2:
                raise ValueError("an unbiased variance of a chunk needs 2 rows, got 1")
            square = square + (rows - rows.mean(0)).square().sum(0) / (len(rows) - 1)
        return Sums(count, rows.sum(0), square)

    @staticmethod
    def of_state(state: Mapping[str, Tensor], name: str) -> Sums:
        """The sums that `state` gave under this name."""
        return Sums(*(state[f"{name}.{part}"] for part in PARTS))

    def state(self, name: str) -> dict[str, Tensor]:
        """The tensors, their names behind ``name``."""
        return {f"{name}.{part}": getattr(self, part) for part in PARTS}

    def plus(self, other: Sums) -> Sums:
        """Of the rows of both."""
        return Sums(*(getattr(self, part) + getattr(other, part) for part in PARTS))

    @property
    def mean(self) -> Tensor:
        """``[d]``."""
        return self.total / self.count

    @property
    def std(self) -> Tensor:
        """``[d]``, n - 1 in the denominator.

        Raises:
            ValueError: there are fewer than 2 rows.
        """
        if self.count < 2:
            raise ValueError(
                f"a standard deviation needs 2 rows or more, but there are {int(self.count)}: "
                "warm up with a pool, or edit for more requests at once"
            )
        square = self.square.diagonal() if self.square.ndim == 2 else self.square
        deviations = square - self.total.square() / self.count
        return (deviations.clamp(min=0) / (self.count - 1)).sqrt()

    def standardised(self, rows: Tensor, epsilon: float) -> Tensor:
        """The rows in units of the standard deviation around the mean, float64."""
        return (rows.double() - self.mean).div_(self.std + epsilon)

    def whitened(self, rows: Tensor, epsilon: float) -> Tensor:
        """The rows times the inverse root of the covariance, around the mean, float64.

        The covariance of n rows is that of the inverse Wishart mean, ``scatter / (n - d - 1)``.
        Where there are not so many rows, each dimension is standardised by itself.
        """
        excess = self.count - len(self.total) - 1
        if self.square.ndim < 2 or excess <= 0:
            return self.standardised(rows, epsilon)
        scatter = self.square - self.total.outer(self.total) / self.count
        values, vectors = torch.linalg.eigh(scatter / excess)
        values = values.clamp(min=LEAST_EIGENVALUE * float(values.mean()))
        return (rows.double() - self.mean) @ (vectors * values.rsqrt()) @ vectors.T


PARTS = "count", "total", "square"
Statistics = Mapping[str, Sums]
"""Sums by the name of what they are of."""


def together(one: Statistics, other: Statistics) -> dict[str, Sums]:
    """The sums of both, name by name."""
    both = dict(one)
    for name, sums in other.items():
        both[name] = both[name].plus(sums) if name in both else sums
    return both


def sums_of(edit: WeightEdit | None) -> dict[str, Sums]:
    """The statistics that a single edit carries."""
    if edit is None:
        return {}
    state = {name: tensor[0] for name, tensor in edit.sums.items()}
    names = [name.removesuffix(".count") for name in state if name.endswith(".count")]
    return {name: Sums.of_state(state, name) for name in names}
