"""Greedy decoding of a left-padded batch, with the key-value cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from models.language_model import LanguageModel


def end_tokens(language_model: LanguageModel) -> list[int]:
    """Ids that end a text: the tokenizer's and those of the model's generation settings."""
    named = language_model.model.generation_config.eos_token_id
    ids = named if isinstance(named, list) else [named]
    return sorted({*ids, language_model.tokenizer.eos_token_id} - {None})


def greedy(
    language_model: LanguageModel, ids: Tensor, mask: Tensor, max_new_tokens: int
) -> list[list[int]]:
    """The most probable continuation of each row, up to its end token (left out).

    Args:
        language_model: Who is asked.
        ids: ``[B, T]``, padded on the left.
        mask: ``[B, T]``, 0 for padding. Positions are counted from each row's first token.
        max_new_tokens: At most so many new ids a row.
    """
    ends = torch.tensor(end_tokens(language_model), device=ids.device)
    position = (mask.cumsum(1) - 1).clamp(min=0)  # [B, T]
    cache, new = None, []
    finished = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    while len(new) < max_new_tokens and not finished.all():
        states = language_model.model.base_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        cache = states.past_key_values
        ids = language_model.head(states.last_hidden_state[:, -1:]).argmax(-1)  # [B, 1]
        new.append(ids)
        finished |= torch.isin(ids[:, 0], ends)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        position = position[:, -1:] + 1
    stop = set(ends.tolist())
    return [_until(row, stop) for row in torch.cat(new, dim=1).tolist()]


def _until(ids: list[int], stop: set[int]) -> list[int]:
    end = next((i for i, token in enumerate(ids) if token in stop), len(ids))
    return ids[:end]
