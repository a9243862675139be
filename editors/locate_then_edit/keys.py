"""Prompts in contexts, and the keys that closed-form edits are solved with.

A key is a layer's input and an output what the layer makes of it, both at the last token of the
subject, for a request's prompt in each of several contexts (``"The world is. {}"``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from datamodules.records import Request
from models.encoding import A_PASS, CACHED, micro_batches
from models.hooks import Output, full_precision, hidden_of, recorded
from models.language_model import LanguageModel
from models.passes import Around, surrounded
from models.sites import activations
from models.suffixes import KEPT, resumed


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


class Subjects:
    """B requests' prompts in m contexts, up to their subjects, whose keys are read several times.

    Only blocks from ``first`` on change from one reading to the next. What those below say is kept
    from the first, of as many tokens as there is room for.

    Args:
        language_model: who reads.
        requests: whose prompts.
        contexts: what they are put into.
        first: see above.
        rows_per_batch: bounds the memory that a pass takes; results do not depend on it.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        requests: Sequence[Request],
        contexts: Sequence[str],
        first: int = 0,
        rows_per_batch: int = 256,
    ):
        self.language_model, self.first = language_model, first
        self.shape = (len(requests), len(contexts), -1)
        prompts, spans = placed(requests, contexts)
        batch = language_model.encode(prompts, None)
        self.at = language_model.token_positions(prompts, spans)
        places = torch.arange(batch.input_ids.shape[1], device=self.at.device)
        mask = (places <= self.at[:, None]).long()  # no later token reaches a subject
        self.batch = replace(batch, attention_mask=mask)
        lengths = (self.at + 1).tolist()
        tokens = rows_per_batch * max(lengths)
        if language_model.device.type == "cpu":
            self.parts = micro_batches(lengths, min(tokens, CACHED), A_PASS)
        else:
            self.parts = micro_batches(lengths, tokens)
        self.below: dict[int, Output] = {}

    def keys(
        self, layers: Sequence[str], around: Around | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Keys ``[B, m, d_in]`` and outputs ``[B, m, d_out]`` of modules, given by name.

        ``around`` surrounds each micro-batch; its rows are the ``B * m`` prompts, requests
        outermost.
        """
        with full_precision(self.language_model.device):
            parts = [self._read(number, layers, around) for number in range(len(self.parts))]
        order = torch.tensor([row for part in self.parts for row in part]).argsort()
        order = order.to(self.at.device)

        def whole(name: str, side: int) -> Tensor:
            return torch.cat([part[name][side] for part in parts])[order].view(self.shape)

        return {name: (whole(name, 0), whole(name, 1)) for name in layers}

    def _read(
        self, number: int, layers: Sequence[str], around: Around | None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        model, index = self.language_model, self.parts[number]
        batch, at = self.batch.rows(index).trimmed(), self.at[index]
        with ExitStack() as stack:
            stack.enter_context(surrounded(around, index, batch, at, steps=False))
            keep = self._keeping(number)
            outputs = stack.enter_context(recorded(model.modules_of(keep)))
            if number in self.below:
                stack.enter_context(resumed(model, self.first, self.below[number]))
            rows = torch.arange(len(at), device=at.device)
            values = activations(model, batch, layers, rows, at)
        if keep:
            self.below[number] = outputs[keep[0]]
        return values

    def _keeping(self, number: int) -> list[str]:
        """The block whose output is to be kept from this pass, if there is one."""
        kept = sum(len(hidden_of(below).flatten(0, -2)) for below in self.below.values())
        if not self.first or number in self.below or kept > KEPT:
            return []
        return [self.language_model.block(self.first - 1)]


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
