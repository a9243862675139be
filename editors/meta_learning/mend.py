"""MEND: a network that turns the factors of a fine-tuning gradient into a better update.

Mitchell, Lin, Bosselut, Finn, Manning: "Fast Model Editing at Scale", ICLR 2022,
https://arxiv.org/abs/2110.11309. Departures from the authors' code, with the reason:

- the update is subtracted, as in the paper; their code adds it and has to learn the sign
  (``sign="official"``);
- statistics are collected before training and frozen, so that the network's inputs stay put and
  all processes agree (``statistics="online"`` for theirs, which a checkpoint of theirs forgets);
- the learned step sizes do have their own outer step size; theirs never take effect;
- a batch holds independent edits, each trained on a paraphrase and on probes of its own.
"""

# B requests, n rows of all of them, K most rows of one, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import nn

from datamodules.records import Request
from editors.meta_learning.factors import Factors
from editors.meta_learning.hypernetwork import Hypernetwork
from editors.meta_learning.training import HypernetworkTraining
from editors.meta_learning.transform import STD_FLOOR, Transforms
from editors.settings import at_least, one_of
from edits.updates import Dense, LowRank
from edits.weights import WeightEdit
from models.language_model import LanguageModel

SIGNS = {"descent": -1.0, "official": 1.0}
PAPER = HypernetworkTraining()


@final
class Mend(Hypernetwork):
    """The update of layer l is ``-alpha_l * sum_t key~_t delta~_t^T``.

    ``key~``, ``delta~`` are what the network makes of the standardised factors; layers of the same
    shape share a network.

    Args:
        language_model: the model to edit.
        layers: see `Hypernetwork`.
        rank: of the network's linear maps; clipped to their width.
        blocks: number of residual blocks of a network.
        edit_lr: initial alpha.
        sign: ``"descent"`` subtracts alpha times the update, ``"official"`` adds it.
        init: ``"identity"``, or ``"xavier"`` without residual connections.
        sides: what goes through a network; see `Transform`.
        normalise: standardise the factors.
        shared: layers of the same shape share a network and statistics.
        training: see `Hypernetwork`.
    """

    transforms: Transforms

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        layers: Sequence[str] | None = None,
        rank: int = 1920,
        blocks: int = 2,
        edit_lr: float = 1e-4,
        sign: str = "descent",
        init: str = "identity",
        sides: str = "both",
        normalise: bool = True,
        shared: bool = True,
        training: HypernetworkTraining = PAPER,
    ):
        super().__init__(language_model, layers=layers, training=training)
        one_of("sign", sign, tuple(SIGNS))
        at_least(0, edit_lr=edit_lr)
        at_least(1, rank=rank, blocks=blocks)
        self.sign = SIGNS[sign]
        self.alpha = nn.Parameter(torch.full((len(self.layers),), float(edit_lr)))
        self.transforms = Transforms(
            {layer: language_model.shape(layer) for layer in self.layers},
            shared,
            rank=rank,
            blocks=blocks,
            init=init,
            sides=sides,
            normalise=normalise,
            floor=STD_FLOOR if training.statistics == "frozen" else 0.0,
        )
        self.in_precision()

    def updates(
        self,
        requests: Sequence[Request],
        factors: Mapping[str, Factors],
        joint: bool,
        after: WeightEdit | None,
    ) -> dict[str, LowRank | Dense]:
        """One update a request; their sum if ``joint``, the inner loss being a sum as well."""
        updates = {}
        for layer, alpha in zip(self.layers, self.alpha, strict=True):
            rows = factors[layer]
            keys, deltas = self.transforms(layer, rows.keys, rows.deltas)
            deltas = self.sign * alpha * deltas
            updates[layer] = replace(rows, keys=keys, deltas=deltas).update(joint)
        return updates

    def edit_lrs(self) -> dict[str, nn.Parameter]:
        """Alpha."""
        return {"edit_lr": self.alpha}
