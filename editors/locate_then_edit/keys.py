"""Prompts in contexts, and the keys that closed-form edits are solved with.

A key is a layer's input and an output what the layer makes of it, both at the last token of the
subject, for a request's prompt in each of several contexts (``"The world is. {}"``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from datamodules.records import Request
from models.hooks import full_precision
from models.language_model import LanguageModel
from models.passes import Around, Pass
from models.sites import activations


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
    around: Around | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Keys ``[B, m, d_in]`` and outputs ``[B, m, d_out]`` of each layer: B requests, m contexts.

    Layers are any modules, given by name. ``around`` surrounds each micro-batch; its rows are the
    ``B * m`` prompts, requests outermost.
    """
    prompts, spans = placed(requests, contexts)
    device = language_model.device
    parts = []
    with full_precision(device):
        for start in range(0, len(prompts), rows_per_batch):
            chunk = slice(start, start + rows_per_batch)
            index = torch.arange(len(prompts))[chunk]
            batch = language_model.encode(prompts[chunk], None).to(device)
            at = language_model.token_positions(prompts[chunk], spans[chunk]).to(device)
            last = batch.attention_mask.sum(1) - 1
            state = Pass(index, batch.attention_mask, last, steps=False)
            with nullcontext() if around is None else around(state):
                rows = torch.arange(len(at), device=device)
                parts.append(activations(language_model, batch, layers, rows, at))
    shape = (len(requests), len(contexts), -1)

    def whole(name: str, side: int) -> Tensor:
        return torch.cat([part[name][side] for part in parts]).view(shape)

    return {name: (whole(name, 0), whole(name, 1)) for name in layers}


def halved(keys: Tensor) -> Tensor:
    """Half the bare prompt's key and half the mean of the others: ``[B, m, d]`` to ``[B, d]``.

    MEMIT's (Meng et al., ICLR 2023), whose code weighs its contexts so.
    """
    return keys[:, 0] if keys.shape[1] == 1 else (keys[:, 0] + keys[:, 1:].mean(1)) / 2


def alike(keys: Tensor, cosine: float) -> list[int]:
    """For each key of ``[B, d]`` the first that it is nearly parallel to, through others or not."""
    near = (cosines(keys, keys) > cosine).fill_diagonal_(True)  # also a key of zeros is like itself
    first = near.int().argmax(1)  # of equal values argmax takes the first
    while not torch.equal(first, first[first]):
        first = first[first]
    return first.tolist()


def cosines(keys: Tensor, others: Tensor) -> Tensor:
    """Of each key ``[n, d]`` with each of others ``[m, d]``, ``[n, m]``."""
    keys, others = (torch.nn.functional.normalize(x, dim=-1) for x in (keys, others))
    return keys @ others.mT
