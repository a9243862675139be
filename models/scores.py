"""What a model says about targets, teacher-forced."""

# t target tokens of a row

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TOKENS_PER_BATCH = 4096
"""Padded tokens of a micro-batch, unless told otherwise."""


Answer = tuple[Tensor, Tensor, Tensor]
"""Log-probabilities, most probable tokens and target tokens of one target, ``[t]`` each."""


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

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Scores:
        """Those that hold these answers, one by one."""
        return cls(*([answer[i] for answer in answers] for i in range(3)))

    @property
    def answers(self) -> list[Answer]:
        """The same one by one."""
        return list(zip(self.log_probs, self.predicted, self.targets, strict=True))

    def exact(self, expected: Sequence[Tensor] | None = None) -> list[bool]:
        """Whether all tokens predicted are the ``expected`` ones, by default the target's."""
        pairs = zip(self.predicted, self.targets if expected is None else expected, strict=True)
        return [torch.equal(predicted, right) for predicted, right in pairs]


def split(tokens: Answer, counts: Sequence[int]) -> list[Answer]:
    """The answers to targets of so many tokens each, given those of all of them, on the CPU."""
    parts = [values.cpu().split(list(counts)) for values in tokens]
    return list(zip(*parts, strict=True))
