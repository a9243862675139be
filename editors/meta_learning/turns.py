"""What a training step edits: a batch's groups side by side, or one after another in one model.

A stream is how RLEdit trains (Li et al., "Reinforced Lifelong Editing for Language Models", ICML
2025, https://arxiv.org/abs/2502.05759): edit t is made of the model that edits 1 to t - 1 have
changed, and is judged by what it is to make true and by what those before it made true, the less
the longer ago. There is one optimiser step a stream. Earlier edits are constants for later ones.
Departures: losses are means over the edits that are judged and over the stream, theirs sums; the
squared size of an edit is differentiated, where their code takes it without a graph.
"""

# R questions

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from editors.meta_learning.outer_loss import shares
from editors.meta_learning.training import HypernetworkTraining


@dataclass(frozen=True, eq=False)
class Turn:
    """Edits that are made side by side, and the questions that judge them.

    Attributes:
        groups: which of the batch's groups get an edit each.
        rows: ``[R]``, which of the step's questions they are, outer questions first.
        owner: ``[R]``, which of these edits each is asked of.
        weights: ``[R]``, of the questions in the two losses.
    """

    groups: slice
    rows: Tensor
    owner: Tensor
    weights: Tensor


def turns(group: Tensor, outer: int, groups: int, settings: HypernetworkTraining) -> list[Turn]:
    """The turns of a step: a single one, or of a ``stream`` one for each group.

    Args:
        group: ``[R]``, the group that each question belongs to.
        outer: how many of the questions are outer ones, which come first.
        groups: how many there are.
        settings: of the training.
    """
    if settings.stream:
        return [_of_stream(group, outer, last, settings) for last in range(groups)]
    everything = torch.arange(len(group), device=group.device)
    return [Turn(slice(0, groups), everything, group, shares(group, outer, groups))]


def _of_stream(group: Tensor, outer: int, last: int, settings: HypernetworkTraining) -> Turn:
    """The turn of group ``last``, judged with the ``look_back`` groups before it."""
    first = max(0, last - settings.look_back)
    rows = ((first <= group) & (group <= last)).nonzero()[:, 0]
    fading = settings.fading ** torch.arange(last - first + 1, device=group.device).double()
    weights = shares(group[rows] - first, int((rows < outer).sum()), last - first + 1)
    weights = weights * fading[last - group[rows]] / fading.mean()
    return Turn(slice(last, last + 1), rows, torch.zeros_like(rows), weights)
