"""How strongly patches answer: to their own query they should, to queries of the memory not."""

# n edits of k patches at most, c copies of each text, m queries of the memory, d their width

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from editors.settings import at_least, one_of, shares

MARGINS = {"paper": (-3.0, 3.0), "official": (0.0, 0.0)}
"""``(beta, gamma)``; the official code for ZsRE stores the paper's, and never hands them on."""


@dataclass(frozen=True)
class PatchLosses:
    """The three parts of T-Patcher's loss; the defaults are those of the paper for ZsRE.

    Attributes:
        margins: ``paper``, or ``official``: those that its code really uses on ZsRE.
        smoothing: share of a label that is spread over all other tokens.
        copies: how many times an edit's text is thought to stand in its batch; the largest values
            are counted among all copies, so that at 8 the largest 1000 are 125 different ones.
        activation_weight: of the loss of patches that do not answer to their own query.
        activation_top: how many values of it count.
        memory_weight: of the loss of patches that answer to queries of the memory.
        margin_top: how many of its values beside the answer to their own query count.
        memory_top: how many of its values by themselves count.

    Raises:
        ValueError: an attribute is out of range.
    """

    margins: str = "paper"
    smoothing: float = 0.1
    copies: int = 8
    activation_weight: float = 1.0
    activation_top: int = 5
    memory_weight: float = 10.0
    margin_top: int = 1000
    memory_top: int = 1000

    def __post_init__(self):
        one_of("margins", self.margins, list(MARGINS))
        shares(smoothing=self.smoothing)
        at_least(
            1,
            copies=self.copies,
            activation_top=self.activation_top,
            margin_top=self.margin_top,
            memory_top=self.memory_top,
        )
        at_least(0, activation_weight=self.activation_weight, memory_weight=self.memory_weight)

    def nll(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood of each target, smoothed over the other tokens."""
        log_probs = logits.log_softmax(-1)
        each = self.smoothing / (logits.shape[-1] - 1)
        right = log_probs.gather(1, targets[:, None])[:, 0]
        return -(1 - self.smoothing - each) * right - each * log_probs.sum(-1)

    def activation(self, own: Tensor, real: Tensor) -> Tensor:
        """``[n]``, of what patches make of their own queries ``[n, k]``; not all are ``real``."""
        values, _ = largest((-own).masked_fill(~real, -math.inf), self.activation_top, self.copies)
        return mean_of_largest(values, real.sum(1), self.activation_top, self.copies)

    def memory(
        self, own: Tensor, real: Tensor, keys: Tensor, biases: Tensor, memory: Tensor
    ) -> Tensor:
        """``[n]``, of what patches ``[n, k]`` make of the memory ``[m, d]``, alone and beside own.

        All values are computed once without gradients, and the largest once more with them.
        """
        with torch.no_grad():
            values = (keys.flatten(0, 1) @ memory.T).view(*real.shape, -1) + biases[..., None]
            values.masked_fill_(~real[..., None], -math.inf)
            beside = (values - own[..., None]).flatten(1)
            _, beside = largest(beside, self.margin_top, self.copies)
            _, alone = largest(values.flatten(1), self.memory_top, self.copies)
        beta, gamma = MARGINS[self.margins]
        count, size = real.sum(1) * len(memory), len(memory)
        total = own.new_zeros(len(own))
        for index, shift, top in (
            (beside, biases - own + gamma, self.margin_top),
            (alone, biases - beta, self.memory_top),
        ):
            patch, query = index // size, index % size
            chosen = keys.gather(1, patch[..., None].expand(-1, -1, keys.shape[2]))
            answers = (chosen * memory[query]).sum(-1) + shift.gather(1, patch)
            answers = answers.masked_fill(~real.gather(1, patch), -math.inf)
            total = total + mean_of_largest(answers, count, top, self.copies)
        return total


def largest(values: Tensor, top: int, copies: int) -> tuple[Tensor, Tensor]:
    """The largest values of each row, and where they are, that can be among the ``top`` copies."""
    return values.topk(min(math.ceil(top / copies), values.shape[1]), dim=1)


def mean_of_largest(values: Tensor, count: Tensor, top: int, copies: int) -> Tensor:
    """Mean of ``exp`` of the ``top`` largest values, each of which stands there ``copies`` times.

    Args:
        values: in falling order, ``[n, v]``.
        count: ``[n]``, how many different values there are.
        top: how many count, or all of them if there are fewer.
        copies: of each.
    """
    most = (count * copies).clamp(max=top)[:, None]  # [n, 1]
    before = torch.arange(values.shape[1], device=values.device) * copies
    weights = (most - before).clamp(0, copies).to(values.dtype) / most.clamp(min=1)
    return (weights * values.exp()).sum(1)
