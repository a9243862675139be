"""What a hook may know of the forward pass that it is in."""

# b rows of a micro-batch, T tokens

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from models.encoding import Batch


@dataclass(frozen=True)
class Pass:
    """One micro-batch, as it goes through a decoder-only model or a decoder.

    Attributes:
        rows: ``[b]`` on the CPU, which of the caller's prompts each row is.
        mask: ``[b, T]``, 1 for tokens and 0 for padding, whichever side is padded.
        asked: ``[b]``, place of the token that predicts what follows the prompt: its last one, or
            the last of a decoder's start.
        steps: whether one-token passes of a generation follow this one, inside the same hooks.
        source: ``[b, S]``, the mask of what an encoder reads; None if there is none.
    """

    rows: Tensor
    mask: Tensor
    asked: Tensor
    steps: bool
    source: Tensor | None = None


Around = Callable[[Pass], AbstractContextManager]
"""Surrounds a micro-batch, and the steps of generation that follow it."""


def surrounded(
    around: Around | None, rows: Sequence[int], batch: Batch, asked: Tensor, *, steps: bool
) -> AbstractContextManager:
    """What surrounds the pass over a batch; the arguments are those of `Pass`."""
    if around is None:
        return nullcontext()
    source = None if batch.source is None else batch.source.attention_mask
    asked = asked.to(batch.input_ids.device)
    return around(Pass(torch.tensor(rows), batch.attention_mask, asked, steps, source))
