"""Running a model again and again on the ends of the same texts, when only the ends change.

What a causal model computes before a token does not depend on it. So where a token's hidden state
is to be shifted at some block, the tokens before it enter as keys and values computed once, and the
blocks below are not run at all. The answers are those of the whole texts.
"""

# N rows, T tokens, P tokens kept as keys and values at most, S tokens of an end at most

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from models.encoding import Batch
from models.hooks import Output, hidden_of, hooked, recorded
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
    below: Output | None

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

    def hidden(self, language_model: LanguageModel, read: Tensor | None = None) -> Tensor:
        """Final hidden states ``[N, S, d]`` of the suffixes, with all hooks from ``first`` on.

        Where some are ``read``, ``[N, S]``, the others need not be right; see `read_alone`.
        """
        cache = DynamicCache()  # a new one each time: the model appends to it
        for index, (keys, values) in enumerate(self.past):
            cache.update(keys, values, index)
        with ExitStack() as stack:
            stack.enter_context(resumed(language_model, self.first, self.below))
            if read is not None:
                stack.enter_context(read_alone(language_model, read))
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
    language_model: LanguageModel, batch: Batch, at: Tensor, first: int, narrow: bool = False
) -> tuple[Suffixes, Tensor]:
    """The suffixes from token ``at[i]`` of each row on, and their labels ``[N, S]``; one pass.

    With ``narrow`` the last block makes keys and values alone: nobody looks at what it says.
    For a model with a sliding window the texts have to fit into the window.
    """
    lowest = language_model.block(max(first - 1, 0))
    with ExitStack() as stack:
        outputs = stack.enter_context(recorded(language_model.modules_of([lowest])))
        if narrow:
            nothing = torch.zeros_like(batch.input_ids, dtype=torch.bool)
            stack.enter_context(read_alone(language_model, nothing))
        states = language_model.model.base_model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=True
        )
    lengths, prefix = batch.attention_mask.sum(1), int(at.max())
    steps = torch.arange(int((lengths - at).max()), device=at.device)
    places = at[:, None] + steps  # [N, S]
    inside = places < lengths[:, None]
    sources = places.clamp(max=batch.input_ids.shape[1] - 1)
    before = torch.arange(prefix, device=at.device) < at[:, None]  # [N, P]
    rows = torch.arange(len(at), device=at.device)[:, None]
    past = []
    for index, layer in enumerate(states.past_key_values.layers):
        pair = (x[:, :, :prefix] for x in (layer.keys, layer.values))
        if index < first:  # never looked at, but the cache has to know how long it is
            pair = (x[:, :1, :, :1] for x in pair)
        past.append(tuple(x.contiguous() for x in pair))
    below = mapped(outputs[lowest], lambda hidden: hidden[rows, sources]) if first else None
    ends = Suffixes(
        batch.input_ids[rows, sources],
        torch.cat([before, inside], dim=1).long(),
        places.clamp(max=language_model.max_length - 1),  # of padding, at most
        tuple(past),
        first,
        below,
    )
    return ends, torch.where(inside, batch.labels[rows, sources], -100)


@contextmanager
def resumed(language_model: LanguageModel, first: int, output: Output | None) -> Iterator[None]:
    """Runs the model from block ``first`` on: the blocks below answer ``output`` without computing.

    Hooks inside those blocks do not run; their ``forward`` is back in place on any exit.
    """
    skipped = [language_model.module(language_model.block(index)) for index in range(first)]
    forwards = [vars(module).get("forward") for module in skipped]  # None: the class's
    try:
        for module in skipped:
            module.forward = lambda *args, **kwargs: output
        yield
    finally:
        for module, forward in zip(skipped, forwards, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward


@contextmanager
def read_alone(language_model: LanguageModel, read: Tensor) -> Iterator[None]:
    """The last block computes for the tokens ``read``, ``[N, S]``, alone, but for keys and values.

    To the others, which no later block looks at, it adds nothing. Hooks that were on its layers
    before see the tokens read as one row, ``[1, n, d]``.
    """
    index, last = read.flatten().nonzero().flatten(), language_model.blocks - 1
    roles = language_model.family.roles
    layers = {role: language_model.layer(role, last) for role in roles}

    def choose(module: nn.Module, args: tuple) -> tuple:
        chosen = args[0].reshape(-1, args[0].shape[-1])[index]
        return (chosen if args[0].ndim == 2 else chosen[None], *args[1:])

    def put_back(name: str, given: Tensor, output: Tensor) -> Tensor:
        rows = output.reshape(-1, output.shape[-1])
        whole = rows.new_zeros(read.numel(), rows.shape[1]).index_copy(0, index, rows)
        return whole if output.ndim == 2 else whole.view(*read.shape, -1)

    outs = [layer for role, layer in layers.items() if role.endswith("_out")]
    with ExitStack() as stack:
        for role, layer in layers.items():
            if role != "mlp_out":
                module = language_model.module(layer)
                stack.callback(module.register_forward_pre_hook(choose).remove)
        stack.enter_context(hooked(language_model.modules_of(outs), put_back))
        yield


def mapped(output: Output | None, change) -> Output | None:
    """The hidden states in a block's output, changed, in the form in which the block answers."""
    if output is None:
        return None
    hidden = change(hidden_of(output))
    return (hidden,) if isinstance(output, tuple) else hidden
