"""NAS: values of the length of those found on the unedited model.

"Norm-Anchored Scaling", 2026, https://arxiv.org/abs/2602.02543. In a long sequence the values that
the search finds grow. Each value ``v*``, what the last edited block's feed-forward part is to say,
becomes ``v* a / |v*|`` with the anchor ``a``, their mean length over pilot requests on the unedited
model. A request whose value is more than twice as long is not made.
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
from editors.locate_then_edit.spread import Spread
from editors.settings import positive

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

    def of(self, editor: Spread) -> float:
        """The anchor, of the unedited model.

        Raises:
            ValueError: there is neither a norm nor a pool to take it of.
        """
        if self.norm is not None:
            return self.norm
        if self.pool is None:
            raise ValueError("nas takes the anchor of a pool: pool=records, or anchor.norm")
        pilots = requests_of(self.pool.records)[: self.pilots]
        values, *_ = parts(editor, editor.values(pilots, len(pilots)), pilots)
        norm = float(values.norm(dim=1).mean())
        logger.info("nas: anchor %.4g, of %d requests", norm, len(pilots))
        return norm

    def target(
        self, editor: Spread, norm: float, values: Tensor, requests: Sequence[Request]
    ) -> Tensor:
        """The block's outputs ``[B, d_out]`` with the feed-forward part's scaled to the anchor."""
        wanted, present, block = parts(editor, values, requests)
        lengths = wanted.norm(dim=1, keepdim=True)
        scaled = wanted * (norm / lengths)
        if self.reject_above is not None:
            rejected = lengths > self.reject_above * norm
            scaled = torch.where(rejected, present, scaled)
            for request in (r for r, no in zip(requests, rejected[:, 0], strict=True) if no):
                logger.warning("%r: its value is too long; not made", request.prompt)
        return block + scaled - present


def parts(
    editor: Spread, values: Tensor, requests: Sequence[Request]
) -> tuple[Tensor, Tensor, Tensor]:
    """What the last edited feed-forward part is to say, what it says, and what its block says.

    Each ``[B, d_out]``, of the bare prompts, on the model as it now is.
    """
    layer, (site,) = editor.layers[-1], editor.sites()
    seen = editor.activations(editor.subjects(requests), [layer, site])
    present, block = (seen[name][1][:, 0].to(values) for name in (layer, site))
    return present + values - block, present, block
