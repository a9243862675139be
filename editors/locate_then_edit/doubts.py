"""Warnings of requests whose edit may not be what was meant."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from datamodules.records import Request
from models.language_model import LanguageModel

logger = logging.getLogger(__name__)

NAMED = 3
"""Prompts that a warning shows."""


def warn_of_doubtful(language_model: LanguageModel, requests: Sequence[Request]) -> None:
    """Counts and names requests with a subject mentioned twice, or whose target is true already.

    True is what the model, with the hooks that are on it, says token by token.
    """
    twice = [request for request in requests if request.mentions > 1]
    _warn(twice, requests, "mention the subject more than once; the last mention is edited")
    scores = language_model.score([r.prompt for r in requests], [r.target for r in requests])
    true = [request for request, said in zip(requests, scores.exact(), strict=True) if said]
    _warn(true, requests, "ask for what the model says already")


def _warn(found: Sequence[Request], requests: Sequence[Request], what: str) -> None:
    if found:
        shown = ", ".join(repr(request.prompt) for request in found[:NAMED])
        more = ", ..." if len(found) > NAMED else ""
        logger.warning("%d of %d requests %s: %s%s", len(found), len(requests), what, shown, more)
