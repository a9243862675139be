"""Long targets in windows, each with a value of its own at the token before it.

AnyEdit (Jiang et al., "AnyEdit: Edit Any Knowledge Encoded in Language Models", ICML 2025,
https://arxiv.org/abs/2502.05628): one shifted token decides a few dozen tokens at most, so a long
answer is cut into windows, and the last token before each is an anchor that is shifted for it.
Departures from the authors' code: windows are cut between words, so that each is a request like any
other; the first one's anchor is the request's own subject, since questions in other words have that
in common, theirs the last token of the prompt; a window is written before the next is searched for,
with the keys of earlier ones spared where an editor spares any, instead of all in one solve; other
tokens of the text are spared only as the second moments of keys say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from datamodules.records import Request
from models.language_model import LanguageModel


def windows(language_model: LanguageModel, request: Request, size: int) -> list[Request]:
    """The request's target in parts of at most ``size`` tokens, or of one word if that has more.

    Together they say the target; each one's prompt ends where its part begins. A target that fits
    is the request itself.
    """
    words = re.split(r"(?<=\S) (?=\S)", request.target)
    ends = [" ".join(words[: n + 1]) for n in range(len(words))]
    lengths = language_model.answer_lengths([request.prompt] * len(ends), ends)
    cuts = _cuts(lengths, size)
    first, *later = pairwise(cuts)
    if not later:
        return [request]
    parts = [Request(request.prompt, request.subject, " ".join(words[slice(*first)]))]
    for start, stop in later:
        prompt, part = f"{request.prompt} {ends[start - 1]}", " ".join(words[start:stop])
        parts.append(Request(prompt, words[start - 1], part))
    return parts


def _cuts(lengths: Sequence[int], size: int) -> list[int]:
    """Between which words to cut, from 0 to their number; ``lengths`` are tokens up to each."""
    cuts, begun = [0], 0
    for number, length in enumerate(lengths):
        if length - begun > size and number > cuts[-1]:
            cuts.append(number)
            begun = lengths[number - 1]
    return [*cuts, len(lengths)]
