"""What a model says about targets, teacher-forced."""

# t target tokens of a row

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TOKENS_PER_BATCH = 4096
"""Padded tokens of a micro-batch, unless told otherwise."""


@dataclass(frozen=True)
class Scores:
    """What the model says about each target, teacher-forced; one entry a row, on the CPU.

    Attributes:
        log_probs: ``[t]``, log-probability (nats) of each target token, float32.
        predicted: ``[t]``, the most probable token at the same positions.
        targets: ``[t]``, the target tokens.
    """

    log_probs: list[Tensor]
    predicted: list[Tensor]
    targets: list[Tensor]

    def exact(self, expected: Sequence[Tensor] | None = None) -> list[bool]:
        """Whether all tokens predicted are the ``expected`` ones, by default the target's."""
        pairs = zip(self.predicted, self.targets if expected is None else expected, strict=True)
        return [torch.equal(predicted, right) for predicted, right in pairs]
