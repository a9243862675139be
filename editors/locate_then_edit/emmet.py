"""EMMET: many facts at once, met exactly, at the least change of all other outputs.

Gupta et al., "A Unified Framework for Model Editing", Findings of EMNLP 2024,
https://arxiv.org/abs/2403.14236. Of all updates that give the keys K the missing outputs R, one a
row, ``C^-1 K^T (K C^-1 K^T)^-1 R`` changes the outputs of the keys with second moment C least:
ROME's solution for a batch. Value, residuals and shares are MEMIT's.

With ``epsilon`` the authors' code adds ``epsilon I`` to ``K C^-1 K^T`` of two and more facts. Then
nothing is met exactly any more: it is MEMIT, with ``epsilon`` as the weight of the second moments.

Departures from the authors' code: keys that depend on each other are an error instead of a
pseudo-inverse. See also `editors.locate_then_edit.spread`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from editors.locate_then_edit.limits import Limit
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.spread import CONTEXTS, SEARCH, Spread
from editors.locate_then_edit.statistics.moments import Moments
from editors.locate_then_edit.statistics.solve import ridge
from editors.settings import at_least
from models.language_model import LanguageModel

logger = logging.getLogger(__name__)


class Emmet(Spread):
    """Writes facts together, under equality constraints.

    Args:
        language_model: the model to edit.
        moments: as in `Spread`, and so the next three.
        layers: see there.
        search: see there.
        contexts: see there.
        epsilon: 0 is the method; more makes it MEMIT with this weight, for two and more facts.
        same_key: see `Spread`.
        limit: see there.
        rows_per_batch: see there.

    Raises:
        ValueError: an argument is not one of the above.
    """

    blocks_by_default = 1

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        moments: Moments,
        layers: Sequence[int] | None = None,
        search: Search = SEARCH,
        contexts: Contexts = CONTEXTS,
        epsilon: float = 0.0,
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
        at_least(0, epsilon=epsilon)
        if epsilon:
            logger.warning(
                "emmet with epsilon=%g has no equality constraints: "
                "edits of several requests are those of memit with covariance_weight=%g",
                epsilon,
                epsilon,
            )
        self.epsilon = epsilon

    def check(self, count: int) -> None:
        """Refuse more requests than a layer has inputs: not all can be met.

        Raises:
            ValueError: they are more, and there is no `epsilon`.
        """
        for layer in self.layers:
            inputs, _ = self.language_model.shape(layer)
            if count > inputs and not self.epsilon:
                raise ValueError(
                    f"{count} requests cannot be met exactly by {layer!r}, which has {inputs} "
                    "inputs: edit in smaller batches, or with MEMIT"
                )

    def solve(self, keys: Tensor) -> Tensor:
        """``(K K^T)^-1 K``, C being the identity here."""
        return ridge(keys, self.epsilon if keys.shape[1] > 1 else 0.0)
