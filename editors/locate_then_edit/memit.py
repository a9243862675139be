"""MEMIT: many facts at once, by ridge regression in several feed-forward projections.

Meng et al., "Mass-Editing Memory in a Transformer", ICLR 2023, https://arxiv.org/abs/2210.07229.
Each layer's update is ``(weight C + K^T K)^-1 K^T R`` (equation 14), with the keys K and residuals
R one a row: the old associations, with second moment C, count as ``weight`` facts. The value is
optimised in the residual stream behind the last of the layers, and each layer makes an equal share
of what is missing.

With ``history`` the keys P of earlier edits are spared too:
``(weight C + P^T P + K^T K)^-1 K^T R``, as in the code of AlphaEdit (Fang et al., ICLR 2025,
https://arxiv.org/abs/2410.02355), which compares the two.

Departures from the authors' code: see `editors.locate_then_edit.spread`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from editors.locate_then_edit.limits import Limit
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.spread import CONTEXTS, SEARCH, Spread, in_proportion
from editors.locate_then_edit.statistics.moments import Moments
from editors.locate_then_edit.statistics.solve import ridge
from editors.settings import positive
from models.language_model import LanguageModel

WEIGHT = 15000.0
"""The authors' weight of the second moments, for GPT-J."""


class Memit(Spread):
    """Writes facts together, each layer its equal share of them.

    Args:
        language_model: the model to edit.
        moments: as in `Spread`, and so the next three.
        layers: see there.
        search: see there.
        contexts: see there.
        covariance_weight: of the second moments; so many facts the old associations weigh. None:
            the authors' for GPT-J, 15,000, in proportion to the layer's inputs.
        history: whether an edit after another one spares the keys of the first as well.
        same_key: see `Spread`.
        limit: see there.
        rows_per_batch: see there.

    Raises:
        ValueError: an argument is not one of the above.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        moments: Moments,
        layers: Sequence[int] | None = None,
        search: Search = SEARCH,
        contexts: Contexts = CONTEXTS,
        covariance_weight: float | None = None,
        history: bool = False,
        same_key: float | None = None,
        limit: Limit | None = None,
        rows_per_batch: int = 256,
    ):
        super().__init__(
            language_model,
            moments=moments,
            layers=layers,
            search=search,
            contexts=contexts,
            same_key=same_key,
            limit=limit,
            rows_per_batch=rows_per_batch,
        )
        if covariance_weight is not None:
            positive(covariance_weight=covariance_weight)
        self.covariance_weight = covariance_weight
        self.history = history

    @property
    def remembers(self) -> bool:
        """With history."""
        return self.history

    def solve(self, keys: Tensor) -> Tensor:
        """``K (weight C + K^T K)^-1``, C being the identity here."""
        return ridge(keys, self.covariance_weight or in_proportion(WEIGHT, keys.shape[1]))
