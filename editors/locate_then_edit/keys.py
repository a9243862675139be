"""Prompts in contexts, and the keys that closed-form edits are solved with.

A key is a layer's input and an output what the layer makes of it, both at the last token of the
subject, for a request's prompt in each of several contexts (``"The world is. {}"``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from datamodules.records import Request
from editors.locate_then_edit.sites import activations, full_precision
from models.language_model import LanguageModel


def placed(
    requests: Iterable[Request], contexts: Sequence[str]
) -> tuple[list[str], list[tuple[int, int]]]:
    """Each request's prompt in each context, requests outermost, and the subjects' characters."""
    prompts, spans = [], []
    for request in requests:
        for context in contexts:
            prefix = context.removesuffix("{}")
            prompts.append(prefix + request.prompt)
            start, end = request.span
            spans.append((len(prefix) + start, len(prefix) + end))
    return prompts, spans


def subject_keys(
    language_model: LanguageModel,
    requests: Sequence[Request],
    contexts: Sequence[str],
    layers: Sequence[str],
    rows_per_batch: int = 256,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Keys ``[B, m, d_in]`` and outputs ``[B, m, d_out]`` of each layer: B requests, m contexts."""
    prompts, spans = placed(requests, contexts)
    device = language_model.device
    parts = []
    with full_precision(device):
        for start in range(0, len(prompts), rows_per_batch):
            some = slice(start, start + rows_per_batch)
            batch = language_model.encode(prompts[some], None).to(device)
            at = language_model.token_positions(prompts[some], spans[some]).to(device)
            rows = torch.arange(len(at), device=device)
            parts.append(activations(language_model, batch, layers, rows, at))
    shape = (len(requests), len(contexts), -1)
    return {
        name: tuple(torch.cat([part[name][i] for part in parts]).view(shape) for i in (0, 1))
        for name in layers
    }
