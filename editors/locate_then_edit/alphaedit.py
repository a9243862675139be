"""AlphaEdit: MEMIT restricted to directions that keys hardly use, for many edits in a row.

Fang et al., "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models", ICLR 2025,
https://arxiv.org/abs/2410.02355. With Q the eigenvectors of the second moment whose eigenvalues are
below a threshold, and P the keys of earlier edits, each layer's update is
``Q (Q^T (K^T K + P^T P) Q + ridge I)^-1 Q^T K^T R``. That is the paper's equation 14 with the
projection ``Q Q^T``, in the basis Q. Value, residuals and shares are MEMIT's. Keys of an edit are
taken again once all its layers are written; the edit carries them.

Departures from the authors' code: ``eigh`` in float64 instead of a float32 SVD, and a symmetric
solve; a later edit of the same subject is held back by the keys of the earlier one, as in theirs,
unless ``same_key`` is given.
See also `editors.locate_then_edit.spread`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from editors.locate_then_edit.spread import Spread
from editors.locate_then_edit.statistics.solve import ridge
from models.language_model import LanguageModel

logger = logging.getLogger(__name__)


class AlphaEdit(Spread):
    """Writes facts together, in the near null space of the keys of everything else.

    Args:
        language_model: the model to edit.
        threshold: eigenvalues of the second moment below it count as zero. It is on the scale of
            the model's squared keys, so that no value suits all models.
        ridge: weight of the update's size; 1 in the paper, 10 in its code.
        spread: what `Spread` takes.

    Raises:
        ValueError: an argument is not one of the above.
    """

    remembers = True

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        threshold: float = 0.02,
        ridge: float = 10.0,
        **spread,
    ):
        super().__init__(language_model, **spread)
        for name, value in {"threshold": threshold, "ridge": ridge}.items():
            if value <= 0:
                raise ValueError(f"{name}: expected more than 0, got {value}")
        self.threshold = threshold
        self.ridge = ridge

    def fit(self, moment: Tensor, layer: str) -> NullSpace:
        """The basis Q of the little used directions."""
        return null_space(moment, self.threshold, layer)

    def solve(self, keys: Tensor) -> Tensor:
        """``K (K^T K + ridge I)^-1``, past keys among K."""
        return ridge(keys, self.ridge)


@dataclass(frozen=True)
class NullSpace:
    """Orthonormal directions ``[d, r]`` float64 that keys hardly use, as coordinates."""

    basis: Tensor

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
