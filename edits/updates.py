"""Changes of one linear map, as values: low-rank factors and whole matrices.

Every update is oriented ``[d_in, d_out]``, whatever the layer stores, and holds N edits at once.
"""

# N edits, B rows of a batch, T tokens, r rank, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, eq=False)
class LowRank:
    """N updates in factors: update n is ``left[n] @ right[n]``.

    Args:
        left: ``[N, d_in, r]``.
        right: ``[N, r, d_out]``.

    Raises:
        ValueError: the two do not fit together.
    """

    kind: ClassVar[str] = "low_rank"
    left: Tensor
    right: Tensor

    def __post_init__(self):
        left, right = tuple(self.left.shape), tuple(self.right.shape)
        if not (len(left) == len(right) == 3 and left[0] == right[0] and left[2] == right[1]):
            raise ValueError(
                f"low-rank factors {list(left)} and {list(right)} do not fit; "
                "expected [N, d_in, r] and [N, r, d_out]"
            )

    def __len__(self) -> int:
        return len(self.left)

    @property
    def shape(self) -> tuple[int, int]:
        """``(d_in, d_out)``."""
        return self.left.shape[1], self.right.shape[2]

    @property
    def dtype(self) -> torch.dtype:
        """Of the factors."""
        return self.left.dtype

    def nothing(self, count: int) -> LowRank:
        """``count`` updates of the same layer that change nothing, of rank 0."""
        d_in, d_out = self.shape
        return LowRank(self.left.new_zeros(count, d_in, 0), self.left.new_zeros(count, 0, d_out))

    def select(self, index: Tensor | Sequence[int]) -> LowRank:
        """The edits at ``index``, in that order."""
        index = torch.as_tensor(index, device=self.left.device)
        return LowRank(self.left[index], self.right[index])

    def to(self, device: torch.device, dtype: torch.dtype) -> LowRank:
        """The same updates there; still in the graph."""
        return LowRank(self.left.to(device, dtype), self.right.to(device, dtype))

    def dense(self) -> Tensor:
        """``[N, d_in, d_out]``, at least float32."""
        dtype = torch.promote_types(self.left.dtype, torch.float32)
        return self.left.to(dtype) @ self.right.to(dtype)

    def norm(self) -> Tensor:
        """Frobenius norms ``[N]`` in float64."""
        return self.squared().sqrt()

    def squared(self) -> Tensor:
        """Their squares, from the ``r x r`` Gram matrices of the factors; differentiable."""
        left, right = self.left.double(), self.right.double()
        grams = (left.mT @ left) * (right @ right.mT)  # [N, r, r]
        return grams.sum((1, 2)).clamp_min(0)

    def shared(self) -> Callable[[Tensor], Tensor]:
        """The map ``[..., d_in] -> [..., d_out]`` of the first edit."""
        left, right = self.left[0], self.right[0]
        return lambda x: (x @ left) @ right

    def rowwise(self, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """The map ``[B, T, d_in] -> [B, T, d_out]`` in which row b sees edit ``rows[b]``."""
        each = self.select(rows)
        return lambda x: torch.bmm(torch.bmm(x, each.left), each.right)

    def plus(self, other: LowRank | Dense) -> LowRank | Dense:
        """Both at once: the ranks add up until a whole matrix is the smaller of the two."""
        if isinstance(other, Dense):
            return Dense(self.dense()).plus(other)
        dtype = torch.promote_types(self.left.dtype, other.left.dtype)
        both = LowRank(
            torch.cat([self.left.to(dtype), other.left.to(dtype)], 2),
            torch.cat([self.right.to(dtype), other.right.to(dtype)], 1),
        )
        return both.packed()

    def packed(self) -> LowRank | Dense:
        """The same updates, as whole matrices where that is fewer numbers."""
        d_in, d_out = self.shape
        fewer = self.left.shape[2] * (d_in + d_out) > d_in * d_out
        return Dense(self.dense()) if fewer else self


@dataclass(frozen=True, eq=False)
class Dense:
    """N updates as whole matrices, for methods whose updates have full rank or move the bias.

    Args:
        weight: ``[N, d_in, d_out]``.
        bias: ``[N, d_out]``, added to the layer's bias, or None.

    Raises:
        ValueError: the two do not fit together.
    """

    kind: ClassVar[str] = "dense"
    weight: Tensor
    bias: Tensor | None = None

    def __post_init__(self):
        weight = list(self.weight.shape)
        if len(weight) != 3:
            raise ValueError(f"dense update has shape {weight}; expected [N, d_in, d_out]")
        if self.bias is not None and list(self.bias.shape) != [weight[0], weight[2]]:
            raise ValueError(
                f"bias update has shape {list(self.bias.shape)}; expected {[weight[0], weight[2]]}"
            )

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def shape(self) -> tuple[int, int]:
        """``(d_in, d_out)``."""
        return self.weight.shape[1], self.weight.shape[2]

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrices."""
        return self.weight.dtype

    def nothing(self, count: int) -> LowRank:
        """As `LowRank.nothing`."""
        d_in, d_out = self.shape
        zeros = self.weight.new_zeros
        return LowRank(zeros(count, d_in, 0), zeros(count, 0, d_out))

    def select(self, index: Tensor | Sequence[int]) -> Dense:
        """The edits at ``index``, in that order."""
        index = torch.as_tensor(index, device=self.weight.device)
        return Dense(self.weight[index], None if self.bias is None else self.bias[index])

    def to(self, device: torch.device, dtype: torch.dtype) -> Dense:
        """The same updates there; still in the graph."""
        bias = None if self.bias is None else self.bias.to(device, dtype)
        return Dense(self.weight.to(device, dtype), bias)

    def dense(self) -> Tensor:
        """``[N, d_in, d_out]``, at least float32; without the bias."""
        return self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))

    def packed(self) -> Dense:
        """The same updates: they are whole matrices."""
        return self

    def norm(self) -> Tensor:
        """Frobenius norms ``[N]`` of the weights in float64; the bias does not count."""
        return self.weight.flatten(1).double().norm(dim=1)

    def squared(self) -> Tensor:
        """Their squares; differentiable."""
        return self.weight.flatten(1).double().square().sum(1)

    def shared(self) -> Callable[[Tensor], Tensor]:
        """The map ``[..., d_in] -> [..., d_out]`` of the first edit."""
        weight = self.weight[0]
        if self.bias is None:
            return lambda x: x @ weight
        bias = self.bias[0]
        return lambda x: x @ weight + bias

    def rowwise(self, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """The map ``[B, T, d_in] -> [B, T, d_out]`` in which row b sees edit ``rows[b]``.

        Rows are grouped by edit, since a matrix per row would be a copy of the layer per row.
        """
        counts = torch.bincount(rows, minlength=len(self)).tolist()
        order = rows.argsort(stable=True)
        back = order.argsort()
        weights = self.weight.unbind(0)
        bias = None if self.bias is None else self.bias[rows].unsqueeze(1)  # [B, 1, d_out]

        def apply(x: Tensor) -> Tensor:
            groups = x[order].split(counts)
            products = [group @ w for group, w in zip(groups, weights, strict=True)]
            shift = torch.cat(products)[back]
            return shift if bias is None else shift + bias

        return apply

    def plus(self, other: LowRank | Dense) -> Dense:
        """Both at once."""
        bias = other.bias if isinstance(other, Dense) else None
        if self.bias is not None:
            bias = self.bias if bias is None else self.bias + bias
        return Dense(self.dense() + other.dense(), bias)


UPDATES = MappingProxyType({LowRank.kind: LowRank, Dense.kind: Dense})
"""By the name that they have in files."""


def stacked(updates: Sequence[LowRank | Dense]) -> LowRank | Dense:
    """One update with all edits; lower ranks are filled up with zeros."""
    factors = [update for update in updates if isinstance(update, LowRank)]
    if len(factors) < len(updates):
        return _stacked_dense(updates)
    rank = max(update.left.shape[2] for update in factors)
    gaps = [rank - update.left.shape[2] for update in factors]
    return LowRank(
        torch.cat([pad(u.left, (0, gap)) for u, gap in zip(factors, gaps, strict=True)]),
        torch.cat([pad(u.right, (0, 0, 0, gap)) for u, gap in zip(factors, gaps, strict=True)]),
    )


def _stacked_dense(updates: Sequence[LowRank | Dense]) -> Dense:
    weight = torch.cat([update.dense() for update in updates])
    biases = [update.bias if isinstance(update, Dense) else None for update in updates]
    if all(bias is None for bias in biases):
        return Dense(weight)
    zeros = weight.new_zeros(1, weight.shape[2])
    return Dense(
        weight,
        torch.cat(
            [
                zeros.expand(len(u), -1) if b is None else b
                for u, b in zip(updates, biases, strict=True)
            ]
        ),
    )
