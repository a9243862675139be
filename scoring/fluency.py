"""How much a text repeats itself, by the entropy of its word n-grams.

Zhang et al., "Generating Informative and Diverse Conversational Responses", NeurIPS 2018; as Meng
et al. (ROME, NeurIPS 2022, https://arxiv.org/abs/2202.05262) take it: bigrams weigh 2/3, trigrams
4/3, and the mean of both is the score. Departure: words are cut by one pattern, near the rules of
the Penn Treebank, instead of by NLTK, whose sentence splitter is a download. A text without an
n-gram has entropy 0; the authors' is NaN.
"""

from __future__ import annotations

import re
from collections import Counter
from math import log2

WEIGHTS = {2: 2 / 3, 3: 4 / 3}
"""Length of the n-grams to the weight of their entropy."""
_WORD = re.compile(
    r"""\d+(?:[.,:]\d+)*            # a number
      | \w+(?=n't\b)                # is | n't
      | n't\b
      | '(?:s|m|d|re|ve|ll)\b       # it | 's
      | \w+(?:[-/]\w+)*             # a word, also a compound one
      | \.{2,} | --+                # dots and dashes stand together
      | [^\w\s]""",
    re.VERBOSE | re.IGNORECASE,
)


def n_gram_entropy(text: str) -> float:
    """The weighted mean of the entropies, in bits."""
    tokens = words(text)
    entropies = (weight * _entropy(tokens, n) for n, weight in WEIGHTS.items())
    return sum(entropies) / len(WEIGHTS)


def words(text: str) -> list[str]:
    """The words and punctuation marks of a text, in order; case is kept."""
    return _WORD.findall(text)


def _entropy(tokens: list[str], n: int) -> float:
    counts = Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
    total = counts.total()
    return sum(count / total * log2(total / count) for count in counts.values())
