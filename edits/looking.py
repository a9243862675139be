"""Edits that look at what a layer is given once for each prompt, and then change what it says."""

# B rows, T tokens

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from edits.edit import Route
from models.families import UnsupportedModel
from models.hooks import Look, Output, hooked
from models.language_model import LanguageModel
from models.passes import Pass


@dataclass(frozen=True)
class Place:
    """Where the tokens are that a layer sees.

    Attributes:
        mask: ``[B, T]``, 1 for tokens and 0 for padding.
        asked: ``[B]``, the token that is looked up.
    """

    mask: Tensor
    asked: Tensor

    @classmethod
    def of(cls, language_model: LanguageModel, layer: str, batch: Pass) -> Place:
        """Those of a pass; an encoder's layers see its source, to whose last token they answer."""
        if not language_model.in_encoder(layer):
            return cls(batch.mask, batch.asked)
        if batch.source is None:
            raise UnsupportedModel(f"layer {layer!r} is in an encoder, but there is no source")
        return cls(batch.source, batch.source.sum(1) - 1)

    @property
    def prompt(self) -> Tensor:
        """The tokens up to the one that is looked up, bool ``[B, T]``."""
        token = torch.arange(self.mask.shape[1], device=self.mask.device)
        return self.mask.bool() & (token <= self.asked[:, None])

    def replaced(self, which: str) -> Tensor:
        """The tokens at which a value stands, bool ``[B, T]``; see `edits.codebook.REPLACED`."""
        place = torch.arange(self.mask.shape[1], device=self.mask.device)
        last = self.asked[:, None]
        if which == "last":
            return place == last
        return self.mask.bool() & (place < last) if which == "prompt" else self.mask.bool()


def looking(
    language_model: LanguageModel,
    layer: str,
    prompts: Sequence[str],
    rows: Tensor | None,
    visit: Callable[[Tensor, Place], Look[Output]],
) -> list[Route]:
    """One route: the language model itself, with a hook on the layer.

    Args:
        language_model: that is edited.
        layer: that is hooked.
        prompts: all that are asked.
        rows: the edit that each of them sees, -1 for none; None: the first.
        visit: the hook for a micro-batch, given the edit that each of its rows sees ``[B]`` and
            where their tokens are. It is kept for the steps of a generation, and there is none for
            rows that see no edit.
    """
    edits = torch.zeros(len(prompts), dtype=torch.long) if rows is None else rows

    def around(batch: Pass) -> AbstractContextManager:
        own = edits[batch.rows]
        if not (own >= 0).any():
            return nullcontext()
        look = visit(own, Place.of(language_model, layer, batch))
        return hooked({"": language_model.module(layer)}, look)

    return [Route(range(len(prompts)), prompts, around)]
