"""Which feed-forward neurons a fact hangs on, by integrated gradients.

Dai et al., "Knowledge Neurons in Pretrained Transformers", ACL 2022,
https://arxiv.org/abs/2104.08696, equation 4: a neuron's attribution is its activation times the
mean, over shares from 0 to 1 of that activation, of the gradient of the answer's probability. The
neurons of a block are scaled together, at the token that predicts the answer.

That token is the last of its text, so each run with scaled neurons is one token long and starts at
their block; the tokens before it enter as keys and values.

Departures from the authors' code: shares are the midpoints of equal steps, which is exact to one
order more than a grid with both ends; neurons are the inputs of the second projection (behind the
non-linearity, gated ones as products), for these are what its rows are multiplied by; of an
answer of several tokens each is a question of its own, after the right ones, and the mean counts.
"""

# Q questions (one answer token each), B answers, L blocks, d_in neurons of a block, m steps

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from editors.settings import at_least, one_of
from models.encoding import IGNORED, pad_right
from models.hooks import Output, full_precision, recorded, widened
from models.language_model import Batch, LanguageModel
from models.suffixes import Suffixes, suffixes

GRIDS = ("midpoints", "ends")
SITES = ("key", "preactivation")
CONTINUATIONS = ("target", "none")


@dataclass(frozen=True)
class Integral:
    """How attributions are taken.

    Attributes:
        steps: m, shares of the activation at which the gradient is taken.
        grid: ``midpoints`` of m equal steps, or m shares from 0 to 1 with both ``ends``, as the
            authors take them.
        site: what a neuron is: ``key``, an input of the second projection, or ``preactivation``, an
            output of the first one (of the gate where there is one).
        continuation: ``target``, each answer token is to follow those before it; ``none``, each is
            to follow the prompt alone.

    Raises:
        ValueError: an argument is not one of the above.
    """

    steps: int = 20
    grid: str = "midpoints"
    site: str = "key"
    continuation: str = "target"

    def __post_init__(self):
        at_least(2, steps=self.steps)
        one_of("grid", self.grid, GRIDS)
        one_of("site", self.site, SITES)
        one_of("continuation", self.continuation, CONTINUATIONS)

    def shares(self, like: Tensor) -> Tensor:
        """``[m]``, from 0 to 1."""
        if self.grid == "ends":
            return torch.linspace(0, 1, self.steps).to(like)
        return ((torch.arange(self.steps) + 0.5) / self.steps).to(like)


def attributions(
    language_model: LanguageModel,
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
    blocks: Sequence[int],
    integral: Integral,
    rows_per_batch: int = 256,
) -> Tensor:
    """Attribution ``[B, L, d_in]`` of each neuron of the blocks, to the probability of each answer.

    Summed over a block's neurons it is the probability with all of them less that with none, as
    nearly as the steps allow. Hooks that are on the model are part of it.

    Args:
        language_model: who is asked.
        prompts: B texts.
        answers: token ids that may follow each.
        blocks: numbers of L blocks, from the lowest up.
        integral: how.
        rows_per_batch: bounds the memory taken; results do not depend on it.
    """
    batch, owner = _questions(language_model, prompts, answers, integral.continuation)
    size = max(1, rows_per_batch // integral.steps)
    parts = 1 / torch.tensor([len(answer) for answer in answers]).double()[owner]
    total: Tensor | None = None
    with full_precision(language_model.device), torch.no_grad():
        for index in torch.arange(len(owner)).split(size):
            questions = batch.rows(index.to(batch.labels.device))
            values = _of_questions(language_model, questions, blocks, integral)
            if total is None:
                total = values.new_zeros(len(prompts), *values.shape[1:])
            part = values * parts[index].to(values)[:, None, None]
            total.index_add_(0, owner[index].to(values.device), part)
    assert total is not None  # there is a question at least
    return total


def _questions(
    language_model: LanguageModel,
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
    continuation: str,
) -> tuple[Batch, Tensor]:
    """Q texts, each with one answer token at its end, and the number of that answer, ``[Q]``."""
    alone = language_model.encode(prompts, None)
    texts, tokens, owner = [], [], []
    for number, answer in enumerate(answers):
        prompt = alone.input_ids[number][alone.attention_mask[number].bool()].tolist()
        for place, token in enumerate(answer):
            texts.append(prompt + list(answer[:place]) if continuation == "target" else prompt)
            tokens.append([token])
            owner.append(number)
    batch = pad_right(texts, tokens, 0)  # any id would do: padding is masked
    return batch.to(language_model.device), torch.tensor(owner)


def _of_questions(
    language_model: LanguageModel, batch: Batch, blocks: Sequence[int], integral: Integral
) -> Tensor:
    """Attributions ``[Q, L, d_in]`` of the questions of one batch."""
    length = batch.attention_mask.sum(1)
    tokens = batch.labels[batch.labels != IGNORED]  # [Q]
    place = torch.arange(batch.labels.shape[1], device=length.device)
    text = replace(batch, attention_mask=(place < length[:, None] - 1).long())
    ends, _ = suffixes(language_model, text, length - 2, 0)
    below, neurons = _outputs_and_neurons(language_model, ends, blocks, integral.site)
    rows = torch.arange(len(tokens), device=tokens.device).repeat_interleave(integral.steps)
    parts = []
    for block in blocks:
        activation = neurons[block]  # [Q, d_in]
        shares = integral.shares(activation)
        scaled = (shares[:, None] * activation[:, None]).flatten(0, 1)  # [Q * m, d_in]
        resumed = replace(ends, first=block, below=below[block - 1] if block else None).of(rows)
        with torch.enable_grad():
            scaled.requires_grad_()
            with _replaced(language_model, block, integral.site, lambda _, new=scaled: new):
                hidden = resumed.hidden(language_model)[:, -1]
            chances = language_model.head(hidden).softmax(-1)  # [Q * m, V]
            chance = chances.gather(1, tokens[rows][:, None]).sum()
            [slope] = torch.autograd.grad(chance, scaled)
        mean = widened(slope).unflatten(0, (-1, integral.steps)).mean(1)
        parts.append(widened(activation) * mean)
    return torch.stack(parts, 1)


def _outputs_and_neurons(
    language_model: LanguageModel, ends: Suffixes, blocks: Sequence[int], site: str
) -> tuple[list[Output], dict[int, Tensor]]:
    """The output of every block for the ends, and the neurons ``[Q, d_in]`` of these blocks."""
    names = [language_model.block(index) for index in range(language_model.blocks)]
    neurons: dict[int, Tensor] = {}
    with ExitStack() as stack:
        outputs = stack.enter_context(recorded(language_model.modules_of(names)))
        for block in blocks:

            def look(x: Tensor, block: int = block) -> Tensor:
                neurons[block] = x
                return x

            stack.enter_context(_replaced(language_model, block, site, look))
        ends.hidden(language_model)
    return [outputs[name] for name in names], neurons


@contextmanager
def _replaced(
    language_model: LanguageModel, block: int, site: str, change: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Puts ``change(neurons)`` in the place of a block's neurons, ``[rows, d_in]``."""

    def changed(x: Tensor) -> Tensor:
        return change(x.flatten(0, -2)).view_as(x)  # a row is one token

    if site == "key":
        module = language_model.module(language_model.layer("mlp_out", block))
        hook = module.register_forward_pre_hook(lambda m, args: (changed(args[0]), *args[1:]))
    else:
        role = "mlp_gate" if "mlp_gate" in language_model.family.roles else "mlp_in"
        module = language_model.module(language_model.layer(role, block))

        def behind(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            return changed(output)

        hook = module.register_forward_hook(behind)
    try:
        yield
    finally:
        hook.remove()
