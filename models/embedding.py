"""Texts as a language model's own mean states."""

# B texts, T tokens, d width

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.language_model import LanguageModel

TEXTS_AT_ONCE = 256


@torch.no_grad()
def mean_states(language_model: LanguageModel, texts: Sequence[str]) -> Tensor:
    """Mean over each text's tokens of the states before the head: ``[B, d]``, float32, on the CPU.

    An encoder-decoder's are of the stack that writes.
    """
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    parts = [_mean(language_model, texts[at : at + TEXTS_AT_ONCE]) for at in starts]
    return torch.cat(parts) if parts else torch.zeros(0, language_model.model.config.hidden_size)


def _mean(language_model: LanguageModel, texts: Sequence[str]) -> Tensor:
    batch = language_model.encode(texts, None)
    weights = batch.attention_mask.unsqueeze(-1).float()
    states = language_model.hidden(batch).float()
    return ((states * weights).sum(1) / weights.sum(1)).cpu()
