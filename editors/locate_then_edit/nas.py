"""NAS: AlphaEdit whose values have the length of those found on the unedited model.

"Norm-Anchored Scaling", 2026, https://arxiv.org/abs/2602.02543. In a long sequence the values that
the search finds grow. Each value ``v*``, what the last edited block's feed-forward part is to say,
becomes ``v* a / |v*|`` with the anchor ``a``, their mean length over pilot requests on the unedited
model. A request whose value is more than twice as long is not made. Null space, ridge and the keys
of earlier edits are AlphaEdit's.

See also `editors.locate_then_edit.spread`.
"""

# B requests, d_out width of the residual stream

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.pool import Pool
from datamodules.records import Request, requests_of
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.spread import CONTEXTS, SEARCH, Spread
from editors.locate_then_edit.statistics.coordinates import NullSpace, null_space
from editors.locate_then_edit.statistics.moments import Moments
from editors.locate_then_edit.statistics.solve import ridge
from editors.settings import positive
from models.language_model import LanguageModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Anchor:
    """How long values are made.

    Attributes:
        pool: whose first requests are the pilots.
        pilots: how many of them.
        norm: the anchor; None: the mean length of the pilots' values.
        reject_above: a value of more anchors than that is not written; None: all are.

    Raises:
        ValueError: a setting is not above 0.
    """

    pool: Pool | None = None
    pilots: int = 1000
    norm: float | None = None
    reject_above: float | None = 2.0

    def __post_init__(self):
        positive(pilots=self.pilots, norm=self.norm, reject_above=self.reject_above)


class Nas(Spread):
    """Writes facts together as AlphaEdit does, by values of one length.

    Args:
        language_model: the model to edit.
        moments: as in `Spread`, and so the next three.
        layers: see there.
        search: see there.
        contexts: see there.
        threshold: eigenvalues of the second moment below it count as zero; see `AlphaEdit`.
        ridge: weight of the update's size.
        anchor: how long values are made.
        rows_per_batch: see `Spread`.

    Raises:
        ValueError: an argument is not one of the above.
    """

    remembers = True

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        moments: Moments,
        anchor: Anchor,
        layers: Sequence[int] | None = None,
        search: Search = SEARCH,
        contexts: Contexts = CONTEXTS,
        threshold: float = 0.02,
        ridge: float = 10.0,
        rows_per_batch: int = 256,
    ):
        super().__init__(
            language_model,
            moments=moments,
            layers=layers,
            search=search,
            contexts=contexts,
            rows_per_batch=rows_per_batch,
        )
        positive(threshold=threshold, ridge=ridge)
        self.threshold = threshold
        self.ridge = ridge
        self.anchor = anchor
        self._norm = anchor.norm

    def prepare(self) -> None:
        """Also takes the anchor, of the unedited model, once.

        Raises:
            ValueError: there is neither a norm nor a pool to take it of.
        """
        super().prepare()
        if self._norm is None:
            if self.anchor.pool is None:
                raise ValueError("nas takes the anchor of a pool: pool=records, or anchor.norm")
            pilots = requests_of(self.anchor.pool.records)[: self.anchor.pilots]
            values, *_ = self._parts(self.values(pilots, len(pilots)), pilots)
            self._norm = float(values.norm(dim=1).mean())
            logger.info("nas: anchor %.4g, of %d requests", self._norm, len(pilots))

    def fit(self, moment: Tensor, layer: str) -> NullSpace:
        """AlphaEdit's basis of the little used directions."""
        return null_space(moment, self.threshold, layer)

    def solve(self, keys: Tensor) -> Tensor:
        """AlphaEdit's ``K (K^T K + ridge I)^-1``, past keys among K."""
        return ridge(keys, self.ridge)

    def target(self, values: Tensor, requests: Sequence[Request]) -> Tensor:
        """The block's outputs ``[B, d_out]`` with the feed-forward part's scaled to the anchor."""
        assert self._norm is not None  # prepare() took it
        wanted, present, block = self._parts(values, requests)
        lengths = wanted.norm(dim=1, keepdim=True)
        scaled = wanted * (self._norm / lengths)
        if self.anchor.reject_above is not None:
            rejected = lengths > self.anchor.reject_above * self._norm
            scaled = torch.where(rejected, present, scaled)
            for request in (r for r, no in zip(requests, rejected[:, 0], strict=True) if no):
                logger.warning("%r: its value is too long; not made", request.prompt)
        return block + scaled - present

    def _parts(self, values: Tensor, requests: Sequence[Request]) -> tuple[Tensor, Tensor, Tensor]:
        """What the last edited feed-forward part is to say, what it says, and what its block says.

        Each ``[B, d_out]``, of the bare prompts, on the model as it now is.
        """
        layer, (site,) = self.layers[-1], self.sites()
        seen = self.activations(self.subjects(requests), [layer, site])
        present, block = (seen[name][1][:, 0].to(values) for name in (layer, site))
        return present + values - block, present, block
