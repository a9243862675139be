"""Second moments of a layer's inputs over a text corpus: how much each direction is in use.

``C = E[k k^T]``, uncentred, over all tokens of a corpus, as in ROME (Meng et al., NeurIPS 2022,
https://arxiv.org/abs/2202.05262, section 3.1), which takes 100,000 articles of Wikipedia. Sums and
counts are kept, not means, so that shards of a corpus can be added up.
"""

# T tokens, n attended tokens of a batch, d_in layer width

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from datamodules.text import TextCorpus
from editors.locate_then_edit.sites import activations, full_precision
from models.encoding import IGNORED, Batch
from models.language_model import LanguageModel

logger = logging.getLogger(__name__)

VERSION = 1
"""Of what is computed here; a change makes every cached file stale."""

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


@dataclass(frozen=True, eq=False)
class SecondMoment:
    """The sum of ``k k^T`` of a layer's inputs, ``[d_in, d_in]`` float64, and how many they are."""

    total: Tensor
    count: int

    def __add__(self, other: SecondMoment) -> SecondMoment:
        return SecondMoment(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> Tensor:
        """``E[k k^T]``, ``[d_in, d_in]`` float64."""
        return self.total / self.count


@dataclass(frozen=True)
class Recipe:
    """How second moments are taken of a corpus.

    Args:
        limit: take only so many texts from the start; None: all.
        max_length: longer texts are cut after so many tokens, or what the model takes if less.
        include_first_token: whether the first token of a text counts. Models that park attention
            there have keys of another order of magnitude at it; the authors include it.
    """

    limit: int | None = None
    max_length: int = 1024
    include_first_token: bool = True


def second_moments(
    language_model: LanguageModel,
    layers: Sequence[str],
    corpus: Corpus,
    recipe: Recipe | None = None,
    cache_folder: str | Path | None = None,
) -> dict[str, SecondMoment]:
    """The second moment of each layer, read from the cache or gathered in one pass for all others.

    Args:
        language_model: the model, unedited.
        layers: module names of linear maps.
        corpus: its texts are cut to `recipe.max_length`.
        recipe: None: the defaults.
        cache_folder: one file a layer; anything else in model, tokenizer, layer, corpus or recipe
            is another file. None: nothing is read or written.
    """
    recipe = recipe or Recipe()
    if cache_folder is None:
        return gathered(language_model, layers, corpus, recipe)
    keys = {layer: cache_key(language_model, layer, corpus, recipe) for layer in layers}
    paths = {layer: cache_path(Path(cache_folder), key) for layer, key in keys.items()}
    missing = [layer for layer in layers if not paths[layer].is_file()]
    if missing:
        for layer, moment in gathered(language_model, missing, corpus, recipe).items():
            write(paths[layer], moment, keys[layer])
    return {layer: read(paths[layer], keys[layer]) for layer in layers}


def gathered(
    language_model: LanguageModel,
    layers: Sequence[str],
    corpus: Corpus,
    recipe: Recipe,
    tokens_per_batch: int = 4096,
) -> dict[str, SecondMoment]:
    """One pass over the corpus for all the layers: products in float32, sums in float64."""
    texts = TextCorpus(corpus.texts[: recipe.limit])
    length = min(recipe.max_length, language_model.max_length)
    batches = texts.token_batches(language_model.tokenizer, tokens_per_batch, length)
    progress = tqdm(total=len(texts), desc="second moments", unit="text", disable=None)
    totals, count = {}, 0
    with full_precision(language_model.device), progress:
        for input_ids, attention_mask in batches:
            counted = attention_mask.bool()
            counted[:, 0] &= recipe.include_first_token
            rows, at = counted.to(language_model.device).nonzero(as_tuple=True)
            batch = Batch(input_ids, attention_mask, torch.full_like(input_ids, IGNORED))
            seen = activations(language_model, batch.to(language_model.device), layers, rows, at)
            for layer, (keys, _) in seen.items():
                product = keys.mT @ keys  # [d_in, d_in]
                totals[layer] = totals[layer].add_(product) if layer in totals else product.double()
            count += len(rows)
            progress.update(len(input_ids))
    if not count:
        raise ValueError("second moments: the corpus has no token that counts")
    return {layer: SecondMoment(total, count) for layer, total in totals.items()}


def warn_of_few_tokens(moment: SecondMoment, layer: str) -> None:
    """Warns of a second moment of so few tokens that most of its directions are chance."""
    inputs = len(moment.total)
    if moment.count < ENOUGH * inputs:
        logger.warning(
            "second moment %r is of %d tokens for %d inputs; give a corpus of %d or more",
            *(layer, moment.count, inputs, ENOUGH * inputs),
        )


def cache_key(
    language_model: LanguageModel, layer: str, corpus: Corpus, recipe: Recipe
) -> dict[str, str]:
    """All that a second moment depends on."""
    backend = json.loads(language_model.tokenizer.backend_tokenizer.to_str())
    tokens = {k: v for k, v in backend.items() if k not in ("padding", "truncation")}  # call state
    key = {
        "model": language_model.fingerprint,
        "dtype": language_model.dtype,
        "tokenizer": hashlib.sha256(json.dumps(tokens, sort_keys=True).encode()).hexdigest()[:16],
        "layer": layer,
        "corpus": corpus.fingerprint,
        **asdict(recipe),
        "max_length": min(recipe.max_length, language_model.max_length),
        "version": VERSION,
    }
    return {name: str(value) for name, value in key.items()}


def cache_path(folder: Path, key: Mapping[str, str]) -> Path:
    """The file of a key."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{key['model']}-{key['layer']}-{digest}.safetensors"


def write(path: Path, moment: SecondMoment, key: Mapping[str, str]) -> None:
    """Writes a second moment and its key, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        metadata = {**key, "count": str(moment.count)}
        save_file({"total": moment.total.cpu().contiguous()}, temporary, metadata=metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, key: Mapping[str, str]) -> SecondMoment:
    """Reads what `write` wrote.

    Raises:
        ValueError: the file holds something else.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if {name: metadata.get(name) for name in key} != dict(key):
            raise ValueError(f"{path} holds the second moment of something else; remove it")
        return SecondMoment(file.get_tensor("total"), int(metadata["count"]))
