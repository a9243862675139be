"""The optimiser of a hypernetwork, and how its step sizes rise and fall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from editors.meta_learning.training import HypernetworkTraining


def optimiser(
    networks: Sequence[nn.Parameter],
    edit_lrs: Sequence[nn.Parameter],
    multipliers: Sequence[nn.Parameter],
    settings: HypernetworkTraining,
    steps: float = math.inf,
) -> Any:
    """What Lightning's ``configure_optimizers`` returns.

    Learned edit step sizes and the objective's multipliers have step sizes of their own; the
    multipliers ascend.

    Args:
        networks: all other parameters.
        edit_lrs: see `Hypernetwork.edit_lrs`.
        multipliers: parameters of the `Objective`.
        settings: of the training.
        steps: optimiser steps of the whole run; needed for a decay.
    """
    groups = [
        {"params": networks},
        {"params": edit_lrs, "lr": settings.edit_lr_lr},
        {"params": multipliers, "lr": settings.multiplier_lr, "maximize": True},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimiser == "rmsprop":
        optimizer = torch.optim.RMSprop(groups, settings.lr, centered=True)
    else:
        fused = all(p.device.type == "cpu" for p in networks)
        optimizer = torch.optim.Adam(groups, settings.lr, fused=fused)
    if not settings.warmup and not settings.decay:
        return optimizer
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: settings.rate(step, steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
