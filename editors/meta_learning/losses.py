"""Losses of a trained editor: likelihood of the target, distance to the unedited model.

Both functions take logits that are already picked, one row for each position that counts: neither
shifts or masks.
"""

# n positions, V vocabulary

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def nll(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood (nats) ``[n]`` of each target under ``logits`` [n, V].

    With ``smoothing`` it is the cross-entropy to a distribution that keeps ``1 - smoothing`` on the
    target and shares the rest equally among the other tokens.
    """
    classes = logits.shape[-1]
    uniform = smoothing * classes / (classes - 1)  # torch shares it among all tokens
    return F.cross_entropy(logits, targets, reduction="none", label_smoothing=uniform)


def kl(before: Tensor, after: Tensor) -> Tensor:
    """``KL(before || after)`` (nats) ``[n]`` of the distributions with these logits [n, V]."""
    before, after = before.log_softmax(-1), after.log_softmax(-1)
    return (before.exp() * (before - after)).sum(-1)
