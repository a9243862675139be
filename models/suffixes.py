"""Running a model again and again on the ends of the same texts, when only the ends change.

What a causal model computes before a token does not depend on it. So where a token's hidden state
is to be shifted at some block, the tokens before it enter as keys and values computed once, and the
blocks below are not run at all. The answers are those of the whole texts.
"""

# N texts, R rows, T tokens, P tokens of a row kept as keys and values at most, S tokens that are
# run at most

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache

from models.encoding import IGNORED, Batch, attention_bias
from models.hooks import Output, hidden_of, hooked, recorded
from models.language_model import LanguageModel

KEPT = 2**16
"""Tokens of which what lower blocks say is kept, at most; of more they are run again."""


@dataclass(frozen=True)
class Suffixes:
    """Texts' tokens, each text's from a place of its own on, and what they depend on.

    A row holds one text, or several that do not see each other; it is padded on the right.

    Attributes:
        input_ids: ``[R, S]``.
        text: ``[R, S]``, the number in its row of each token's text, -1 for padding.
        past_text: ``[R, P]``, the same of the tokens that are kept.
        positions: ``[R, S]``, places of the tokens in the whole text.
        past: keys and values ``[R, heads, P, d_head]`` of each block, stand-ins below ``first``.
        first: the lowest block that is run.
        below: what block ``first - 1`` says about the suffixes, ``[R, S, d]`` (in a tuple if the
            block answers so); None if ``first`` is 0.
    """

    input_ids: Tensor
    text: Tensor
    past_text: Tensor
    positions: Tensor
    past: tuple[tuple[Tensor, Tensor], ...]
    first: int
    below: Output | None

    def of(self, rows: Tensor) -> Suffixes:
        """Those of some of the rows."""
        return Suffixes(
            self.input_ids[rows],
            self.text[rows],
            self.past_text[rows],
            self.positions[rows],
            tuple((keys[rows], values[rows]) for keys, values in self.past),
            self.first,
            mapped(self.below, lambda hidden: hidden[rows]),
        )

    def hidden(self, language_model: LanguageModel, read: Tensor | None = None) -> Tensor:
        """Final hidden states ``[R, S, d]`` of the suffixes, with all hooks from ``first`` on.

        Where some are ``read``, ``[R, S]``, the others need not be right; see `read_alone`.
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
                attention_mask=self._bias(language_model.dtype),
                position_ids=self.positions,
                past_key_values=cache,
                use_cache=True,
            )
        return states.last_hidden_state

    def _bias(self, dtype: torch.dtype) -> Tensor:
        """See `attention_bias`; padding sees itself."""
        past, own = (self.text[:, :, None] == x[:, None] for x in (self.past_text, self.text))
        return attention_bias(torch.cat([past, own.tril()], dim=2), dtype)

    def packed(self, texts: int) -> tuple[Suffixes, Tensor]:
        """Each ``texts`` successive rows of one text as one row, without padding between them.

        Returns:
            The rows, and where each of their tokens stood, counted through ``[R * S]``, -1 for
            padding.
        """
        own, past = (_packing(x >= 0, texts) for x in (self.text, self.past_text))
        rows = len(own)

        def put(x: Tensor, source: Tensor) -> Tensor:  # [R, S, ...]
            return x.flatten(0, 1)[source.clamp(min=0)]

        def numbered(source: Tensor, width: int) -> Tensor:
            return torch.where(source >= 0, source // max(width, 1) % texts, -1)

        pairs: list[Any] = [
            tuple(put(x.transpose(1, 2), past).transpose(1, 2).contiguous() for x in pair)
            if index >= self.first
            else tuple(x[:rows] for x in pair)
            for index, pair in enumerate(self.past)
        ]
        one = Suffixes(
            put(self.input_ids, own),
            numbered(own, self.text.shape[1]),
            numbered(past, self.past_text.shape[1]),
            put(self.positions, own),
            tuple(pairs),
            self.first,
            mapped(self.below, lambda hidden: put(hidden, own)),
        )
        return one, own

    @staticmethod
    def joined(parts: Sequence[Suffixes]) -> Suffixes:
        """The rows of all parts, one after another."""
        most = max(part.past_text.shape[1] for part in parts)
        width = max(part.text.shape[1] for part in parts)

        def whole(name: str, size: int, value: int) -> Tensor:
            tensors = [getattr(part, name) for part in parts]
            return torch.cat([pad(x, (0, size - x.shape[1]), value=value) for x in tensors])

        def cached(tensors: Sequence[Tensor], kept: bool) -> Tensor:
            size = most if kept else max(x.shape[2] for x in tensors)
            return torch.cat([pad(x, (0, 0, 0, size - x.shape[2])) for x in tensors])

        first = parts[0].first
        blocks = zip(*(part.past for part in parts), strict=True)
        past: list[Any] = [
            tuple(cached(x, index >= first) for x in zip(*pairs, strict=True))
            for index, pairs in enumerate(blocks)
        ]
        below = None
        if first:
            states = [hidden_of(part.below) for part in parts if part.below is not None]
            states = torch.cat([pad(x, (0, 0, 0, width - x.shape[1])) for x in states])
            below = mapped(parts[0].below, lambda _: states)
        return Suffixes(
            whole("input_ids", width, 0),
            whole("text", width, -1),
            whole("past_text", most, -1),
            whole("positions", width, 0),
            tuple(past),
            first,
            below,
        )


def _packing(inside: Tensor, texts: int) -> Tensor:
    """Where the tokens of packed rows come from, counted through ``inside``; -1: padding."""
    width = inside.shape[1]
    sources = torch.arange(inside.numel(), device=inside.device).view(-1, texts * width)
    tokens = inside.view(len(sources), texts * width)
    order = (~tokens).int().argsort(dim=1, stable=True)[:, : int(tokens.sum(1).max())]
    return torch.where(tokens.gather(1, order), sources.gather(1, order), -1)


@torch.no_grad()
def suffixes(
    language_model: LanguageModel, batch: Batch, at: Tensor, first: int, narrow: bool = False
) -> tuple[Suffixes, Tensor]:
    """The suffixes from token ``at[i]`` of each text on, and their labels ``[N, S]``; one pass.

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
        inside.long() - 1,
        before.long() - 1,
        places.clamp(max=language_model.max_length - 1),  # of padding, at most
        tuple(past),
        first,
        below,
    )
    return ends, torch.where(inside, batch.labels[rows, sources], IGNORED)


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

    fed = ("attn_out", "mlp_out") if "mlp_in" in roles else ("attn_out",)  # experts see all tokens
    outs = [layers[role] for role in fed]
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
