"""What of a solved update is written: all of it, or what disturbs the weight less.

Each limit is a value that any method on `Spread` takes, and looks at one layer's update, the weight
that it changes, and what earlier edits have changed of it already.
"""

# N edits, d_in/d_out layer widths, q directions

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from editors.settings import positive, shares
from edits.updates import Dense, LowRank

EPSILON = 1e-8
"""Added to a weight, so that one of zero can be divided by."""


class Limit(ABC):
    """Which part of an update is written."""

    @abstractmethod
    def written(self, update: LowRank, weight: Tensor, before: Tensor) -> LowRank | Dense:
        """The part of N updates that is written.

        Args:
            update: as solved.
            weight: ``[d_in, d_out]`` of the unedited model.
            before: ``[d_in, d_out]``, the change that earlier edits have made.
        """


@dataclass(frozen=True)
class Rect(Limit):
    """The entries of the largest ``|D / W|``, the others are zero; W is the weight as it now is.

    Gu et al., "Model Editing Harms General Abilities of Large Language Models: Regularization to
    the Rescue" (RECT), EMNLP 2024, https://arxiv.org/abs/2401.04700.

    Args:
        keep: share of the entries of each update that is kept, above 0 and up to 1.

    Raises:
        ValueError: it is none.
    """

    keep: float = 0.4

    def __post_init__(self):
        positive(keep=self.keep)
        shares(keep=self.keep)

    def written(self, update: LowRank, weight: Tensor, before: Tensor) -> Dense:
        """See `Limit.written`."""
        change = update.dense()
        ratios = (change / (weight + before + EPSILON)).abs().flatten(1)
        count = max(1, round(self.keep * ratios.shape[1]))
        least = ratios.kthvalue(ratios.shape[1] - count + 1, dim=1).values  # [N]
        return Dense(change * (ratios >= least[:, None]).view_as(change))


@dataclass(frozen=True)
class Prune(Limit):
    """Singular values of the whole change stay near the weight's largest, however many the edits.

    Ma et al., "Perturbation-Restrained Sequential Model Editing" (PRUNE), ICLR 2025,
    https://arxiv.org/abs/2405.16821. A singular value s of all that edits have changed, this one
    included, that is above the largest S of the unedited weight becomes ``S + log s - log S``. The
    update is what then takes the earlier change to the restrained one, where code that adds the
    restrained change to the edited weight has it twice.
    """

    def written(self, update: LowRank, weight: Tensor, before: Tensor) -> LowRank | Dense:
        """See `Limit.written`."""
        largest = torch.linalg.matrix_norm(weight.double(), 2)
        left, values, right = torch.linalg.svd((update.dense() + before).double(), False)
        if not (values > largest).any():
            return update
        restrained = torch.where(
            values > largest, largest + values.clamp(min=EPSILON).log() - largest.log(), values
        )
        change = (left * restrained[:, None]) @ right - before.double()
        return Dense(change.to(update.dtype))


@dataclass(frozen=True)
class Sphere(Limit):
    """Less of the directions in which the weight as it now is has most of its rows.

    Liu et al., "SPHERE", 2025, https://arxiv.org/abs/2510.01172. Each output's weights are scaled
    to length 1; U are the leading eigenvectors of their second moment that together hold the share
    ``energy``, and one more. The update ``D`` becomes ``(I - strength U U^T) D``.

    Args:
        strength: from 0, nothing, to 1, all of them is left out; .5 in the paper with AlphaEdit, .8
            with MEMIT.
        energy: share of the eigenvalues' sum.

    Raises:
        ValueError: one is none of these.
    """

    strength: float = 0.5
    energy: float = 0.5

    def __post_init__(self):
        shares(strength=self.strength, energy=self.energy)

    def written(self, update: LowRank, weight: Tensor, before: Tensor) -> LowRank:
        """See `Limit.written`."""
        leading = self.directions(weight + before).to(update.left)  # [d_in, q]
        spared = self.strength * leading @ (leading.T @ update.left)
        return LowRank(update.left - spared, update.right)

    def directions(self, weight: Tensor) -> Tensor:
        """U ``[d_in, q]`` of a weight ``[d_in, d_out]``, float64."""
        rows = weight.double()
        rows = rows / rows.norm(dim=0).clamp(min=EPSILON)
        values, vectors = torch.linalg.eigh(rows @ rows.T)  # ascending
        held = values.flip(0).clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
        count = int((held <= self.energy).sum()) + 1
        return vectors.flip(1)[:, :count]
