"""Losses of an edit, part by part: one part's graph through the language model at a time.

Tan, Zhang, Fu (MALMEN), ICLR 2024, https://arxiv.org/abs/2311.04661, section 3: what the parts say
of the update is added up first, and only then goes back through what made the update. That is the
chain rule: the gradient is the one of all parts in a single graph. Here it stays inside one
training step with one backward pass, so that the trainer's optimisation can stay automatic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from edits.weights import WeightEdit

Part = Callable[[WeightEdit], tuple[Tensor, Tensor]]
"""A part of the edit loss and of the locality loss, of an edit."""


def decoupled(
    edit: WeightEdit, parts: Iterable[Part], objective: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Edit loss, locality loss and objective of an edit, each the sum over the parts.

    The objective alone is differentiable: for what made the edit, and for parameters of its own. It
    has to be linear in the two losses (a constant may be added).
    """
    cut, pairs = _cut(edit)
    leaves = [leaf for _, leaf in pairs]
    slopes = [torch.zeros_like(leaf) for leaf in leaves]
    sums = torch.zeros(2)
    for part in parts:
        losses = part(cut)
        found = torch.autograd.grad(objective(*losses), leaves, materialize_grads=True)
        slopes = [slope + more for slope, more in zip(slopes, found, strict=True)]
        sums = sums.to(losses[0]) + torch.stack(losses).detach()
    value = objective(*sums)
    along = sum((made * slope).sum() for (made, _), slope in zip(pairs, slopes, strict=True))
    return *sums, value + (along - along.detach())


def _cut(edit: WeightEdit) -> tuple[WeightEdit, list[tuple[Tensor, Tensor]]]:
    """The edit without its graph, and pairs: a tensor in the graph, and the one in its place."""
    updates, pairs = {}, []
    for layer, update in edit.updates.items():
        made = {n: t for n, t in vars(update).items() if t is not None and t.requires_grad}
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in made.items()}
        updates[layer] = replace(update, **leaves)
        pairs += zip(made.values(), leaves.values(), strict=True)
    return replace(edit, updates=updates), pairs
