"""Low-rank adapters as edits: LoRA, trained on the requests.

Adapters as Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022,
https://arxiv.org/abs/2106.09685, as EasyEdit trains them (https://github.com/zjunlp/EasyEdit).
Departures: no dropout; fixed ranks, where EasyEdit's default prunes them (AdaLoRA); an edit on top
of another trains an adapter of its own beside it, as in WikiBigEdit, where EasyEdit goes on with
the first.
"""

# N edits, r rank, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from editors.breadth_first import BreadthFirst, Epochs
from editors.settings import at_least, named, positive, shares
from edits.updates import LowRank
from models.hooks import compute_dtype
from models.language_model import LanguageModel

OFFICIAL = Epochs(
    most=70, batch_size=32, shuffle=False, skip_below=None, stop_below=None, mean_over="tokens"
)
"""EasyEdit's; there a batch has one request, and the order is that of the requests."""


class Lora(BreadthFirst):
    """Adam on the factors A and B of each layer, which add ``alpha / rank * x A B`` to its output.

    Args:
        language_model: the model to edit.
        layers: names of the linear maps to adapt; by default ``mlp_out`` of every block, of an
            encoder-decoder every block of the decoder.
        rank: of each adapter.
        alpha: see above.
        lr: of Adam.
        merge_weight: share of each trained adapter that is kept, from 0 to 1; below 1 it is for
            sequences, whose later edits then harm the earlier ones less (WikiBigEdit: .25).
        seed: of A; B is 0 at the start.
        epochs: order of the requests, and when to stop.
        edits_per_batch: independent edits trained at a time.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        layers: Sequence[str] | None = None,
        rank: int = 8,
        alpha: float = 32,
        lr: float = 5e-3,
        merge_weight: float = 1.0,
        seed: int = 0,
        epochs: Epochs = OFFICIAL,
        edits_per_batch: int = 32,
    ):
        at_least(1, rank=rank, edits_per_batch=edits_per_batch)
        positive(alpha=alpha, lr=lr, merge_weight=merge_weight)
        shares(merge_weight=merge_weight)
        self.language_model = language_model
        every = range(language_model.blocks)
        outs = [language_model.layer("mlp_out", block) for block in every]
        self.layers = outs if layers is None else named(layers)
        for layer in self.layers:
            language_model.shape(layer)
        self.rank = rank
        self.alpha = alpha
        self.lr = lr
        self.merge_weight = merge_weight
        at_least(0, seed=seed)
        self.seed = seed
        self.epochs = epochs
        self.edits_per_batch = edits_per_batch

    def start(self, edits: int) -> Adapters:
        """The same adapters for every edit."""
        return Adapters(self.factors(), edits, self.alpha / self.rank)

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Each layer's A ``[d_in, r]``, drawn by the seed as ``peft`` draws it, and B of zeros."""
        model, made = self.language_model, {}
        generator = torch.Generator().manual_seed(self.seed)
        kind = {"dtype": compute_dtype(model.dtype), "device": model.device}
        for layer in self.layers:
            d_in, d_out = model.shape(layer)
            drawn = torch.rand(d_in, self.rank, generator=generator).mul(2).sub(1) / d_in**0.5
            made[layer] = drawn.to(**kind), torch.zeros(self.rank, d_out, **kind)
        return made

    def finished(self, updates: Mapping[str, LowRank]) -> dict[str, LowRank]:
        """The share of them that is kept."""
        return {n: LowRank(u.left, u.right * self.merge_weight) for n, u in updates.items()}


class Adapters:
    """The factors of each layer for each of N edits, all of which start as ``factors``."""

    def __init__(self, factors: Mapping[str, tuple[Tensor, Tensor]], edits: int, scale: float):
        self.layers, self.scale = list(factors), scale
        flat = [factor for pair in factors.values() for factor in pair]
        self.values = [
            # fused Adam reads memory in order
            [factor.detach().clone(memory_format=torch.contiguous_format) for factor in flat]
            for _ in range(edits)
        ]
        for edit in self.values:
            for factor in edit:
                factor.requires_grad_()

    def updates(self, numbers: Sequence[int]) -> dict[str, LowRank]:
        """See `Trained.updates`; B holds the scale."""
        stacks = [torch.stack(x) for x in zip(*(self.values[n] for n in numbers), strict=True)]
        pairs = zip(self.layers, stacks[::2], stacks[1::2], strict=True)
        return {layer: LowRank(down, up * self.scale) for layer, down, up in pairs}
