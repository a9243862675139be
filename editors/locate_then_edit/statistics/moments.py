"""Second moments of a layer's inputs over a text corpus: how much each direction is in use.

``C = E[k k^T]``, uncentred, over all tokens of a corpus, as in ROME (Meng et al., NeurIPS 2022,
https://arxiv.org/abs/2202.05262, section 3.1), which takes 100,000 articles of Wikipedia. One pass
serves all layers. Of a mixture of experts it is taken for each expert, of its part of the stacked
keys (`models.experts`): what two experts do to one token together is left out. Sums and counts are
kept, not means: so the pass can go on where it was killed, and where several processes run
(PyTorch's distributed ones) each takes its share of the corpus and the sums are added up.
"""

# T tokens, n attended tokens of a batch, d_in layer width

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, distributed

from datamodules.text import TextCorpus
from editors.locate_then_edit.statistics.moment_files import (
    Partial,
    SecondMoment,
    cache_path,
    digest,
    read,
    write,
)
from editors.settings import at_least
from models.encoding import CACHED, IGNORED, Batch
from models.experts import count_of, is_packed
from models.hooks import full_precision
from models.language_model import LanguageModel
from models.sites import activations
from watching import Watch

logger = logging.getLogger(__name__)

VERSION = 1
"""Of what is computed; a change makes every cached file stale."""
STRIPES = 4
"""Horizontal parts in which a symmetric product is taken."""
ENOUGH = 20
"""Tokens for each input of a layer that its second moment takes to be of use."""


class Corpus(Protocol):
    """Texts, and a name for exactly these texts."""

    @property
    def texts(self) -> Sequence[str]:
        """The texts, in a fixed order."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes with any change of the texts."""
        ...


@dataclass(frozen=True)
class Moments:
    """Second moments of a corpus: how they are taken, and where they are kept.

    Attributes:
        corpus: its texts are cut to `max_length`.
        cache_folder: one file a layer; anything else in model, tokenizer, layer, corpus or
            settings is another file. On a disk that all processes share. Also where a pass that
            is not through yet leaves its sums. None: nothing is read or written.
        limit: take only so many texts from the start; None: all.
        max_length: longer texts are cut after so many tokens, or what the model takes if less.
        include_first_token: whether the first token of a text counts. Models that park attention
            there have keys of another order of magnitude at it; the authors include it.

    Raises:
        ValueError: there is no corpus, or a number is below 1.
    """

    corpus: Corpus
    cache_folder: str | Path | None = field(default=None, compare=False)
    limit: int | None = None
    max_length: int = 1024
    include_first_token: bool = True

    def __post_init__(self):
        if self.corpus is None:
            raise ValueError("second moments are taken of a corpus: give one")
        at_least(1, limit=self.limit, max_length=self.max_length)

    def of(self, language_model: LanguageModel, layers: Sequence[str]) -> dict[str, SecondMoment]:
        """That of each layer, read from the cache or gathered in one pass for all others.

        Where several processes run, all of them have to call this alike.

        Args:
            language_model: the model, unedited.
            layers: module names of linear maps.

        Raises:
            ValueError: the corpus has no token that counts, or a file holds something else.
        """
        if self.cache_folder is None:
            return gathered(language_model, layers, self)
        folder = Path(self.cache_folder)
        keys = {layer: self.key(language_model, layer) for layer in layers}
        paths = {layer: cache_path(folder, key) for layer, key in keys.items()}
        missing = [layer for layer in layers if not paths[layer].is_file()]
        if missing:
            rank, world = process()
            partial = Partial(folder, [keys[layer] for layer in missing], rank, world)
            sums = gathered(language_model, missing, self, partial=partial)
            if rank == 0:
                for layer, moment in sums.items():
                    write(paths[layer], moment, keys[layer])
            if world > 1:
                distributed.barrier()  # the next call has to find the files in all processes
            partial.remove()
        return {layer: read(paths[layer], keys[layer]) for layer in layers}

    def key(self, language_model: LanguageModel, layer: str) -> dict[str, str]:
        """All that a layer's second moment depends on."""
        backend = json.loads(language_model.tokenizer.backend_tokenizer.to_str())
        state = ("padding", "truncation")  # of calls
        tokens = {name: value for name, value in backend.items() if name not in state}
        key = {
            "model": language_model.fingerprint,
            "dtype": language_model.dtype,
            "tokenizer": digest(tokens),
            "layer": layer,
            "corpus": self.corpus.fingerprint,
            "limit": self.limit,
            "max_length": min(self.max_length, language_model.max_length),
            "include_first_token": self.include_first_token,
            "version": VERSION,
        }
        return {name: str(value) for name, value in key.items()}


def gathered(
    language_model: LanguageModel,
    layers: Sequence[str],
    moments: Moments,
    tokens_per_batch: int = 4096,
    partial: Partial | None = None,
) -> dict[str, SecondMoment]:
    """One pass over the corpus for all the layers: products in float32, sums in float64."""
    rank, world = process()
    texts = TextCorpus(moments.corpus.texts[: moments.limit])
    length = min(moments.max_length, language_model.max_length)
    if language_model.device.type == "cpu":  # larger ones are no faster, and in bfloat16 half so
        tokens_per_batch = min(tokens_per_batch, CACHED)
    batches = [*texts.token_batches(language_model.tokenizer, tokens_per_batch, length)]
    sizes = [int(mask.sum()) for _, mask in batches[rank::world]]
    with full_precision(language_model.device):
        totals = zeros(language_model, layers)
        logger.info(
            "second moments of %d layers: %d texts, %d tokens in %d batches here, "
            "%.2g GiB for the sums",
            len(layers),
            len(texts),
            sum(sizes),
            len(sizes),
            sum(total.nbytes for total in totals) / 2**30,
        )
        done, count = (0, 0) if partial is None else partial.resume(totals)
        saved = time.monotonic()
        with Watch("second moments", sum(sizes), "tokens", sum(sizes[:done])) as watch:
            for index, batch in enumerate(batches[rank::world][done:], start=done):
                count += add_products(language_model, batch, layers, moments, totals)
                watch.advance(sizes[index])
                if partial is not None and time.monotonic() - saved >= partial.every:
                    partial.write(totals, index + 1, count)
                    saved = time.monotonic()
    if world > 1:
        count = summed(totals, count)
    if not count:
        raise ValueError("second moments: the corpus has no token that counts")
    wholes = map(mirrored, totals)
    return {layer: SecondMoment(total, count) for layer, total in zip(layers, wholes, strict=True)}


def zeros(language_model: LanguageModel, layers: Sequence[str]) -> list[Tensor]:
    """``[d_in, d_in]`` float64 for each layer, on the model's device; of experts ``[E, f, f]``."""
    shapes = []
    for layer in layers:
        module, d = language_model.module(layer), language_model.shape(layer)[0]
        f = d // (experts := count_of(module))
        shapes.append((experts, f, f) if is_packed(module) else (d, d))
    return [torch.zeros(*s, dtype=torch.float64, device=language_model.device) for s in shapes]


def add_products(
    language_model: LanguageModel,
    batch: tuple[Tensor, Tensor],
    layers: Sequence[str],
    moments: Moments,
    totals: Sequence[Tensor],
) -> int:
    """Adds ``k k^T`` of a batch of ids and mask ``[B, T]`` to each layer's total; how many k."""
    input_ids, attention_mask = batch
    counted = attention_mask.bool()
    counted[:, 0] &= moments.include_first_token
    rows, at = counted.to(language_model.device).nonzero(as_tuple=True)
    texts = Batch(input_ids, attention_mask, torch.full_like(input_ids, IGNORED))
    pairs = activations(language_model, texts.to(language_model.device), layers, rows, at)
    for layer, total in zip(layers, totals, strict=True):
        keys = pairs[layer][0]
        if total.ndim == 2:
            add_square(total, keys)
            continue
        for part, own in zip(total, keys.unflatten(1, (len(total), -1)).unbind(1), strict=True):
            add_square(part, own[(own != 0).any(1)])
    return len(rows)


def add_square(total: Tensor, keys: Tensor) -> None:
    """Adds ``k^T k`` of keys ``[n, d]`` to ``[d, d]``, where it is not above the diagonal blocks.

    It is symmetric: so five eighths of the products will do. `mirrored` makes the rest of it.
    """
    size = -(-len(total) // STRIPES)
    for start in range(0, len(total), size):
        end = start + size
        total[start:end, :end] += keys[:, start:end].mT @ keys[:, :end]


def mirrored(total: Tensor) -> Tensor:
    """The whole of a symmetric matrix, or of several, of the lower triangle."""
    return total.tril() + total.tril(-1).mT


def process() -> tuple[int, int]:
    """This process's number, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def summed(totals: Sequence[Tensor], count: int) -> int:
    """Adds up the totals of all processes, in place, and their counts."""
    counts = torch.tensor(count, device=totals[0].device)
    for tensor in (*totals, counts):
        distributed.all_reduce(tensor)
    return int(counts)


def warn_of_few_tokens(moment: SecondMoment, layer: str) -> None:
    """Warns of a second moment of so few tokens that most of its directions are chance."""
    inputs = moment.total[..., 0].numel()
    if moment.count < ENOUGH * inputs:
        logger.warning(
            "second moment %r is of %d tokens for %d inputs; give a corpus of %d or more",
            layer,
            moment.count,
            inputs,
            ENOUGH * inputs,
        )
