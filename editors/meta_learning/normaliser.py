"""Running mean and standard deviation of rows, merged chunk by chunk.

Chan, Golub, LeVeque: "Updating formulae and a pairwise algorithm for computing sample variances"
(1979). One merge gives what taking in the rows one by one would.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist

EPSILON = 1e-7


class Normaliser(nn.Module):
    """Standardises rows ``[n, d]`` with the statistics of all rows it has taken in.

    Args:
        width: d.
        floor: smallest standard deviation, as a share of the median over the d dimensions; 0 for
            none. Without it a dimension that never varies is divided by ``EPSILON`` alone.
    """

    count: Tensor  # [], rows taken in
    mean: Tensor  # [d]
    m2: Tensor  # [d], sum of squared deviations from the mean

    def __init__(self, width: int, floor: float = 0.0):
        super().__init__()
        self.floor = floor
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("m2", torch.zeros(width))

    @torch.no_grad()
    def update(self, rows: Tensor, gather: bool = False) -> None:
        """Take in ``rows``; with ``gather`` also those of the other processes."""
        count = torch.tensor(len(rows), device=rows.device)
        mean = rows.mean(0) if len(rows) else torch.zeros_like(self.mean)
        chunk = torch.cat([count[None].to(rows.dtype), mean, (rows - mean).square().sum(0)])
        width = len(self.mean)
        for part in _from_all_processes(chunk) if gather else [chunk]:
            self._merge(part[0].round().long(), part[1 : 1 + width], part[1 + width :])

    def _merge(self, count: Tensor, mean: Tensor, m2: Tensor) -> None:
        shift = mean - self.mean
        share = count.to(mean.dtype) / (self.count + count).clamp(min=1)
        self.mean += shift * share
        self.m2 += m2 + shift.square() * share * self.count
        self.count += count

    @property
    def std(self) -> Tensor:
        """Standard deviations ``[d]`` (n - 1 in the denominator).

        Raises:
            ValueError: fewer than two rows were taken in.
        """
        if self.count < 2:
            raise ValueError(
                f"a standard deviation needs 2 rows or more, but {int(self.count)} were taken in: "
                "train the editor, load a checkpoint, or collect statistics over some requests"
            )
        std = (self.m2 / (self.count - 1)).sqrt()
        return std.clamp(min=self.floor * std.median()) if self.floor else std

    def forward(self, rows: Tensor) -> Tensor:
        """``rows`` [n, d] in units of the standard deviation around the mean."""
        return (rows - self.mean) / (self.std + EPSILON)


def _from_all_processes(chunk: Tensor) -> list[Tensor]:
    """``chunk`` of every process, in order of rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return [chunk]
    chunks = [torch.empty_like(chunk) for _ in range(dist.get_world_size())]
    dist.all_gather(chunks, chunk)
    return chunks
