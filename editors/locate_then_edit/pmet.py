"""PMET: MEMIT with a value that attention helps to find.

Li et al., "PMET: Precise Model Editing in a Transformer", AAAI 2024,
https://arxiv.org/abs/2308.08742. Two shifts are optimised together, of what attention and the
feed-forward part of the last edited block say at the subject's last token. Only the second is
written: each layer makes ``1 / sqrt(layers left)`` of what that feed-forward part still lacks, by
MEMIT's update. The search has a further rule to stop by, see `Optimisation.kl_stop`.

Departures from the authors' code: whether a target token is the likeliest is asked of its id, not
of two equal probabilities. See also `editors.locate_then_edit.spread`.
"""

from __future__ import annotations

import math

from torch import Tensor

from editors.locate_then_edit.spread import Spread
from editors.locate_then_edit.statistics.solve import ridge
from models.language_model import LanguageModel


class Pmet(Spread):
    """Writes facts together, by the feed-forward part of a joint optimum.

    Args:
        language_model: the model to edit.
        covariance_weight: of the second moments; so many facts the old associations weigh.
        steps: as in `Spread`, and so the next three; the defaults are the authors' for GPT-J.
        lr: see there.
        kl_factor: see there.
        kl_stop: see there.
        spread: what else `Spread` takes.

    Raises:
        ValueError: an argument is not one of the above.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        covariance_weight: float = 6000.0,
        steps: int = 30,
        lr: float = 0.2,
        kl_factor: float = 1.0,
        kl_stop: float | None = 0.01,
        **spread,
    ):
        own = {"steps": steps, "lr": lr, "kl_factor": kl_factor, "kl_stop": kl_stop}
        super().__init__(language_model, **own, **spread)
        if covariance_weight <= 0:
            raise ValueError(f"covariance_weight: expected more than 0, got {covariance_weight}")
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
        return ridge(keys, self.covariance_weight)
