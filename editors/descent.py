"""Gradient descent on the tensors of several edits, side by side."""

# B edits

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers.optimization import Adafactor

from editors.settings import at_least, one_of, positive

OPTIMISERS: Mapping[str, Callable[..., Optimizer]] = MappingProxyType(
    {
        "adam": torch.optim.Adam,
        "adafactor": partial(Adafactor, scale_parameter=False, relative_step=False),
        "sgd": torch.optim.SGD,
    }
)
"""All of them go tensor by tensor, so that edits beside each other do not meet in them."""


class Descent:
    """Descent on the tensors of B edits, each of which stops by itself.

    Losses are summed and the optimiser works tensor by tensor, so that each edit's course is the
    one it would have alone. An edit that has stopped stays as it is, to the bit. One whose gradient
    is not finite stops before the step and is in ``unsound``.

    Args:
        tensors: those of each edit, as many each; they are changed in place.
        steps: largest number of losses computed.
        lr: of the optimiser, which takes it as it is.
        last: whether a step follows the last loss, too.
        optimiser: one of `OPTIMISERS`.
        fused: whether Adam's loop is fused; values and gradients must be laid out alike then.
        weight_decay: of Adam and SGD, in its L2 form.
        clip: longest gradient of an edit, over all its tensors; None: any.

    Raises:
        ValueError: no step, a step size that is not above 0, or no such optimiser.
    """

    def __init__(
        self,
        tensors: Sequence[Sequence[Tensor]],
        *,
        steps: int,
        lr: float,
        last: bool = True,
        optimiser: str = "adam",
        fused: bool = False,
        weight_decay: float = 0.0,
        clip: float | None = None,
    ):
        at_least(1, steps=steps)
        positive(lr=lr, clip=clip)
        one_of("optimiser", optimiser, list(OPTIMISERS))
        self.tensors = tensors
        self.clip = clip
        self.steps, self.last = steps, last
        self.unsound: set[int] = set()
        # in the order of the tensors of an edit, as their gradients are taken; a loop over many
        # small tensors is best run outside Python
        flat = [edit[at] for at in range(len(tensors[0])) for edit in tensors]
        loop = {} if optimiser == "adafactor" else {"fused": fused, "foreach": not fused}
        self._optimiser = OPTIMISERS[optimiser](flat, lr=lr, weight_decay=weight_decay, **loop)

    def run(
        self,
        losses: Callable[[list[int]], Tensor],
        done: Callable[[list[int], Tensor], Tensor],
        slope: Callable[[int, int, Tensor], Tensor] | None = None,
        project: Callable[[list[int]], None] | None = None,
        skip: Callable[[list[int], Tensor], Tensor] | None = None,
    ) -> None:
        """Descend until all edits are done, or no step is left.

        Args:
            losses: loss ``[b]`` of the edits with these numbers, differentiable.
            done: which of them (bool ``[b]``) stop at these losses, before another step.
            slope: direction of descent, given the number of an edit, that of one of its tensors,
                and the tensor's gradient; by default the gradient.
            project: brings the tensors of these edits back into bounds, after a step.
            skip: which of them (bool ``[b]``) go on, but without a step at these losses: neither
                their tensors nor the optimiser's memory of them change.
        """
        active = list(range(len(self.tensors)))
        for step in range(self.steps):
            values = losses(active)
            going = ~done(active, values.detach())
            resting = going & skip(active, values.detach()) if skip else torch.zeros_like(going)
            rests, moving = _chosen(active, resting), _chosen(active, going & ~resting)
            if not (rests or moving) or (step + 1 == self.steps and not self.last):
                return
            if moving:
                moving = self._step(values[going & ~resting].sum(), moving, slope)
            active = sorted([*rests, *moving])
            if not active:
                return
            if project is not None and moving:
                with torch.no_grad():
                    project(moving)

    def _step(
        self, loss: Tensor, active: list[int], slope: Callable[[int, int, Tensor], Tensor] | None
    ) -> list[int]:
        """One step of the active edits whose gradients are finite, which it returns."""
        places = [(number, at) for at in range(len(self.tensors[0])) for number in active]
        gradients = torch.autograd.grad(loss, [self.tensors[n][at] for n, at in places])
        bad = {n for (n, _), g in zip(places, gradients, strict=True) if not g.isfinite().all()}
        self.unsound |= bad
        if self.clip is not None:
            gradients = _clipped(gradients, len(active), self.clip)
        self._optimiser.zero_grad()  # a tensor without a gradient is not stepped
        for (number, at), gradient in zip(places, gradients, strict=True):
            if number not in bad:
                change = gradient if slope is None else slope(number, at, gradient)
                self.tensors[number][at].grad = change
        self._optimiser.step()
        return [number for number in active if number not in bad]


def _chosen(numbers: list[int], mask: Tensor) -> list[int]:
    return [number for number, is_chosen in zip(numbers, mask.tolist(), strict=True) if is_chosen]


def _clipped(gradients: Sequence[Tensor], edits: int, most: float) -> list[Tensor]:
    """Each edit's gradients shortened alike, as `torch.nn.utils.clip_grad_norm_` does.

    They come tensor by tensor, and within a tensor edit by edit.
    """
    norms = torch.stack([gradient.norm() for gradient in gradients]).view(-1, edits).norm(dim=0)
    factors = (most / (norms + 1e-6)).clamp(max=1.0)
    return [gradient * factors[at % edits] for at, gradient in enumerate(gradients)]


def means(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Mean of the values of each group ``[groups]``; 0 of a group without any."""
    sums = values.new_zeros(groups).index_add(0, group, values)
    return sums / torch.bincount(group, minlength=groups).clamp(min=1).to(values.dtype)
