"""PMET: MEMIT with a value that attention helps to find.

Li et al., "PMET: Precise Model Editing in a Transformer", AAAI 2024,
https://arxiv.org/abs/2308.08742. Two shifts are optimised together, of what attention and the
feed-forward part of the last edited block say at the subject's last token. Only the second is
written: each layer makes ``1 / sqrt(layers left)`` of what that feed-forward part still lacks, by
MEMIT's update. The search has a further rule to stop by, see `Search.kl_stop`.

Departures from the authors' code: whether a target token is the likeliest is asked of its id, not
of two equal probabilities. See also `editors.locate_then_edit.spread`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from editors.locate_then_edit.limits import Limit
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.spread import CONTEXTS, Spread, in_proportion
from editors.locate_then_edit.statistics.moments import Moments
from editors.locate_then_edit.statistics.solve import ridge
from editors.settings import positive
from models.language_model import LanguageModel

SEARCH = Search(steps=30, lr=0.2, clamp=0.75, kl_factor=1.0, kl_stop=0.01)
"""The authors' for GPT-J."""
WEIGHT = 6000.0
"""Theirs of the second moments, for GPT-J."""


class Pmet(Spread):
    """Writes facts together, by the feed-forward part of a joint optimum.

    Args:
        language_model: the model to edit.
        moments: as in `Spread`, and so the next three.
        layers: see there.
        search: see there.
        contexts: see there.
        covariance_weight: of the second moments; so many facts the old associations weigh. None:
            the authors' for GPT-J, 6,000, in proportion to the layer's inputs.
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

    def sites(self) -> list[str]:
        """What the two parts of the last edited block add to the residual stream."""
        roles = ("mlp_out", "attn_out")
        return [self.language_model.layer(role, self.blocks[-1]) for role in roles]

    def share(self, left: int) -> float:
        """More than equal shares: the lower layers act through the residual stream alone."""
        return 1 / math.sqrt(left)

    def solve(self, keys: Tensor) -> Tensor:
        """``K (weight C + K^T K)^-1``, C being the identity here."""
        return ridge(keys, self.covariance_weight or in_proportion(WEIGHT, keys.shape[1]))
