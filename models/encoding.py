"""From texts to padded batches of token ids, and back to places in the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from models.rendering import Rendering

IGNORED = -100
"""Label of positions that hold no target token."""

A_PASS = 32
"""Tokens that take a processor core as long as a pass of few tokens does beside them."""

CACHED = 1024
"""Padded tokens of a pass on a processor, where more of them at once are no faster."""

_REMEMBERED = 2**16  # texts whose ids are kept


@dataclass(frozen=True)
class Batch:
    """Token sequences, padded on the right; on the left where they are to be continued.

    Attributes:
        input_ids: ``[B, T]``.
        attention_mask: ``[B, T]``, 1 for tokens and 0 for padding.
        labels: ``[B, T]``, the target's token ids at their own positions and -100 elsewhere;
            position ``t`` is predicted at ``t - 1``, and whoever scores shifts by one.
        source: what the encoder reads, with its own T, if the model has one; the other three are
            then the decoder's: its start, and the target behind it.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    source: Batch | None = None

    @property
    def read(self) -> Batch:
        """What is read before an answer: the source if there is one, else the sequences."""
        return self if self.source is None else self.source

    @property
    def asked(self) -> Tensor:
        """Place ``[B]`` of the token that predicts the first of each row's labels."""
        return (self.labels != IGNORED).int().argmax(1) - 1

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row ``[B]``, those of its source included."""
        own = self.attention_mask.sum(1)
        return own if self.source is None else own + self.source.lengths

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self._each(lambda x: x.to(device))

    def rows(self, index: Tensor | Sequence[int] | slice) -> Batch:
        """Some of the rows."""
        return self._each(lambda x: x[index])

    def trimmed(self) -> Batch:
        """The same rows without the padding that all of them share."""
        width = int(self.attention_mask.sum(1).max()) if len(self.input_ids) else 0
        ids, mask, labels = (
            x[:, :width] for x in (self.input_ids, self.attention_mask, self.labels)
        )
        return Batch(ids, mask, labels, None if self.source is None else self.source.trimmed())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        ids, mask, labels = map(change, (self.input_ids, self.attention_mask, self.labels))
        return Batch(ids, mask, labels, None if self.source is None else self.source._each(change))


def pad_right(prompts: Sequence[list[int]], targets: Sequence[list[int]], pad_id: int) -> Batch:
    """A batch of the prompts' ids, each followed by its target's ids."""
    lengths = [len(p) + len(t) for p, t in zip(prompts, targets, strict=True)]
    width = max(lengths, default=0)
    ids, mask, labels = [], [], []
    for prompt, target, length in zip(prompts, targets, lengths, strict=True):
        blank = width - length
        ids.append([*prompt, *target, *[pad_id] * blank])
        mask.append([1] * length + [0] * blank)
        labels.append([IGNORED] * len(prompt) + list(target) + [IGNORED] * blank)
    shape = (len(lengths), width)
    whole = [torch.tensor(x, dtype=torch.long).reshape(shape) for x in (ids, mask, labels)]
    return Batch(whole[0], whole[1], whole[2])


def pad_left(prompts: Sequence[list[int]], pad_id: int) -> Batch:
    """A batch of prompts that are to be continued."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return Batch(ids, mask, torch.full_like(ids, IGNORED))


def micro_batches(
    lengths: Sequence[int], tokens_per_batch: int, most_padding: float = inf
) -> list[list[int]]:
    """Rows of like length, longest first, in groups of at most ``tokens_per_batch`` padded tokens.

    Of these at most ``most_padding`` are padding. A row that is longer than a group may be makes
    one of its own.
    """
    groups: list[list[int]] = []
    width = room = padding = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        padding += width - lengths[row]
        if room < lengths[row] or padding > most_padding:
            groups.append([])
            width, padding = lengths[row], 0  # a group is as wide as its first row
            room = max(tokens_per_batch // max(width, 1), 1) * width
        groups[-1].append(row)
        room -= width
    return groups


def attention_bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention logits ``[B, 1, T, S]``: 0 where a token sees another.

    Args:
        seen: bool ``[B, T, S]``; where nothing is seen, as by padding, everything counts alike.
        dtype: of the model. Softmax may be taken in float32, in which the bias is finite too.
    """
    least = max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)
    bias = torch.full(seen.shape, least, dtype=dtype, device=seen.device)
    return bias.masked_fill(seen, 0)[:, None]


class TokenIds:
    """Token ids of prompts and targets; remembers the texts it met last.

    Args:
        tokenizer: a fast one.
        rendering: how a prompt stands in the text that is read.

    Raises:
        ValueError: the tokenizer gives no offsets, or has not what the rendering takes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rendering: Rendering):
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} gives no character offsets; use a fast tokenizer"
            )
        self.tokenizer = tokenizer
        self.before, self.behind = rendering.around(tokenizer)
        # a template brings its own special tokens
        self._special = rendering.render == "text"
        self.ending = rendering.ending(tokenizer)
        self.stops = rendering.stops(tokenizer)
        self._known: dict[tuple[str, bool], list[int]] = {}

    def prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Ids of each prompt, with the special tokens that the tokenizer puts around a text.

        Raises:
            ValueError: a prompt has no token, so that nothing could predict what follows.
        """
        ids = self._ids(self.rendered(prompts), special=self._special)
        for prompt, prompt_ids in zip(prompts, ids, strict=True):
            if not prompt_ids:
                raise ValueError(f"prompt {prompt!r} has no token")
        return ids

    def targets(self, prompts: Sequence[str], targets: Sequence[str]) -> list[list[int]]:
        """Ids of each target as it continues its prompt, without special tokens.

        A blank is put between the two unless the target starts, or the prompt ends, with one.

        Raises:
            ValueError: not one target for each prompt, or a target without a token.
        """
        _check_pairs(prompts, targets)
        pairs = zip(self.rendered(prompts), targets, strict=True)
        joined = [_joined(prompt, target) for prompt, target in pairs]
        start = len(self._anchor)
        with_anchor = self._ids([self._anchor_text + text for text in joined], special=False)
        return _with_tokens(prompts, targets, [anchored[start:] for anchored in with_anchor])

    def answers(self, prompts: Sequence[str], targets: Sequence[str]) -> list[list[int]]:
        """Ids of each target as a text of its own, without special tokens or blanks around it.

        Raises:
            ValueError: not one target for each prompt, or a target without a token.
        """
        _check_pairs(prompts, targets)
        ids = self._ids([target.strip() for target in targets], special=False)
        return _with_tokens(prompts, targets, ids)

    def rendered(self, prompts: Sequence[str]) -> list[str]:
        """The prompts as they are read."""
        return [f"{self.before}{prompt}{self.behind}" for prompt in prompts]

    @cached_property
    def opening(self) -> list[int]:
        """The special tokens that the tokenizer puts before a text, such as BART's BOS."""
        (whole,), (bare,) = (self._ids(["a"], special) for special in (True, False))
        starts = range(len(whole) - len(bare) + 1)
        return whole[: next(i for i in starts if whole[i : i + len(bare)] == bare)]

    def covering(
        self, prompts: Sequence[str], spans: Sequence[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """Indices of the first and last token of each prompt with characters of ``[start, end)``.

        Raises:
            ValueError: a span is empty or outside its prompt, or no token holds its characters.
        """
        if len(prompts) != len(spans):
            raise ValueError(f"got {len(prompts)} prompts but {len(spans)} spans")
        encoded = self.tokenizer(
            self.rendered(prompts),
            add_special_tokens=self._special,
            return_offsets_mapping=True,
            verbose=False,
        )
        positions, shift = [], len(self.before)
        for prompt, span, offsets in zip(prompts, spans, encoded["offset_mapping"], strict=True):
            start, end = span
            inside = [
                i
                for i, (a, b) in enumerate(offsets)
                if a < b and a < end + shift and b > start + shift
            ]
            if not 0 <= start < end <= len(prompt) or not inside:
                raise ValueError(f"span {span} covers no token of prompt {prompt!r}")
            positions.append((inside[0], inside[-1]))
        return positions

    @cached_property
    def _anchor_text(self) -> str:
        """What must stand before a continuation so that it is not taken for a text's beginning.

        SentencePiece tokenizers (Llama 2, Mistral) put a blank of their own before a text; a line
        break before it takes that blank and never merges with what follows.
        """
        first = self.tokenizer.tokenize("a", add_special_tokens=False)[0]
        return "\n" if first.startswith("\u2581") else ""

    @cached_property
    def _anchor(self) -> list[int]:
        return self._ids([self._anchor_text], special=False)[0]

    def _ids(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        known = self._known
        new = [text for text in dict.fromkeys(texts) if (text, special) not in known]
        if len(known) + len(new) > _REMEMBERED:
            known.clear()
            new = list(dict.fromkeys(texts))
        if new:
            encoded = self.tokenizer(
                new, add_special_tokens=special, return_attention_mask=False, verbose=False
            )
            known.update(zip(((text, special) for text in new), encoded["input_ids"], strict=True))
        return [known[text, special] for text in texts]


def _check_pairs(prompts: Sequence[str], targets: Sequence[str]) -> None:
    if len(prompts) != len(targets):
        raise ValueError(f"got {len(prompts)} prompts but {len(targets)} targets")


def _with_tokens(
    prompts: Sequence[str], targets: Sequence[str], ids: list[list[int]]
) -> list[list[int]]:
    for prompt, target, target_ids in zip(prompts, targets, ids, strict=True):
        if not target.strip() or not target_ids:
            raise ValueError(f"target {target!r} of prompt {prompt!r} has no token")
    return ids


def _joined(prompt: str, target: str) -> str:
    """The target as it continues the prompt: with exactly one blank between the two."""
    blank = not target[:1].isspace() and not prompt[-1:].isspace()
    return f" {target}" if blank else target
