"""How step sizes rise and fall in the training of an editor."""

from __future__ import annotations


def rate(step: int, total: float, warmup: int, decay: float) -> float:
    """The step sizes' share of their full value at a step of ``total``.

    They rise linearly over the first ``warmup`` steps, and fall linearly to 0 over the share
    ``decay`` of the run at its end.
    """
    risen = (step + 1) / warmup if warmup else 1.0
    left = (total - step) / (decay * total) if decay else 1.0
    return max(0.0, min(1.0, risen, left))
