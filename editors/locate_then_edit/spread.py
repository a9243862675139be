"""One change spread over several blocks: the course that MEMIT and its successors share.

MEMIT (Meng et al., ICLR 2023, https://arxiv.org/abs/2210.07229), algorithm 1: a value ``z`` is
optimised at the last of the edited blocks; then, from the lowest block up, each one is to make its
share of what is still missing, with keys and residuals of the model as written so far.

N edits of n requests each are made at once. One edit of many requests is N = 1; independent edits
are n = 1, each of them seen by its own rows only, so that N of them take as many passes as one.

Departures from the authors' code: contexts are sampled from the start token, not from five words,
and from a seed; second moments are factored in float64, with a ridge where needed.
"""

# N edits, n requests of each, B = N * n, m contexts, p past keys

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from datamodules.records import Request
from editors.locate_then_edit.blocks import default_blocks
from editors.locate_then_edit.closed_form import ClosedForm
from editors.locate_then_edit.doubts import warn_of_doubtful
from editors.locate_then_edit.keys import alike, cosines, halved, subject_keys
from editors.locate_then_edit.search.latent import optimise
from edits.weights import LowRank, WeightEdit
from models.language_model import LanguageModel
from models.sites import full_precision

logger = logging.getLogger(__name__)

LENGTHS = ((10, 5),)
"""The authors' sampled contexts: five of 10 tokens."""


class Spread(ClosedForm):
    """Writes facts into the second feed-forward projections of several blocks.

    Args:
        language_model: the model to edit.
        layers: the edited blocks, from the lowest up; None: as many as the method takes by default,
            the last of them a third up.
        same_key: requests of one edit whose keys have a cosine above this, as those of one subject
            do, get one value for all of them (.99 where subjects open the prompts), and past keys
            that are like a new one are not spared, its value being found on what the model says by
            then; None: each has its own, and where keys are nearly equal least squares finds a mean
            of them.
        shared: what else `ClosedForm` takes; the defaults are MEMIT's for GPT-J.

    Raises:
        ValueError: an argument is not one of the above.
        UnsupportedModel: the model is an encoder-decoder.
    """

    remembers = False
    """Whether an edit carries its keys, for later edits to spare them."""
    blocks_by_default: ClassVar[int] = 5

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        layers: Sequence[int] | None = None,
        steps: int = 25,
        clamp: float = 0.75,
        same_key: float | None = None,
        context_lengths: Sequence[tuple[int, int]] = LENGTHS,
        **shared,
    ):
        if layers is None:
            layers = default_blocks(language_model.blocks, self.blocks_by_default)
        own = {"steps": steps, "clamp": clamp, "context_lengths": context_lengths}
        super().__init__(language_model, blocks=layers, **own, **shared)
        if same_key is not None and not 0 < same_key < 1:
            raise ValueError(f"same_key: expected a cosine between 0 and 1, got {same_key}")
        self.same_key = same_key

    # what methods differ in

    @abstractmethod
    def solve(self, keys: Tensor) -> Tensor:
        """``[N, k, r]`` whose transpose times the residuals ``[N, k, d_out]`` is the update.

        Args:
            keys: ``[N, k, r]`` float64, in the coordinates of `fit`.
        """

    def sites(self) -> list[str]:
        """Modules whose output is shifted to find the value; the first is to come to its value.

        MEMIT's: the residual stream behind the last edited block.
        """
        return [self.language_model.block(self.blocks[-1])]

    def share(self, left: int) -> float:
        """The part of the residual that a layer makes, ``left`` still being to write, it included.

        MEMIT's: equal shares.
        """
        return 1 / left

    def check(self, count: int) -> None:
        """Refuse, before anything is computed, an edit of more requests than there can be."""

    # what they share

    def edit(self, requests: Sequence[Request], after: WeightEdit | None = None) -> WeightEdit:
        """One edit for all requests, solved together.

        Raises:
            ValueError: there is no request, or more than one edit can hold.
        """
        self.check(len(requests))
        self._ready(requests)
        if after is None:
            return self._written(requests, 1, {})
        if self.remembers and not after.past_keys:
            logger.warning("the edit made before remembers no keys; %s spares none", self.name)
        with after.hooks(self.language_model):
            written = self._written(requests, 1, after.past_keys if self.remembers else {})
        return after.plus(written)

    def edit_each(self, requests: Sequence[Request]) -> WeightEdit:
        """N independent edits of the clean model.

        Raises:
            ValueError: there is no request.
        """
        self._ready(requests)
        return self._written(requests, len(requests), {})

    @torch.no_grad()
    def _written(
        self, requests: Sequence[Request], edits: int, past: dict[str, Tensor]
    ) -> WeightEdit:
        """``edits`` edits of as many requests each, on the model with the hooks that are on it."""
        model, (site, *_) = self.language_model, self.sites()
        warn_of_doubtful(model, requests)
        values = self._values(requests, edits)  # [B, d_out]
        written = None
        for done, layer in enumerate(self.layers):
            seen = self._seen(requests, list(dict.fromkeys([layer, site])), edits, written)
            keys = halved(seen[layer][0]).unflatten(0, (edits, -1)).double()  # [N, n, d_in]
            missing = values.double() - seen[site][1][:, 0].double()
            residuals = self.share(len(self.layers) - done) * missing.unflatten(0, (edits, -1))
            known = self._spared(past[layer].to(keys), keys) if layer in past else keys[:, :0]
            with full_precision(model.device):
                coordinates = self.fitted[layer]
                solved = self.solve(coordinates.into(torch.cat([known, keys], dim=1)))
                solved = coordinates.back(solved[:, known.shape[1] :])
            update = LowRank(solved.mT, residuals).packed().to(model.device, values.dtype)
            updates = {layer: update} if written is None else {**written.updates, layer: update}
            written = WeightEdit(updates, self.name, model.fingerprint)
        if not self.remembers:
            return written
        seen = self._seen(requests, self.layers, edits, written)
        keys = {name: halved(pair[0]).unflatten(0, (edits, -1)) for name, pair in seen.items()}
        return WeightEdit(written.updates, self.name, model.fingerprint, keys)

    def _spared(self, past: Tensor, keys: Tensor) -> Tensor:
        """Past keys ``[1, p, d_in]`` but those that new ones ``[1, n, d_in]`` take the place of."""
        if self.same_key is None:
            return past
        return past[:, (cosines(past[0], keys[0]) <= self.same_key).all(1)]

    def _values(self, requests: Sequence[Request], edits: int) -> Tensor:
        """``z`` of each request, ``[B, d_out]``."""
        model, sites, shared = self.language_model, self.sites(), None
        if self.same_key is not None and edits == 1:
            last = self.layers[-1]
            keys = halved(self._seen(requests, [last], 1, None)[last][0])
            shared = alike(keys, self.same_key)
        latent = optimise(
            model, requests, self._texts, sites, self.optimisation, self.rows_per_batch, shared
        )
        return latent.value(sites[0])

    def _seen(
        self,
        requests: Sequence[Request],
        layers: Sequence[str],
        edits: int,
        written: WeightEdit | None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Keys and outputs of modules, each request in the model with its edit of ``written``."""
        model, contexts = self.language_model, self._texts
        around = None
        if written is not None:
            rows = torch.arange(edits).repeat_interleave(len(requests) // edits * len(contexts))
            around = written.around(model, rows)
        return subject_keys(model, requests, contexts, layers, self.rows_per_batch, around)
