"""The shifts that are optimised: who has which, how long they may be, and steps of Adam on some."""

# B edits, b of them, G shifts (B unless some are shared), d width of a site

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Shifts:
    """At each site G shifts, zero at first; edit i has number ``owner[i]``.

    Args:
        initial: each site's value without a shift, ``[B, d]``.
        owner: ``[B]`` in ``[0, G)``.
        lr: of Adam.
        clamp: longest shift, in mean lengths of its edits' values.
    """

    def __init__(self, initial: dict[str, Tensor], owner: Tensor, lr: float, clamp: float):
        self.owner, self.count = owner, int(owner.max()) + 1
        self.lengths = {site: value.norm(dim=1) for site, value in initial.items()}
        every = torch.arange(len(owner), device=owner.device)
        self.longest = {s: clamp * self.means(n, every) for s, n in self.lengths.items()}
        self.values = {
            site: value.new_zeros(self.count, value.shape[1]).requires_grad_()
            for site, value in initial.items()
        }
        self.adam = torch.optim.Adam(list(self.values.values()), lr=lr)

    def of(self, edits: Tensor) -> dict[str, Tensor]:
        """Each site's shifts of the edits, ``[b, d]``; differentiable."""
        return {site: shift[self.owner[edits]] for site, shift in self.values.items()}

    def decay(self, delta: dict[str, Tensor], edits: Tensor) -> Tensor:
        """``|delta| / |value|^2`` of shifts that `of` gave, summed over sites, ``[b]``."""
        return sum(d.norm(dim=1) / self.lengths[site][edits] ** 2 for site, d in delta.items())

    def means(self, values: Tensor, edits: Tensor) -> Tensor:
        """Each shift's mean ``[G]`` of its edits' values ``[b]``; 0 if it is of none of them."""
        owner = self.owner[edits]
        sums = values.new_zeros(self.count).index_add(0, owner, values)
        return sums / torch.bincount(owner, minlength=self.count).clamp_min(1)

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Of the loss, at each site ``[G, d]``."""
        return torch.autograd.grad(loss, list(self.values.values()))

    @torch.no_grad()
    def advance(self, gradients: Sequence[Tensor], running: Tensor) -> None:
        """One step of the ``running`` ones ``[G]`` alone; all of them have taken as many before."""
        before = [shift.clone() for shift in self.values.values()]
        for shift, gradient in zip(self.values.values(), gradients, strict=True):
            shift.grad = torch.where(running[:, None], gradient, 0.0)
        self.adam.step()
        for (site, shift), old in zip(self.values.items(), before, strict=True):
            length, longest = shift.norm(dim=1), self.longest[site]
            factor = torch.where(length > longest, longest / length, 1.0)
            shift.copy_(torch.where(running[:, None], shift * factor[:, None], old))
