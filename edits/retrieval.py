"""Which facts of a memory are near a question: cosines of embeddings, all questions at once."""

# Q questions, M facts of all edits, d width of an embedding

from __future__ import annotations

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


def ranked(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest keys of each query, the nearest first; of equally near ones the first.

    Args:
        queries: ``[Q, d]`` of length 1.
        keys: ``[M, d]`` of length 1.
        k: how many, at most.

    Returns:
        Cosines and indices, each ``[Q, min(k, M)]``.
    """
    parts = [
        (part @ keys.T).sort(dim=1, descending=True, stable=True) for part in queries.split(AT_ONCE)
    ]
    values = torch.cat([part.values[:, :k] for part in parts])
    return values, torch.cat([part.indices[:, :k] for part in parts])
