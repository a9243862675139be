"""Ridge regression of changes on keys, where some outputs are to stay, solved again and again.

The update of least ``|K S - D|^2 + |P S|^2 + ridge |S|^2``, for keys K, the changes D proposed for
their outputs, and keys P whose outputs stay, is ``(K^T K + P^T P + ridge I)^-1 K^T D``. Of P either
the keys are known or their products ``P^T P``; with ``A`` all keys that are known, it is also
``A^T (A A^T + ridge I)^-1 [0; D]``. The smaller system is solved, in float64.
"""

# n rows, p spared rows, d_in/d_out layer widths

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from editors.locate_then_edit.statistics.moments import add_square, mirrored
from edits.updates import Dense, LowRank


def products(rows: Tensor) -> Tensor:
    """``rows^T rows``, ``[d, d]``."""
    total = rows.new_zeros(rows.shape[1], rows.shape[1])
    add_square(total, rows)
    return mirrored(total)


@dataclass(frozen=True, eq=False)
class Spared:
    """What is known of a layer's keys whose outputs are to stay.

    Attributes:
        keys: ``[p, d_in]``.
        products: ``[d_in, d_in]``, those of further keys; None: there are none.
    """

    keys: Tensor
    products: Tensor | None = None

    def packed(self) -> Spared:
        """The same, by their products alone where these are fewer numbers."""
        if len(self.keys) <= self.keys.shape[1]:
            return self
        total = products(self.keys.double())
        return Spared(self.keys[:0], total if self.products is None else total + self.products)


class Ridge:
    """The system of some keys, factored once for all changes that are proposed for them.

    Args:
        keys: ``[n, d_in]`` float64.
        spared: whose outputs are to stay; None: there are none.
        ridge: more than 0.
    """

    def __init__(self, keys: Tensor, spared: Spared | None, ridge: float):
        spared = spared or Spared(keys[:0])
        self.keys = keys
        self.known = torch.cat([spared.keys.to(keys), keys]) if len(spared.keys) else keys
        self.primal = spared.products is not None or len(self.known) > keys.shape[1]
        gram = products(self.known if self.primal else self.known.T)
        if spared.products is not None:
            gram += spared.products.to(gram)
        gram.diagonal().add_(ridge)
        self.lower, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            self.lower.fill_(torch.nan)  # keys that are not finite make an edit that is not

    def update(self, changes: Tensor) -> LowRank | Dense:
        """The one update for the changes ``[n, d_out]``, in factors where these are smaller."""
        if self.primal:
            return Dense(torch.cholesky_solve(self.keys.T @ changes, self.lower)[None])
        right = pad(changes, (0, 0, len(self.known) - len(changes), 0))
        return LowRank(self.known.T[None], torch.cholesky_solve(right, self.lower)[None]).packed()
