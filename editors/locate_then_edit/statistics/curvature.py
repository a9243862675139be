"""How steep a model's loss on ordinary text is, direction by direction of a weight: K-FAC.

Of a linear map with inputs k and gradients g at its outputs, the curvature of the loss for a
change ``u v^T`` of the weight ``[d_in, d_out]`` is about ``(u^T A u) (v^T B v)`` with
``A = E[k k^T]`` and ``B = E[g g^T]`` (Martens and Grosse, "Optimizing Neural Networks with
Kronecker-factored Approximate Curvature", ICML 2015, https://arxiv.org/abs/1503.05671), g of the
true next token: the empirical Fisher information. CrispEdit (2026,
https://arxiv.org/abs/2602.15823) keeps fine-tuning out of the steepest directions, which share
``energy`` of all the curvature.

Departure: the changes themselves are kept out of them, not the gradients, which Adam scales entry
by entry behind a projection.
"""

# d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.text import TextCorpus
from editors.locate_then_edit.statistics.moments import Corpus
from editors.settings import at_least, shares
from models.capture import captured
from models.encoding import IGNORED, Batch
from models.hooks import full_precision, widened
from models.language_model import LanguageModel

HALVINGS = 200
"""Of the interval in which a threshold is looked for: more than a float64 can tell apart."""


@dataclass(frozen=True, eq=False)
class Flat:
    """The directions of a weight in which changes are allowed.

    Attributes:
        inputs: orthonormal, ``[d_in, d_in]``, a column a direction.
        outputs: orthonormal, ``[d_out, d_out]``.
        allowed: bool ``[d_in, d_out]``, which pairs of them.
    """

    inputs: Tensor
    outputs: Tensor
    allowed: Tensor

    def part(self, change: Tensor) -> Tensor:
        """The part of a change ``[d_in, d_out]`` that lies in them; in its precision."""
        inputs, outputs = self.inputs.to(change), self.outputs.to(change)
        return inputs @ ((inputs.T @ change @ outputs) * self.allowed) @ outputs.T


@dataclass(frozen=True)
class Curvature:
    """Which directions are steep on the texts of a corpus.

    Attributes:
        corpus: of ordinary text.
        energy: share of the curvature that changes keep out of, from 0 (they are free) to 1.
        limit: take only so many texts from the start; None: all.
        max_length: longer texts are cut after so many tokens, or what the model takes if less.

    Raises:
        ValueError: there is no corpus, or a setting is none of these.
    """

    corpus: Corpus
    energy: float = 0.99
    limit: int | None = 1000
    max_length: int = 512

    def __post_init__(self):
        if self.corpus is None:
            raise ValueError("curvature is that of a corpus: give one")
        shares(energy=self.energy)
        at_least(1, limit=self.limit)
        at_least(2, max_length=self.max_length)

    def of(self, language_model: LanguageModel, layers: Sequence[str]) -> dict[str, Flat]:
        """The flat directions of each layer.

        Raises:
            ValueError: no text has a second token.
        """
        factors = kronecker_factors(language_model, layers, self)
        return {layer: flat(*pair, self.energy) for layer, pair in factors.items()}


def kronecker_factors(
    language_model: LanguageModel, layers: Sequence[str], curvature: Curvature
) -> dict[str, tuple[Tensor, Tensor]]:
    """``A`` and ``B`` of each layer, float64, means over all tokens that predict another one."""
    texts = TextCorpus(curvature.corpus.texts[: curvature.limit])
    length = min(curvature.max_length, language_model.max_length)
    sums: dict[str, list[Tensor]] = {}
    for layer in layers:
        sizes = language_model.shape(layer)
        sums[layer] = [torch.zeros(d, d, dtype=torch.float64) for d in sizes]
    count = 0
    for ids, mask in texts.token_batches(language_model.tokenizer, 2048, length):
        with full_precision(language_model.device):
            count += _add(language_model, ids, mask, sums)
    if not count:
        raise ValueError("curvature: no text of the corpus has a second token")
    return {layer: (inputs / count, outputs / count) for layer, (inputs, outputs) in sums.items()}


def _add(
    language_model: LanguageModel, ids: Tensor, mask: Tensor, sums: dict[str, list[Tensor]]
) -> int:
    """Adds the products of a batch of texts, and says of how many tokens."""
    batch = Batch(ids, mask, ids.masked_fill(mask == 0, IGNORED)).to(language_model.device)
    reached = batch.labels[:, 1:] != IGNORED
    with captured(language_model, list(sums), gradients=True) as captures:
        hidden = language_model.hidden(batch)[:, :-1][reached]
        loss = F.cross_entropy(
            language_model.head(hidden), batch.labels[:, 1:][reached], reduction="sum"
        )
        slopes = torch.autograd.grad(loss, [captures[layer].output for layer in sums])
    for (layer, totals), slope in zip(sums.items(), slopes, strict=True):
        for total, rows in zip(totals, (captures[layer].keys, slope), strict=True):
            used = widened(rows[:, :-1][reached]).double()
            total += (used.T @ used).to(total)
    return int(reached.sum())


def flat(inputs: Tensor, outputs: Tensor, energy: float) -> Flat:
    """What is left of all directions without the steepest, which share ``energy`` of it all."""
    a, into = torch.linalg.eigh(inputs)
    b, out = torch.linalg.eigh(outputs)
    a, b = a.clamp(min=0), b.clamp(min=0)
    return Flat(into, out, a[:, None] * b < threshold(a, b, energy))


def threshold(a: Tensor, b: Tensor, energy: float) -> float:
    """The largest t for which the products ``a_i b_j >= t`` are ``energy`` of the sum of all.

    By halving, since a large layer has too many products to sort.

    Args:
        a: at least 0, in rising order.
        b: also.
        energy: share from 0 to 1; of 0 t is infinite.
    """
    wanted = energy * float(a.sum() * b.sum())
    if wanted <= 0:
        return torch.inf
    sums = torch.cat([b.flip(0).cumsum(0).flip(0), b.new_zeros(1)])  # of all from the i-th on
    low, high = 0.0, float(a[-1] * b[-1]) * 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        from_ = torch.searchsorted(b, middle / a.clamp(min=torch.finfo(a.dtype).tiny))
        if float((a * sums[from_]).sum()) >= wanted * (1 - 1e-12):
            low = middle
        else:
            high = middle
    return low * (1 - 1e-12)  # products that are equal to it are in
