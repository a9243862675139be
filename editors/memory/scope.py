"""Scope classifiers: whether a question is about a remembered edit.

Either compares embeddings, which an edit brings along, or reads each pair of question and edit.
Both see the question alone, never its answer.
"""

# Q questions, M entries, P pairs, d width of an embedding

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from editors.memory.encoder import Encoder, PairPooled, PairTexts, in_parts
from editors.memory.similarity import Distance, log_similarity
from editors.settings import one_of
from edits.routing import Entry

KEYS = ("prompt", "prompt_and_target")


class Scope(nn.Module, ABC):
    """Says how similar questions and entries are, from 0 to 1.

    Args:
        key: the text of an entry: its ``"prompt"``, or, as in the authors' code for models that
            are no decoders, ``"prompt_and_target"``, each with a separator behind it.
    """

    def __init__(self, key: str):
        super().__init__()
        one_of("key", key, KEYS)
        self.key = key

    def text(self, entry: Entry, separator: str) -> str:
        """An entry as the classifier reads it."""
        if self.key == "prompt":
            return entry.prompt
        return f"{entry.prompt}{separator}{entry.target}{separator}"

    @abstractmethod
    def keys(self, entries: Sequence[Entry]) -> Tensor:
        """See `edits.routing.Models`."""

    @abstractmethod
    def queries(self, prompts: Sequence[str]) -> Tensor:
        """See `edits.routing.Models`."""

    @abstractmethod
    def log_similarity(
        self, prompts: Sequence[str], queries: Tensor, entries: Sequence[Entry], keys: Tensor
    ) -> Tensor:
        """See `edits.routing.Models`."""

    @abstractmethod
    def of_pairs(self, prompts: Sequence[str], entries: Sequence[Entry], pairs: Tensor) -> Tensor:
        """``log s`` ``[P]`` of the pairs ``[P, 2]`` of question and entry; differentiable."""


class EmbeddingScope(Scope):
    """``s = exp(-distance)`` of the embeddings of question and entry.

    Args:
        encoder: of both.
        key: see `Scope`.
        distance: of embeddings.

    Raises:
        ValueError: unknown key, or one with a separator that the encoder lacks.
    """

    def __init__(self, encoder: Encoder, key: str, distance: Distance):
        super().__init__(key)
        self.encoder = encoder
        self.separator = encoder.separator if key == "prompt_and_target" else ""
        self.distance = distance

    def keys(self, entries: Sequence[Entry]) -> Tensor:
        """Embeddings ``[M, d]``."""
        return self.encoder.embed([self.text(entry, self.separator) for entry in entries])

    def queries(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings ``[Q, d]``."""
        return self.encoder.embed(prompts)

    def log_similarity(
        self, prompts: Sequence[str], queries: Tensor, entries: Sequence[Entry], keys: Tensor
    ) -> Tensor:
        """``log s`` ``[Q, M]``; of the embeddings alone."""
        return log_similarity(queries, keys.to(queries), self.distance)

    def of_pairs(self, prompts: Sequence[str], entries: Sequence[Entry], pairs: Tensor) -> Tensor:
        """``log s`` ``[P]``; a text is embedded once, in however many pairs it is."""
        texts = [*prompts, *(self.text(entry, self.separator) for entry in entries)]
        place = {text: at for at, text in enumerate(dict.fromkeys(texts))}
        embedded = self.encoder.embed(list(place))[[place[text] for text in texts]]
        queries, keys = embedded.split([len(prompts), len(entries)])
        log_s = log_similarity(queries, keys, self.distance)  # [Q, M]
        return log_s[pairs[:, 0], pairs[:, 1]]


class CrossAttentionScope(Scope):
    """``log s`` is the first of two classes' log-probabilities, for ``entry [SEP] question``.

    Args:
        classifier: its model gives two logits.
        key: see `Scope`.

    Raises:
        ValueError: unknown key, or the classifier's tokenizer has no separator.
    """

    def __init__(self, classifier: PairTexts | PairPooled, key: str):
        super().__init__(key)
        self.classifier = classifier
        self.separator = classifier.separator

    def keys(self, entries: Sequence[Entry]) -> Tensor:
        """Nothing ``[M, 0]``: an entry is read with the question."""
        return torch.zeros(len(entries), 0)

    def queries(self, prompts: Sequence[str]) -> Tensor:
        """Nothing ``[Q, 0]``."""
        return torch.zeros(len(prompts), 0)

    def log_similarity(
        self, prompts: Sequence[str], queries: Tensor, entries: Sequence[Entry], keys: Tensor
    ) -> Tensor:
        """``log s`` ``[Q, M]``; reads every pair."""
        pairs = torch.cartesian_prod(torch.arange(len(prompts)), torch.arange(len(entries)))
        return self.of_pairs(prompts, entries, pairs).unflatten(0, (len(prompts), -1))

    def of_pairs(self, prompts: Sequence[str], entries: Sequence[Entry], pairs: Tensor) -> Tensor:
        """``log s`` ``[P]`` of the pairs."""
        texts = [
            f"{self.text(entries[m], self.separator)}{self.separator}{prompts[q]}"
            for q, m in pairs.tolist()
        ]
        return in_parts(lambda part: self.classifier.logits(part).log_softmax(-1)[:, 0], texts)
