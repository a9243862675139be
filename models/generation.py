"""Greedy decoding of a batch, whatever keeps track of what has been read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast


class Text(str):
    """A generated text that also says how it ended.

    Attributes:
        ended: whether by the model's own end token; else it was cut, by a limit or a stop string.
    """

    ended: bool

    def __new__(cls, text: str, ended: bool) -> Self:
        """The text; a string like any other."""
        instance = super().__new__(cls, text)
        instance.ended = ended
        return instance


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids that end a text: the tokenizer's and those of the model's generation settings."""
    named = model.generation_config.eos_token_id
    ids = named if isinstance(named, list) else [named]
    return sorted({*ids, cast("int | None", tokenizer.eos_token_id)} - {None})


def greedy(
    step: Callable[[Tensor], Tensor],
    ids: Tensor,
    ends: Sequence[int],
    max_new_tokens: int,
    stopped: Callable[[int, list[int]], bool] | None = None,
) -> list[list[int]]:
    """The most probable continuation of each row, up to its end token (left out).

    Args:
        step: Takes the ids ``[B, T]`` that have not been read yet, and gives the logits ``[B, V]``
            of what follows the last of them.
        ids: ``[B, T]``, what is read first.
        ends: Ids that end a row.
        max_new_tokens: Largest number of new ids a row.
        stopped: Whether a row, given by its number, is to end with the new ids that it has.
    """
    stops = torch.tensor(ends, device=ids.device)
    finished = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    new = []
    while len(new) < max_new_tokens and not finished.all():
        ids = step(ids).argmax(-1, keepdim=True)  # [B, 1]
        new.append(ids)
        finished |= torch.isin(ids[:, 0], stops)
        if stopped is not None:
            for row in (~finished).nonzero()[:, 0].tolist():
                finished[row] = stopped(row, [int(token[row]) for token in new])
    return [_until(row, set(ends)) for row in torch.cat(new, dim=1).tolist()]


def cut(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the ``stop`` strings in it."""
    return text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))]


def _until(ids: list[int], stop: set[int]) -> list[int]:
    end = next((i for i, token in enumerate(ids) if token in stop), len(ids))
    return ids[:end]
