"""Losses of an edit, part by part: one part's graph through the language model at a time.

Tan, Zhang, Fu (MALMEN), ICLR 2024, https://arxiv.org/abs/2311.04661, section 3: the
parts' gradients at the update are added up first, and only then propagated to what the update was
made from. That is the chain rule: the gradient is the one of all parts in a single graph. Here it
stays inside one training step with one backward pass, so that the trainer's optimisation can stay
automatic.
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

    Only the objective is differentiable, with respect to what the edit was computed from and to the
    objective's own parameters. It has to be linear in the two losses, up to a constant.
    """
    cut, pairs = _cut(edit)
    leaves = [leaf for _, leaf in pairs]
    slopes = [torch.zeros_like(leaf) for leaf in leaves]
    sums = torch.zeros(2)
    for part in parts:
        losses = part(cut)
        gradients = torch.autograd.grad(objective(*losses), leaves, materialize_grads=True)
        slopes = [slope + more for slope, more in zip(slopes, gradients, strict=True)]
        sums = sums.to(losses[0]) + torch.stack(losses).detach()
    edit_loss, locality_loss = sums
    value = objective(edit_loss, locality_loss)
    products = [(source * slope).sum() for (source, _), slope in zip(pairs, slopes, strict=True)]
    along = sum(products, start=value.new_zeros(()))
    return edit_loss, locality_loss, value + (along - along.detach())


def constant(edit: WeightEdit) -> WeightEdit:
    """The edit without its graph."""
    return _each(edit, Tensor.detach)


def _each(edit: WeightEdit, change: Callable[[Tensor], Tensor]) -> WeightEdit:
    """The edit with other tensors in its updates."""
    updates = {}
    for layer, update in edit.updates.items():
        tensors = {name: tensor for name, tensor in vars(update).items() if tensor is not None}
        updates[layer] = replace(update, **{name: change(x) for name, x in tensors.items()})
    return replace(edit, updates=updates)


def _cut(edit: WeightEdit) -> tuple[WeightEdit, list[tuple[Tensor, Tensor]]]:
    """The edit without its graph, and pairs: a tensor in the graph, and the one in its place."""
    pairs = []

    def leaf(tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        pairs.append((tensor, tensor.detach().requires_grad_()))
        return pairs[-1][1]

    return _each(edit, leaf), pairs
