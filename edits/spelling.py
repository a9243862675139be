"""Looking questions up by how they are spelled.

MemPrompt's look-up (Madaan, Tandon, Clark, Yang: "Memory-assisted prompt editing to improve GPT-3
after deployment", EMNLP 2022, https://arxiv.org/abs/2201.06009). Questions are compared without
what stands between the first ``<`` and the last ``>``, without case and punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import punctuation

from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

_PUNCTUATION = str.maketrans("", "", punctuation)


def spelled(text: str) -> str:
    """The text as it is compared."""
    bare = re.sub(r"<.*>", "", text).lower().translate(_PUNCTUATION)
    return " ".join(bare.split())


def closest(questions: Sequence[str], keys: Sequence[str], below: int) -> list[int | None]:
    """The key nearest to each question by insertions, deletions and replacements.

    Args:
        questions: as they are compared.
        keys: the same; of equally near ones the first, and an empty one is never near.
        below: the distance that a near one stays below.

    Returns:
        Indices of keys; None where none is near.
    """
    if not keys or not questions:
        return [None] * len(questions)
    distances = cdist(questions, keys, scorer=Levenshtein.distance, score_cutoff=below)
    best = distances.argmin(1).tolist()
    return [
        at if row[at] < below and keys[at] else None
        for at, row in zip(best, distances, strict=True)
    ]
