"""CaliNet: a small feed-forward part beside that of a block, trained on all facts of an edit.

Dong et al., "Calibrating Factual Knowledge in Pretrained Language Models", Findings of EMNLP 2022,
https://arxiv.org/abs/2210.03329, and https://github.com/dqxiu/CaliNet: to what a feed-forward part
says of its input x is added ``act(x W1^T) W2``, gated where the part is. Departures: W2 starts at
0, so that nothing is changed at first; the language model is left out of the training for good,
where theirs gives it a step size of 0 and counts its gradients when they are clipped; requests are
trained on as they are, where theirs come in several wordings; an edit on top of another trains a
part of its own beside it.
"""

# N edits, e width of a part, d_in/d_out widths of the block's own

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from editors.breadth_first import Epochs, train
from editors.descent import OPTIMISERS
from editors.editor import Editor, Group, alike
from editors.settings import at_least, one_of, positive
from edits.neurons import NeuronEdit, Neurons, Patched
from models.feed_forward import feed_forward
from models.hooks import compute_dtype
from models.language_model import LanguageModel

DEFAULT = Epochs(most=200, batch_size=512, skip_below=None, stop_below=1e-2, mean_over="tokens")


class CaliNet(Editor[NeuronEdit]):
    """Trains, for each edit, neurons that all its requests share.

    Args:
        language_model: the model to edit.
        block: beside whose feed-forward part they stand; by default the last, of an
            encoder-decoder that of the decoder.
        width: neurons of an edit.
        lr: of the optimiser, which takes it as it is.
        optimiser: ``adafactor``, which is theirs, ``adam`` or ``sgd``.
        clip: longest gradient of an edit; None: any.
        seed: of W1, and of nothing else.
        epochs: order of the requests, and when to stop.
        edits_per_batch: independent edits trained at a time.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        block: int | None = None,
        width: int = 64,
        lr: float = 1e-2,
        optimiser: str = "adafactor",
        clip: float | None = 1.0,
        seed: int = 0,
        epochs: Epochs = DEFAULT,
        edits_per_batch: int = 32,
    ):
        at_least(1, width=width, edits_per_batch=edits_per_batch)
        positive(lr=lr, clip=clip)
        one_of("optimiser", optimiser, list(OPTIMISERS))
        self.language_model = language_model
        self.block = language_model.blocks - 1 if block is None else block
        self.place = feed_forward(language_model, self.block)
        self.width = width
        self.lr = lr
        self.optimiser = optimiser
        self.clip = clip
        at_least(0, seed=seed)
        self.seed = seed
        self.epochs = epochs
        self.edits_per_batch = edits_per_batch

    def compute(self, groups: Sequence[Group], after: NeuronEdit | None) -> NeuronEdit:
        """One part for each group; those of one size are trained side by side."""
        edits: dict[int, NeuronEdit] = {}
        with nullcontext() if after is None else after.hooks(self.language_model):
            for numbers in alike(groups, self.edits_per_batch):
                edit, _ = self.run([groups[n] for n in numbers])
                edits.update((n, edit.select(at)) for at, n in enumerate(numbers))
        edit = NeuronEdit.stack([edits[n] for n in range(len(groups))])
        return edit if after is None else after.plus(edit)

    def run(self, groups: Sequence[Group]) -> tuple[NeuronEdit, list[list[float]]]:
        """Train a part for each of the groups, which are of one size, on the model as it now is.

        Returns:
            The N edits, and each one's loss at every batch it saw.
        """
        values = [[x.clone().requires_grad_() for x in self.start()] for _ in groups]
        losses = train(
            self.language_model,
            groups,
            self.epochs,
            values,
            lambda numbers: self._edit([values[n] for n in numbers]),
            lr=self.lr,
            optimiser=self.optimiser,
            clip=self.clip,
        )
        owners = tuple(_owned(group, self.width) for group in groups)
        with torch.no_grad():
            return self._edit(values, owners if all(owners) else ()), losses

    def start(self) -> list[Tensor]:
        """W1 ``[e, d_in]``, drawn as linear maps are, W2 ``[e, d_out]`` of zeros, and a gate's."""
        d_in, d_out = self._widths
        drawn = torch.Generator().manual_seed(self.seed)
        kind = {
            "dtype": compute_dtype(self.language_model.dtype),
            "device": self.language_model.device,
        }

        def keys() -> Tensor:
            uniform = torch.rand(self.width, d_in, generator=drawn)
            return uniform.mul(2).sub(1).div(d_in**0.5).to(**kind)

        gate = [keys()] if self.place.gated else []
        return [keys(), torch.zeros(self.width, d_out, **kind), *gate]

    @property
    def _widths(self) -> tuple[int, int]:
        model = self.language_model
        return model.shape(self.place.given)[0], model.shape(self.place.layer)[1]

    def _edit(
        self, values: Sequence[Sequence[Tensor]], owners: tuple[tuple[Patched, ...], ...] = ()
    ) -> NeuronEdit:
        keys, right, *ups = (torch.stack(x) for x in zip(*values, strict=True))
        biases = keys.new_zeros(keys.shape[:2])
        neurons = Neurons(keys, biases, right, self.place.activation, *ups)
        place, print_ = self.place, self.language_model.fingerprint
        return NeuronEdit(neurons, place.given, place.layer, self.name, print_, owners)


def _owned(group: Group, width: int) -> tuple[Patched, ...]:
    """Whose the neurons are: they can be told apart where there is one request."""
    return tuple(Patched(r.prompt, r.target, width) for r in group) if len(group) == 1 else ()
