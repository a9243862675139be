"""What a hook may know of the forward pass that it is in."""

# b rows of a micro-batch, T tokens

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor


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
