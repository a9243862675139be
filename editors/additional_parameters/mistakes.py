"""The tokens that a model predicts wrongly, and what its last feed-forward part is given there."""

# R requests, k mistakes of one at most, d width

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from datamodules.records import Request
from models.encoding import IGNORED
from models.feed_forward import FeedForward
from models.hooks import Output, recorded
from models.language_model import LanguageModel
from models.sites import activations
from models.suffixes import mapped, resumed


class Mistakes:
    """Requests as token ids, and the queries at which the model predicts a wrong token.

    Args:
        language_model: as it now is.
        place: whose queries they are.
        requests: whose targets are to be right.
        most: of the mistakes of each count.

    Attributes:
        batch: the texts.
        queries: for each request ``[k, d]``.
        positions: for each request where they are, ``[k]``.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        place: FeedForward,
        requests: Sequence[Request],
        most: int,
    ):
        self.language_model = language_model
        self.batch = language_model.encode(
            [r.prompt for r in requests], [r.target for r in requests]
        )
        self._below: Output | None = None
        with torch.no_grad():
            logits, targets, row = language_model.target_logits(self.batch)
        at = (self.batch.labels[:, 1:] != IGNORED).nonzero()[:, 1]
        wrong = (logits.argmax(1) != targets).nonzero()[:, 0]
        numbers = range(len(requests))
        chosen = [wrong[row[wrong] == n][:most] for n in numbers]
        self.positions = [at[index] for index in chosen]
        rows = torch.cat([torch.full_like(index, n) for n, index in enumerate(chosen)])
        seen, _ = activations(
            language_model, self.batch, [place.given], rows, torch.cat(self.positions)
        )[place.given]
        self.queries = list(seen.split([len(index) for index in chosen]))

    def of(self, numbers: Sequence[int]) -> Mistakes:
        """Those of some of the requests."""
        part = object.__new__(Mistakes)
        part.language_model, part._below = self.language_model, None
        part.batch = self.batch.rows(numbers)
        part.queries = [self.queries[n] for n in numbers]
        part.positions = [self.positions[n] for n in numbers]
        return part

    @contextmanager
    def last_block(self) -> Iterator[None]:
        """Inside, `logits` runs the last block alone, as nothing below it changes."""
        model = self.language_model
        if model.blocks > 1 and model.family.encoder is None:
            below = model.block(model.blocks - 2)
            with torch.no_grad(), recorded(model.modules_of([below])) as outputs:
                model.hidden(self.batch)
            self._below = outputs[below]
        try:
            yield
        finally:
            self._below = None

    def logits(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """As `LanguageModel.target_logits`, of some of the requests."""
        model, batch = self.language_model, self.batch.rows(numbers)
        if self._below is None:
            return model.target_logits(batch)
        with resumed(model, model.blocks - 1, mapped(self._below, lambda x: x[numbers])):
            return model.target_logits(batch)
