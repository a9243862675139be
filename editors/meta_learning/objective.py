"""The objective of a step: a fixed sum of the two losses, or one under a bound on the other.

The bound is that of De Cao, Aziz, Titov: "Editing Factual Knowledge in Language Models", EMNLP
2021, https://arxiv.org/abs/2104.08164, section 3.2: the edit loss, subject to a locality loss of at
most a margin. A multiplier weighs what exceeds the margin; the optimiser lets it rise, by ascent,
while the bound is broken. The margin shrinks as edits succeed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from editors.meta_learning.training import HypernetworkTraining

SUCCESS = 0.9  # share of successful edits above which the margin shrinks
SHRINKING = 0.8


class Objective(nn.Module, ABC):
    """The loss of a step, from its edit loss and locality loss; its own parameters ascend."""

    @abstractmethod
    def forward(self, edit_loss: Tensor, locality_loss: Tensor) -> Tensor:
        """The value that the networks descend and the objective's own parameters ascend."""

    @abstractmethod
    def after_step(self) -> None:
        """Bring the parameters back into bounds."""

    @abstractmethod
    def after_validation(self, success: Tensor) -> None:
        """Take in the share of validation edits that succeeded."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The values to log, by name."""


class Weighted(Objective):
    """``edit_weight * edit_loss + locality_weight * locality_loss``."""

    def __init__(self, edit_weight: float, locality_weight: float):
        super().__init__()
        self.edit_weight, self.locality_weight = edit_weight, locality_weight

    def forward(self, edit_loss: Tensor, locality_loss: Tensor) -> Tensor:
        """The weighted sum."""
        return self.edit_weight * edit_loss + self.locality_weight * locality_loss

    def after_step(self) -> None:
        """Nothing: there are no parameters."""

    def after_validation(self, success: Tensor) -> None:
        """Nothing: the weights are fixed."""

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


class Constrained(Objective):
    """``edit_loss + multiplier * (locality_loss - margin)``.

    Args:
        margin: initial bound on the locality loss (nats).
        floor: what the margin never falls below.
    """

    margin: Tensor  # []

    def __init__(self, margin: float, floor: float):
        super().__init__()
        self.multiplier = nn.Parameter(torch.ones(()))
        self.register_buffer("margin", torch.tensor(float(margin)))
        self.floor = floor

    def forward(self, edit_loss: Tensor, locality_loss: Tensor) -> Tensor:
        """The Lagrangian."""
        return edit_loss + self.multiplier * (locality_loss - self.margin)

    @torch.no_grad()
    def after_step(self) -> None:
        """A multiplier below 0 would reward what it is to forbid."""
        self.multiplier.clamp_(min=0)

    def after_validation(self, success: Tensor) -> None:
        """Shrink the margin if enough edits succeeded."""
        if success > SUCCESS:
            self.margin.mul_(SHRINKING).clamp_(min=self.floor)

    def state(self) -> dict[str, Tensor]:
        """Multiplier and margin."""
        return {"multiplier": self.multiplier, "margin": self.margin}


def objective_of(settings: HypernetworkTraining) -> Objective:
    """The objective that the settings ask for."""
    if settings.objective == "constrained":
        return Constrained(settings.margin, settings.margin_floor)
    return Weighted(settings.edit_weight, settings.locality_weight)
