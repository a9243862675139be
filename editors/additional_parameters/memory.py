"""What feed-forward parts are given while a model reads texts: queries, and a memory of many."""

# m queries, d their width

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from datamodules.records import Record
from models.encoding import micro_batches
from models.language_model import LanguageModel
from models.sites import activations

Text = tuple[str, str]
"""A prompt and what follows it."""
TOKENS_AT_ONCE = 8192


def texts_of(records: Iterable[Record]) -> list[Text]:
    """What is true already: the requests with their old answers, and the locality questions."""
    texts: dict[Text, None] = {}
    for record in records:
        for request in record.requests:
            texts[request.prompt, request.target_true or request.target] = None
        for probe in record.probes:
            if probe.kind in ("neighborhood", "unrelated", "other_relation"):
                texts[probe.prompt, probe.target] = None
    return list(texts)


def queries(language_model: LanguageModel, given: str, texts: Sequence[Text]) -> list[Tensor]:
    """What layer ``given`` sees at each token of each text but the last, ``[T - 1, d]``."""
    parts: dict[int, Tensor] = {}
    lengths = language_model.lengths([prompt for prompt, _ in texts], [said for _, said in texts])
    for chunk in micro_batches(lengths, TOKENS_AT_ONCE):
        batch = language_model.encode(*map(list, zip(*(texts[i] for i in chunk), strict=True)))
        mask = batch.attention_mask.bool()
        mask = mask & torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
        row, at = mask.nonzero(as_tuple=True)
        seen, _ = activations(language_model, batch, [given], row, at)[given]
        parts.update(zip(chunk, seen.split(mask.sum(1).tolist()), strict=True))
    return [parts[i] for i in range(len(texts))]


def memory(
    language_model: LanguageModel, given: str, texts: Sequence[Text], most: int, seed: int
) -> Tensor:
    """Queries ``[m, d]`` of all texts but at their first tokens, ``most`` of them, by chance."""
    found = [rows[1:] for rows in queries(language_model, given, texts)]
    rows = torch.cat(found) if found else torch.empty(0)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[:most].sort().values.to(rows.device)]


def copied(rows: Tensor, copies: int) -> Tensor:
    """What an edit adds to the memory: its queries, copy by copy, but the very first and last."""
    return rows.repeat(copies, 1)[1:-1]
