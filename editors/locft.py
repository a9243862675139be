"""Localized fine-tuning, breadth first: LocFT-BF.

As ICT-STAR's code (https://github.com/ICT-STAR/LocFT, ICLR 2026) trains it: Adam on one late
projection, all requests of an edit in batches, epoch by epoch, where FT-M trains until each is
true. Its targets end with the end token: render requests with ``end=eos``. Departures: a rendering
decides that end, and the norms of a block, which one of its settings trains, are left alone.

With a ``constraint`` it is CrispEdit (2026, https://arxiv.org/abs/2602.15823), whose changes keep
out of the directions in which the loss on ordinary text is steep. Departures from it: see
`editors.locate_then_edit.statistics.curvature`; the curvature is that of the text alone, also for
an edit that goes on from another.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from editors.breadth_first import BreadthFirst, Epochs, Trained
from editors.finetune import Changes, late_layer
from editors.locate_then_edit.statistics.curvature import Curvature, Flat
from editors.settings import at_least, named, positive
from models.language_model import LanguageModel


class LocFt(BreadthFirst):
    """Adam on the weights of a few layers, over all requests together.

    Args:
        language_model: the model to edit.
        layers: names of the linear maps to train; by default ``mlp_out`` of the block two thirds
            up, of an encoder-decoder that of the decoder's last.
        lr: of Adam.
        weight_decay: Adam's L2 form, on the whole weight.
        bias: train the layers' biases too.
        epochs: order of the requests, and when to stop.
        constraint: which changes are allowed; None: all.
        edits_per_batch: independent edits trained at a time; each takes four copies of the layers.

    Raises:
        ValueError: a setting is none of these, or biases are trained under a constraint.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        layers: Sequence[str] | None = None,
        lr: float = 5e-4,
        weight_decay: float = 0.0,
        bias: bool = False,
        epochs: Epochs = Epochs(),  # noqa: B008 (frozen)
        constraint: Curvature | None = None,
        edits_per_batch: int = 16,
    ):
        at_least(1, edits_per_batch=edits_per_batch)
        at_least(0, weight_decay=weight_decay)
        positive(lr=lr)
        self.language_model = language_model
        self.layers = [late_layer(language_model)] if layers is None else named(layers)
        for layer in self.layers:
            language_model.shape(layer)
        self.lr = lr
        self.weight_decay = weight_decay
        self.bias = bias
        self.epochs = epochs
        self.edits_per_batch = edits_per_batch
        self.constraint = constraint
        self.flat: dict[str, Flat] = {}
        if constraint is not None:
            language_model.require_decoder_only("crispedit")
            if bias:
                raise ValueError("bias=true: crispedit knows the curvature of weights alone")
            self.name = "crispedit"

    def prepare(self) -> None:
        """Takes the curvature of the unedited model, once."""
        if self.constraint is not None and not self.flat:
            self.flat = self.constraint.of(self.language_model, self.layers)

    def start(self, edits: int) -> Changes:
        """No change yet."""
        return Changes(self.language_model, self.layers, edits, self.bias)

    def slope(self, trained: Trained, number: int, at: int, gradient: Tensor) -> Tensor:
        """The gradient, and the pull of the decay on the weight as it is by then."""
        assert isinstance(trained, Changes)
        weight = trained.starts[at] + trained.values[number][at].detach()
        return gradient.contiguous().add(weight, alpha=self.weight_decay)

    def project(self, trained: Trained, numbers: Sequence[int]) -> None:
        """The part of the changes that the constraint allows."""
        for number in numbers if self.flat else ():
            for layer, value in zip(self.layers, trained.values[number], strict=True):
                value.copy_(self.flat[layer].part(value))
