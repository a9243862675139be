"""Which facts of a memory are near a question: subjects that it mentions, cosines of embeddings."""

# Q questions, M facts of all edits, d width of an embedding

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from models.embedding import mean_states
from models.language_model import LanguageModel
from models.rendering import Rendering

AT_ONCE = 1024  # questions compared with all facts at once


class Retriever(Protocol):
    """What embeds questions and facts."""

    @property
    def name(self) -> str:
        """Tells it from others, in files."""
        ...

    def width(self, language_model: LanguageModel) -> int:
        """The width of its embeddings."""
        ...

    def embed(self, language_model: LanguageModel, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[Q, d]``, float32, on the CPU."""
        ...


@dataclass(frozen=True)
class OwnStates:
    """The mean states of the language model that is edited, of texts as they are."""

    name: str = "language_model"

    def width(self, language_model: LanguageModel) -> int:
        """That of the model's states."""
        return self.embed(language_model, ["a"]).shape[1]

    def embed(self, language_model: LanguageModel, texts: Sequence[str]) -> Tensor:
        """See `Retriever`."""
        return mean_states(language_model.rendered(Rendering()), texts)


def directions(embedded: Tensor, center: Tensor) -> Tensor:
    """Embeddings as seen from their center, of length 1."""
    return F.normalize(embedded - center, dim=-1)


def words(text: str) -> str:
    """The text's words, without case and with a blank around each."""
    return " ".join(["", *re.findall(r"\w+", text.casefold()), ""])


def mentioned(questions: Sequence[str], subjects: Sequence[str]) -> Tensor:
    """``[Q, M]``, whether each question has all words of a subject one after another."""
    texts, names = list(map(words, questions)), list(map(words, subjects))
    rows = [[name in text for name in names] for text in texts]
    return torch.tensor(rows, dtype=torch.bool).reshape(len(texts), len(names))


def ranked(
    queries: Tensor, keys: Tensor, k: int, among: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k nearest keys of each query, the nearest first; of equally near ones the first.

    Args:
        queries: ``[Q, d]`` of length 1.
        keys: ``[M, d]`` of length 1.
        k: how many, at most.
        among: ``[Q, M]``, which of them can be near; None: all.

    Returns:
        Cosines and indices, each ``[Q, min(k, M)]``; minus infinity for those that cannot be near.
    """
    cosines = (part @ keys.T for part in queries.split(AT_ONCE))
    if among is not None:
        cosines = (
            part.masked_fill(~own, -torch.inf)
            for part, own in zip(cosines, among.split(AT_ONCE), strict=True)
        )
    parts = [part.sort(dim=1, descending=True, stable=True) for part in cosines]
    values = torch.cat([part.values[:, :k] for part in parts])
    return values, torch.cat([part.indices[:, :k] for part in parts])
