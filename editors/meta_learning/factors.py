"""The rank-1 factors of a request's gradient: each layer's keys and deltas, token by token.

The gradient of a loss for a weight ``[d_in, d_out]`` is ``sum_t key_t delta_t^T``. One backward
pass gives the factors of B requests if the loss is the sum over them of each one's token mean.
"""

# B requests, T tokens, n rows, K most rows of one request

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from datamodules.records import Request
from editors.descent import means
from editors.meta_learning.batches import (
    parts_by_length,
    predicted,
    predicting,
    without_last,
)
from editors.meta_learning.losses import nll
from edits.updates import Dense, LowRank
from edits.weights import WeightEdit
from models.capture import captured
from models.encoding import Batch
from models.hooks import compute_dtype
from models.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class Factors:
    """One layer's rows of B requests, in order of request.

    Attributes:
        keys: ``[n, d_in]``, the layer's inputs.
        deltas: ``[n, d_out]``, the gradients at its outputs.
        request: ``[n]``, which request each row belongs to.
        requests: B.
    """

    keys: Tensor
    deltas: Tensor
    request: Tensor
    requests: int

    def to(self, dtype: torch.dtype) -> Factors:
        """The same factors, in another precision."""
        return replace(self, keys=self.keys.to(dtype), deltas=self.deltas.to(dtype))

    def padded(self, values: Tensor) -> Tensor:
        """``values`` [n, d] as ``[B, K, d]``, rows of zeros where a request has fewer than K."""
        counts = torch.bincount(self.request, minlength=self.requests)
        starts = counts.cumsum(0) - counts
        place = torch.arange(len(values), device=values.device) - starts[self.request]
        width = int(counts.max())
        padded = values.new_zeros(self.requests * width, values.shape[-1])
        padded = padded.index_copy(0, self.request * width + place, values)
        return padded.unflatten(0, (self.requests, width))

    def between(self, start: int, stop: int) -> Factors:
        """Those of the requests from ``start`` to before ``stop``, counted from 0."""
        first, last = torch.searchsorted(self.request, torch.tensor([start, stop]).to(self.request))
        keys, deltas = self.keys[first:last], self.deltas[first:last]
        count = min(stop, self.requests) - start
        return Factors(keys, deltas, self.request[first:last] - start, count)

    def with_row(self, keys: Tensor, deltas: Tensor) -> Factors:
        """One row more for each request: ``keys`` [B, d_in] and ``deltas`` [B, d_out]."""
        request = torch.cat([self.request, torch.arange(self.requests, device=keys.device)])
        order = request.argsort(stable=True)
        return replace(
            self,
            keys=torch.cat([self.keys, keys])[order],
            deltas=torch.cat([self.deltas, deltas])[order],
            request=request[order],
        )

    def update(self, joint: bool) -> LowRank | Dense:
        """``sum_t key_t delta_t^T`` of each request, or with ``joint`` of all of them together.

        A joint one is in factors while they are the smaller.
        """
        if not joint:
            return LowRank(self.padded(self.keys).mT, self.padded(self.deltas))
        (rows, d_in), d_out = self.keys.shape, self.deltas.shape[1]
        if rows * (d_in + d_out) > d_in * d_out:
            return Dense((self.keys.T @ self.deltas)[None])
        return LowRank(self.keys.T[None], self.deltas[None])

    @staticmethod
    def concatenated(parts: Sequence[Factors]) -> Factors:
        """The factors of several batches of requests as one."""
        starts = [sum(part.requests for part in parts[:i]) for i in range(len(parts))]
        return Factors(
            torch.cat([part.keys for part in parts]),
            torch.cat([part.deltas for part in parts]),
            torch.cat([p.request + start for p, start in zip(parts, starts, strict=True)]),
            sum(part.requests for part in parts),
        )


@dataclass(frozen=True, eq=False)
class Reading:
    """What backward passes over B requests show.

    Attributes:
        factors: of each layer.
        true: bool ``[B]``, whether the target is the model's answer, in every token.
    """

    factors: dict[str, Factors]
    true: Tensor


def factors(
    language_model: LanguageModel,
    layers: Sequence[str],
    batch: Batch,
    *,
    after: WeightEdit | None = None,
    tokens: str = "all",
) -> dict[str, Factors]:
    """The factors of each layer for the requests in ``batch``, on the model edited by ``after``.

    ``after`` is one edit for all the requests, or one for each. Rows whose key or delta is all zero
    (padding, and tokens that the loss does not reach) are left out; with ``tokens="target"`` so are
    all rows of a decoder that do not predict a target token.
    """
    return read(language_model, layers, batch, after=after, tokens=tokens).factors


def factors_of(
    language_model: LanguageModel,
    layers: Sequence[str],
    requests: Sequence[Request],
    size: int,
    *,
    after: WeightEdit | None = None,
    tokens: str = "all",
) -> dict[str, Factors]:
    """As `factors`, of requests, at most ``size`` of them in a backward pass."""
    batch = language_model.encode([r.prompt for r in requests], [r.target for r in requests])
    return read(language_model, layers, batch, size, after=after, tokens=tokens).factors


def read(
    language_model: LanguageModel,
    layers: Sequence[str],
    batch: Batch,
    size: int | None = None,
    *,
    after: WeightEdit | None = None,
    tokens: str = "all",
) -> Reading:
    """As `factors`, and which of the requests are true."""
    parts = [
        (rows, _part(language_model, layers, part, _of(after, rows), tokens))
        for rows, part in parts_by_length(batch, language_model.sharded, size)
    ]
    count = len(batch.input_ids)
    order = torch.cat([rows for rows, _ in parts]).argsort()
    return Reading(
        {
            layer: _merged([(n, part.factors[layer]) for n, part in parts], count)
            for layer in layers
        },
        torch.cat([part.true for _, part in parts])[order],
    )


def _part(
    language_model: LanguageModel,
    layers: Sequence[str],
    batch: Batch,
    after: WeightEdit | None,
    tokens: str,
) -> Reading:
    each = None if after is None or len(after) == 1 else range(len(after))
    edited = nullcontext() if after is None else after.hooks(language_model, each)
    with edited, captured(language_model, layers, gradients=True) as captures:
        counts = predicting(batch)
        logits = language_model.head(language_model.hidden(without_last(batch))[counts])
        targets, request = predicted(batch), counts.nonzero()[:, 0]
        losses = nll(logits, targets)
        loss = means(losses, request, len(counts)).sum()
        deltas = torch.autograd.grad(loss, [captures[layer].output for layer in layers])
    read = batch.read.attention_mask.bool()
    decoded = counts if tokens == "target" else without_last(batch).attention_mask.bool()
    masks = [read if language_model.in_encoder(layer) else decoded for layer in layers]
    rows = {
        layer: _reached_rows(captures[layer].keys, delta, mask)
        for layer, delta, mask in zip(layers, deltas, masks, strict=True)
    }
    wrong = logits.argmax(1) != targets
    return Reading(rows, torch.bincount(request[wrong], minlength=len(counts)) == 0)


def _of(after: WeightEdit | None, rows: Tensor) -> WeightEdit | None:
    """What the requests in ``rows`` have been edited by."""
    return after if after is None or len(after) == 1 else after.select(rows)


def _merged(parts: Sequence[tuple[Tensor, Factors]], requests: int) -> Factors:
    """The factors of all requests, from those of parts of them with their requests' numbers."""
    request = torch.cat([rows[part.request] for rows, part in parts])
    order = request.argsort(stable=True)
    keys = torch.cat([part.keys for _, part in parts])
    deltas = torch.cat([part.deltas for _, part in parts])
    return Factors(keys[order], deltas[order], request[order], requests)


def _reached_rows(keys: Tensor, deltas: Tensor, mask: Tensor) -> Factors:
    """The rows in the mask ``[B, T]`` whose key and delta are not all zero."""
    dtype = compute_dtype(keys.dtype)
    keys, deltas = keys.to(dtype), deltas.to(dtype)
    mask = mask & (keys != 0).any(-1) & (deltas != 0).any(-1)
    return Factors(keys[mask], deltas[mask], mask.nonzero()[:, 0], len(mask))
