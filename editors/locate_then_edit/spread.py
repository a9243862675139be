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
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from datamodules.records import Request
from editors.editor import Group
from editors.locate_then_edit.closed_form import ClosedForm, default_blocks, warn_of_doubtful
from editors.locate_then_edit.keys import Subjects, alike, cosines, halved
from editors.locate_then_edit.limits import Limit
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.latent import optimise
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.statistics.coordinates import Coordinates
from editors.locate_then_edit.statistics.moments import Moments
from edits.updates import Dense, LowRank
from edits.weights import WeightEdit
from models.hooks import full_precision, widened
from models.language_model import LanguageModel

logger = logging.getLogger(__name__)

SEARCH = Search(steps=25, clamp=0.75)
"""MEMIT's for GPT-J."""
CONTEXTS = Contexts(lengths=((10, 5),))
"""The authors' sampled contexts: five of 10 tokens."""
GPTJ_INPUTS = 16384
"""Of the layers that MEMIT and PMET edit in GPT-J."""


def in_proportion(weight: float, inputs: int) -> float:
    """What a weight of the second moments, chosen for GPT-J, is for layers of other widths.

    Of a usual key k, ``k^T C^-1 k`` is near the number d of inputs, so that a layer makes about
    ``d / (weight + d)`` of its share of one fact: the same part of it, whatever the width.
    """
    return weight * inputs / GPTJ_INPUTS


class Spread(ClosedForm):
    """Writes facts into the second feed-forward projections of several blocks.

    Args:
        language_model: the model to edit.
        moments: the second moments of keys.
        layers: the edited blocks, from the lowest up; None: as many as the method takes by default,
            the last of them a third up.
        search: how values are searched for.
        contexts: what prompts are put into.
        same_key: requests of one edit whose keys have a cosine above this, as those of one subject
            do, get one value for all of them (.99 where subjects open the prompts), and past keys
            that are like a new one are not spared, since its value starts from the model as edited
            by then; None: each has its own, and where keys are nearly equal least squares gives a
            mean of them.
        limit: which part of each layer's update is written; None: all of it. What a layer lacks is
            left to the layers above.
        rows_per_batch: bounds the memory taken; results do not depend on it.

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
        moments: Moments,
        layers: Sequence[int] | None = None,
        search: Search = SEARCH,
        contexts: Contexts = CONTEXTS,
        same_key: float | None = None,
        limit: Limit | None = None,
        rows_per_batch: int = 256,
    ):
        if moments is None:
            raise ValueError(f"{self.name} takes moments: the second moments of a corpus")
        if same_key is not None and not 0 < same_key < 1:
            raise ValueError(f"same_key must be a cosine between 0 and 1, got {same_key}")
        if layers is None:
            layers = default_blocks(language_model.blocks, self.blocks_by_default)
        super().__init__(
            language_model,
            blocks=layers,
            search=search,
            contexts=contexts,
            moments=moments,
            rows_per_batch=rows_per_batch,
        )
        self.same_key = same_key
        self.limit = limit
        if limit is not None:
            self.name = type(limit).__name__.lower()

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
        """The part of the residual that a layer makes, with ``left`` layers to write, it included.

        MEMIT's: equal shares.
        """
        return 1 / left

    def check(self, count: int) -> None:
        """Refuse, before anything is computed, an edit of more requests than there can be."""

    def coordinates(self, layer: str, past: Tensor) -> Coordinates:
        """Those in which a layer is solved, given past keys ``[p, d_in]``; by default of `fit`."""
        return self.fitted[layer]

    def target(self, values: Tensor, requests: Sequence[Request]) -> Tensor:
        """The values ``[B, d_out]`` to write, given those of the search; by default the same."""
        return values

    # what they share

    @torch.no_grad()
    def write(self, groups: Sequence[Group], after: WeightEdit | None) -> WeightEdit:
        """N edits, each solved for all its n requests together."""
        model, edits = self.language_model, len(groups)
        requests = [request for group in groups for request in group]
        self.check(len(groups[0]))
        warn_of_doubtful(model, requests)
        past = self._past(after)
        subjects = self.subjects(requests)
        values = self.target(self.values(requests, edits, subjects), requests)
        updates: dict[str, LowRank | Dense] = {}
        edit: WeightEdit | None = None
        for layer in self.layers:
            solution = self._solution(subjects, values, edits, edit, past)
            update = self._written(layer, solution, after).packed()
            updates[layer] = update.to(model.device, values.dtype)
            edit = WeightEdit(dict(updates), self.name, model.fingerprint)
        assert edit is not None  # there is a layer at least
        if not self.remembers:
            return edit
        pairs = self.activations(subjects, self.layers, edits, edit)
        keys = {name: halved(key).unflatten(0, (edits, -1)) for name, (key, _) in pairs.items()}
        return WeightEdit(updates, self.name, model.fingerprint, keys)

    def subjects(self, requests: Sequence[Request]) -> Subjects:
        """The requests in all contexts, as the model reads them."""
        model, first = self.language_model, self.blocks[0]
        return Subjects(model, requests, self.templates, first, self.rows_per_batch)

    def values(
        self, requests: Sequence[Request], edits: int, subjects: Subjects | None = None
    ) -> Tensor:
        """``z`` of each request of so many edits, ``[B, d_out]``."""
        sites = self.sites()
        latent = optimise(
            self.language_model,
            requests,
            self.templates,
            sites,
            self.search,
            self.rows_per_batch,
            self._shared(subjects or self.subjects(requests), edits),
        )
        return latent.value(sites[0])

    def activations(
        self,
        subjects: Subjects,
        layers: Sequence[str],
        edits: int = 1,
        edit: WeightEdit | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Keys and outputs of modules in all contexts, each request in the model with its edit."""
        around, (requests, contexts, _) = None, subjects.shape
        if edit is not None:
            rows = torch.arange(edits).repeat_interleave(requests // edits * contexts)
            around = edit.around(self.language_model, rows)
        return subjects.keys(layers, around)

    def _solution(
        self,
        subjects: Subjects,
        values: Tensor,
        edits: int,
        edit: WeightEdit | None,
        past: Mapping[str, Tensor],
    ) -> LowRank:
        """The update of the first layer that is not in ``edit`` yet."""
        (site, *_), done = self.sites(), 0 if edit is None else len(edit.updates)
        layer = self.layers[done]
        pairs = self.activations(subjects, list(dict.fromkeys([layer, site])), edits, edit)
        keys = halved(pairs[layer][0]).unflatten(0, (edits, -1)).double()  # [N, n, d_in]
        missing = values.double() - pairs[site][1][:, 0].double()
        residuals = self.share(len(self.layers) - done) * missing.unflatten(0, (edits, -1))
        spared = self._spared(past[layer].to(keys), keys) if layer in past else keys[:, :0]
        with full_precision(self.language_model.device):
            coordinates = self.coordinates(layer, past[layer][0] if layer in past else keys[0, :0])
            solved = self.solve(coordinates.into(torch.cat([spared, keys], dim=1)))
            solved = coordinates.back(solved[:, spared.shape[1] :])
        return LowRank(solved.mT, residuals)

    def _written(self, layer: str, update: LowRank, after: WeightEdit | None) -> LowRank | Dense:
        """The part of a layer's update that is written on top of ``after``."""
        if self.limit is None:
            return update
        weight = widened(self.language_model.weight(layer)).to(update.left)
        before = torch.zeros_like(weight)
        if after is not None and layer in after.updates:
            before = after.updates[layer].dense()[0].to(weight)
        return self.limit.written(update, weight, before)

    def _past(self, after: WeightEdit | None) -> Mapping[str, Tensor]:
        """The keys of the edit made before, if this method spares any."""
        if after is None or not self.remembers:
            return {}
        if not after.past_keys:
            logger.warning("the edit made before remembers no keys; %s spares none", self.name)
        return after.past_keys

    def _spared(self, past: Tensor, keys: Tensor) -> Tensor:
        """Past keys ``[1, p, d_in]`` but those that new ones ``[1, n, d_in]`` take the place of."""
        if self.same_key is None:
            return past
        return past[:, (cosines(past[0], keys[0]) <= self.same_key).all(1)]

    def _shared(self, subjects: Subjects, edits: int) -> list[int] | None:
        """For each request the first of its edit that it shares a value with; None: all alone."""
        count, last = subjects.shape[0] // edits, self.layers[-1]
        if self.same_key is None or count == 1:
            return None
        keys = halved(self.activations(subjects, [last])[last][0]).split(count)
        firsts = [alike(group, self.same_key) for group in keys]
        return [number * count + at for number, group in enumerate(firsts) for at in group]
