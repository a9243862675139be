"""RECT: MEMIT whose updates keep only the entries that change most for their size.

Gu et al., "Model Editing Harms General Abilities of Large Language Models: Regularization to the
Rescue", EMNLP 2024, https://arxiv.org/abs/2401.04700. Of an update ``D`` of a weight ``W`` a share
of the entries is kept, those with the largest ``|D / W|``; the others are zero. Value, residuals,
shares and update are MEMIT's.

Departures from the authors' code: ``W`` is the weight as it now is, edits made before included. See
also `editors.locate_then_edit.spread`.
"""

# N edits, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.spread import CONTEXTS, SEARCH, Spread
from editors.locate_then_edit.statistics.moments import Moments
from editors.locate_then_edit.statistics.solve import ridge
from editors.settings import positive, shares
from edits.updates import Dense, LowRank
from edits.weights import WeightEdit
from models.hooks import widened
from models.language_model import LanguageModel

EPSILON = 1e-8
"""Added to a weight, so that one of zero can be divided by."""


class Rect(Spread):
    """Writes facts together, by the entries that change most relative to the weight.

    Args:
        language_model: the model to edit.
        moments: as in `Spread`, and so the next three.
        layers: see there.
        search: see there.
        contexts: see there.
        covariance_weight: of the second moments; so many facts the old associations weigh.
        keep: share of an update's entries that are kept, above 0 and up to 1, which is MEMIT.
        same_key: see `Spread`.
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
        covariance_weight: float = 15000.0,
        keep: float = 0.4,
        same_key: float | None = None,
        rows_per_batch: int = 256,
    ):
        super().__init__(
            language_model,
            moments=moments,
            layers=layers,
            search=search,
            contexts=contexts,
            same_key=same_key,
            rows_per_batch=rows_per_batch,
        )
        positive(covariance_weight=covariance_weight, keep=keep)
        shares(keep=keep)
        self.covariance_weight = covariance_weight
        self.keep = keep

    def solve(self, keys: Tensor) -> Tensor:
        """MEMIT's ``K (weight C + K^T K)^-1``, C being the identity here."""
        return ridge(keys, self.covariance_weight)

    def written(self, layer: str, update: LowRank, after: WeightEdit | None) -> LowRank | Dense:
        """The update's entries of the largest ``|D / W|``, so many of each edit."""
        change = update.dense()  # [N, d_in, d_out]
        weight = widened(self.language_model.weight(layer)).to(change)
        if after is not None and layer in after.updates:
            weight = weight + after.updates[layer].dense()[0].to(change)
        ratios = (change / (weight + EPSILON)).abs().flatten(1)
        count = max(1, round(self.keep * ratios.shape[1]))
        least = ratios.kthvalue(ratios.shape[1] - count + 1, dim=1).values  # [N]
        kept = ratios >= least[:, None]
        return Dense(change * kept.view_as(change))
