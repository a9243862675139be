"""The settings that all training shares: how step sizes rise and fall, skipped steps, draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from editors.settings import at_least, shares

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The settings that trained editors share.

    Attributes:
        warmup: Optimiser steps over which step sizes rise linearly from 0.
        decay: Share of the run, at its end, over which they fall linearly to 0.
        max_skipped: Successive steps with a non-finite gradient after which training stops.
        seed: Of the draws; a step's draws depend on it, the step and the process alone.

    Raises:
        ValueError: a setting that is none of the above.
    """

    warmup: int = 0
    decay: float = 0.0
    max_skipped: int = 10
    seed: int = 0

    SHARES: ClassVar[tuple[str, ...]] = ("decay",)
    """Settings from 0 to 1; a family adds its own."""
    AT_LEAST_ONE: ClassVar[tuple[str, ...]] = ("max_skipped",)
    """Settings from 1; a family adds its own."""
    NOT_NEGATIVE: ClassVar[tuple[str, ...]] = ("warmup",)
    """Settings from 0; a family adds its own."""

    def __post_init__(self):
        shares(**{name: getattr(self, name) for name in self.SHARES})
        at_least(1, **{name: getattr(self, name) for name in self.AT_LEAST_ONE})
        at_least(0, seed=self.seed, **{n: getattr(self, n) for n in self.NOT_NEGATIVE})

    def rate(self, step: int, total: float) -> float:
        """The step sizes' share of their full value at a step of ``total``."""
        rise = (step + 1) / self.warmup if self.warmup else 1.0
        fall = (total - step) / (self.decay * total) if self.decay else 1.0
        return max(0.0, min(1.0, rise, fall))


def drawn(items: Sequence[T], count: int, generator: np.random.Generator) -> list[T]:
    """``count`` different ones, or all if there are no more."""
    if len(items) <= count:
        return list(items)
    return [items[at] for at in generator.choice(len(items), count, replace=False)]
