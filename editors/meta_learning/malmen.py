"""MALMEN: thousands of facts in one edit, by least squares over what a network proposes.

Tan, Zhang, Fu: "Massive Editing for Large Language Models via Meta Learning", ICLR 2024,
https://arxiv.org/abs/2311.04661, section 3 and the authors' code
(https://github.com/ChenmienTan/malmen). Departures from their code, with the reason:

- statistics are collected before training and frozen (``statistics="online"`` for theirs), and
  variances are exact, where theirs depend on the size of the chunks that rows come in;
- the smaller of the two equal systems is solved, in float64, so that one request's edit is cheap;
- losses are means over the requests, theirs sums over chunks of them, so that the gradient's size
  depends on how many are edited;
- a further round of a joint edit (``rounds``, none in theirs) is for all its requests, made anew
  on the edited model;
- in a sequence an edit can spare the keys of those before it (``history``), and training can be on
  such sequences (``stream``) and of several rounds (``passes``); see `turns`;
- training can mix edits of one request with edits of many (``joint_edits``), so that one editor
  serves both.
"""

# B requests, n rows of all of them, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from datamodules.records import Request
from editors.meta_learning.factors import Factors
from editors.meta_learning.hypernetwork import Hypernetwork
from editors.meta_learning.least_squares import least_squares
from editors.meta_learning.training import HypernetworkTraining
from editors.meta_learning.transform import STD_FLOOR, Transforms
from editors.settings import at_least, positive
from edits.updates import Dense, LowRank
from edits.weights import WeightEdit
from models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class MalmenTraining(HypernetworkTraining):
    """`HypernetworkTraining` with the paper's defaults for MALMEN."""

    tokens: str = "target"


PAPER = MalmenTraining()


@final
class Malmen(Hypernetwork):
    """The update S of layer l is what changes its outputs most nearly as its rows propose.

    Row i, with key k and delta g, of which the network makes k~ and g~, proposes the change
    ``d_i = -eta_l (k . k~) g~``, which a step ``-eta_l k~ g~^T`` would make at k; S is the least of
    ``|K S - D|^2 + exp(theta_l) |S|^2`` over the rows of all requests together.

    Args:
        language_model: the model to edit.
        layers: names of the linear maps to edit; by default the feed-forward outputs ``mlp_out``
            of the last six blocks.
        rank: of the network's linear maps; clipped to their width.
        blocks: number of residual blocks of a network.
        edit_lr: initial eta.
        ridge: initial exp(theta); more than 0.
        history: whether an edit carries its keys, and spares those of the edit before it: it
            proposes to change nothing there. Keys of the whole history are in the least squares.
        rows_per_pass: rows that go through a network at once; the graphs of more are not kept but
            made again in the backward pass, so that memory does not grow with the requests.
        training: see `Hypernetwork`.

    Raises:
        ValueError: a setting is none of the above.
    """

    BUNDLES: ClassVar[Mapping[str, type]] = {"training": MalmenTraining}
    transforms: Transforms

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        layers: Sequence[str] | None = None,
        rank: int = 1920,
        blocks: int = 2,
        edit_lr: float = 1e-6,
        ridge: float = 1.0,
        history: bool = False,
        rows_per_pass: int = 1024,
        training: HypernetworkTraining = PAPER,
    ):
        layers = _last_outputs(language_model, 6) if layers is None else layers
        super().__init__(language_model, layers=layers, training=training)
        positive(ridge=ridge)
        at_least(0, edit_lr=edit_lr)
        at_least(1, rows_per_pass=rows_per_pass, rank=rank, blocks=blocks)
        self.history = history
        self.rows_per_pass = rows_per_pass
        self.eta = nn.Parameter(torch.full((len(self.layers),), float(edit_lr)))
        self.theta = nn.Parameter(torch.full((len(self.layers),), float(ridge)).log())
        self.transforms = Transforms(
            {layer: language_model.shape(layer) for layer in self.layers},
            rank=rank,
            blocks=blocks,
            film="after",
            floor=STD_FLOOR if training.statistics == "frozen" else 0.0,
        )
        self.in_precision()

    holds = True  # a row that proposes little is one at which the layer is to stay as it is

    def updates(
        self,
        requests: Sequence[Request],
        factors: Mapping[str, Factors],
        joint: bool,
        after: WeightEdit | None,
    ) -> dict[str, LowRank | Dense]:
        """S over the rows of each request, or with ``joint`` over the rows of all of them."""
        past = after.past_keys if after is not None and self.history else {}
        updates = {}
        for layer, eta, theta in zip(self.layers, self.eta, self.theta, strict=True):
            rows = factors[layer]
            keys, changes = rows.keys, eta * self.changes(layer, rows)
            keys, changes = (x[None] if joint else rows.padded(x) for x in (keys, changes))
            updates[layer] = least_squares(keys, changes, theta.exp(), past.get(layer))
        return updates

    def changes(self, layer: str, rows: Factors) -> Tensor:
        """``-(k . k~) g~`` of each row, ``[n, d_out]``: what is proposed, in units of eta."""
        split = (x.split(self.rows_per_pass) for x in (rows.keys, rows.deltas))
        parts = list(zip(*split, strict=True))
        if len(parts) == 1 or not torch.is_grad_enabled():
            return torch.cat([self._changes(layer, *part) for part in parts])
        return torch.cat([self._recomputed_changes(layer, *part) for part in parts])

    def _recomputed_changes(self, layer: str, keys: Tensor, deltas: Tensor) -> Tensor:
        """As `_changes`, whose graph is not kept but made again in the backward pass."""
        return checkpoint(
            self._changes, layer, keys, deltas, use_reentrant=False, preserve_rng_state=False
        )

    def _changes(self, layer: str, keys: Tensor, deltas: Tensor) -> Tensor:
        pseudo_keys, pseudo_deltas = self.transforms(layer, keys, deltas)
        return -(keys * pseudo_keys).sum(1, keepdim=True) * pseudo_deltas

    def edit_lrs(self) -> dict[str, nn.Parameter]:
        """Eta, and theta, the logarithm of the ridge."""
        return {"edit_lr": self.eta, "log_ridge": self.theta}


def _last_outputs(language_model: LanguageModel, count: int) -> list[str]:
    blocks = range(language_model.blocks)[-count:]
    return [language_model.layer("mlp_out", i) for i in blocks]
