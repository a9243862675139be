"""Running a model again and again on the ends of the same texts, when only the ends change.

What a causal model computes before a token does not depend on it. So where a token's hidden state
is to be shifted at some block, the tokens before it enter as keys and values computed once, and the
blocks below are not run at all. The answers are those of the whole texts.
"""

# N rows, T tokens, P tokens kept as keys and values at most, S tokens of an end at most

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from editors.locate_then_edit.sites import hidden_of
from models.encoding import Batch
from models.language_model import LanguageModel


@dataclass(frozen=True)
class Suffixes:
    """Each row's tokens from its own position on, right padded, and what they depend on.

    Attributes:
        input_ids: ``[N, S]``.
        mask: ``[N, P + S]``, 1 for the row's tokens among those kept, then among its suffix.
        positions: ``[N, S]``, places of the tokens in the whole text.
        past: keys and values ``[N, heads, P, d_head]`` of each block, stand-ins below ``first``.
        first: the lowest block that is run.
        below: what block ``first - 1`` says about the suffixes, ``[N, S, d]`` (in a tuple if the
            block answers so); None if ``first`` is 0.
    """

    input_ids: Tensor
    mask: Tensor
    positions: Tensor
    past: tuple[tuple[Tensor, Tensor], ...]
    first: int
    below: Tensor | tuple | None

    def of(self, rows: Tensor) -> Suffixes:
        """Those of some of the rows."""
        return Suffixes(
            self.input_ids[rows],
            self.mask[rows],
            self.positions[rows],
            tuple((keys[rows], values[rows]) for keys, values in self.past),
            self.first,
            mapped(self.below, lambda hidden: hidden[rows]),
        )

    def hidden(self, language_model: LanguageModel) -> Tensor:
        """Final hidden states ``[N, S, d]`` of the suffixes, with all hooks from ``first`` on."""
        cache = DynamicCache()  # a new one each time: the model appends to it
        for index, (keys, values) in enumerate(self.past):
            cache.update(keys, values, index)
        with resumed(language_model, self.first, self.below):
            states = language_model.model.base_model(
                input_ids=self.input_ids,
                attention_mask=self.mask,
                position_ids=self.positions,
                past_key_values=cache,
                use_cache=True,
            )
        return states.last_hidden_state


@torch.no_grad()
def suffixes(
    language_model: LanguageModel, batch: Batch, at: Tensor, first: int
) -> tuple[Suffixes, Tensor]:
    """The suffixes from token ``at[i]`` of each row on, and their labels ``[N, S]``; one pass.

    For a model with a sliding window the texts have to fit into the window.
    """
    outputs: list[Tensor | tuple] = []
    lowest = language_model.module(language_model.block(max(first - 1, 0)))
    hook = lowest.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        states = language_model.model.base_model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=True
        )
    finally:
        hook.remove()
    lengths, kept = batch.attention_mask.sum(1), int(at.max())
    steps = torch.arange(int((lengths - at).max()), device=at.device)
    places = at[:, None] + steps  # [N, S]
    inside = places < lengths[:, None]
    taken = places.clamp(max=batch.input_ids.shape[1] - 1)
    before = torch.arange(kept, device=at.device) < at[:, None]  # [N, P]
    rows = torch.arange(len(at), device=at.device)[:, None]
    past = []
    for index, layer in enumerate(states.past_key_values.layers):
        pair = (x[:, :, :kept] for x in (layer.keys, layer.values))
        if index < first:  # never looked at, but the cache has to know how long it is
            pair = (x[:, :1, :, :1] for x in pair)
        past.append(tuple(x.contiguous() for x in pair))
    below = mapped(outputs[0], lambda hidden: hidden[rows, taken]) if first else None
    ends = Suffixes(
        batch.input_ids[rows, taken],
        torch.cat([before, inside], dim=1).long(),
        places.clamp(max=language_model.max_length - 1),  # of padding, at most
        tuple(past),
        first,
        below,
    )
    return ends, torch.where(inside, batch.labels[rows, taken], -100)


@contextmanager
def resumed(
    language_model: LanguageModel, first: int, output: Tensor | tuple | None
) -> Iterator[None]:
    """Runs the model from block ``first`` on: the blocks below answer ``output`` without computing.

    Hooks inside those blocks do not run; their ``forward`` is back in place on any exit.
    """
    stack = language_model.module(language_model.family.stack)
    skipped = [stack[index] for index in range(first)]
    own = [vars(module).get("forward") for module in skipped]  # None: the class's
    try:
        for module in skipped:
            module.forward = lambda *args, **kwargs: output
        yield
    finally:
        for module, forward in zip(skipped, own, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def mapped(output: Tensor | tuple | None, change) -> Tensor | tuple | None:
    """The hidden states in a block's output, changed, in the form in which the block answers."""
    if output is None:
        return None
    hidden = change(hidden_of(output))
    return (hidden,) if isinstance(output, tuple) else hidden
