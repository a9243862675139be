"""Texts as vectors of their words, the rare ones weighing more.

The weighting is scikit-learn's (smooth idf, words of two or more characters, vectors of length 1),
in which ROME's reference score is defined; so few lines are no reason to require that library.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Self

_WORD = re.compile(r"\b\w\w+\b")


@dataclass(frozen=True)
class TfIdf:
    """A vocabulary with the weight of each word; other words have none.

    Attributes:
        idf: ``log((1 + n) / (1 + n_word)) + 1`` of n texts, n_word of which have the word.
    """

    idf: Mapping[str, float]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """The weights in these texts."""
        counts = Counter(word for text in texts for word in {*_words(text)})
        return cls({w: log((1 + len(texts)) / (1 + n)) + 1 for w, n in counts.items()})

    def cosine(self, one: str, other: str) -> float:
        """The cosine of two texts, 0 to 1; 0 where one has no word of the vocabulary."""
        first, second = self._vector(one), self._vector(other)
        norms = sqrt(_dot(first, first) * _dot(second, second))
        return _dot(first, second) / norms if norms else 0.0

    def _vector(self, text: str) -> dict[str, float]:
        counts = Counter(_words(text))
        return {word: counts[word] * self.idf[word] for word in counts if word in self.idf}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _dot(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    return sum(weight * other.get(word, 0.0) for word, weight in one.items())
