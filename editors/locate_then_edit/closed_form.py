"""Shared by all solved editors: blocks, contexts, second moments and the search for a value."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from torch import Tensor

from datamodules.records import Request
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.statistics.coordinates import Coordinates, factor, of_each
from editors.locate_then_edit.statistics.moments import Moments, warn_of_few_tokens
from editors.settings import at_least
from editors.weight_editor import WeightEditor
from edits.edit import NOTHING
from models.language_model import LanguageModel
from scoring.known import says

logger = logging.getLogger(__name__)

NAMED = 3
"""Prompts that a warning shows."""


class ClosedForm(WeightEditor):
    """Writes facts into second feed-forward projections, by updates that have a closed form.

    Args:
        language_model: the model to edit.
        blocks: the edited blocks, from the lowest up. The model's last is of no use: its output
            at the subject does not reach the tokens after it.
        search: how a value is searched for.
        contexts: what a prompt is put into.
        moments: the second moments of keys; None: the identity stands in for them.
        rows_per_batch: bounds the memory taken; results do not depend on it.

    Raises:
        ValueError: an argument is not one of the above.
        UnsupportedModel: the model is an encoder-decoder.
    """

    at_subject = True

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        blocks: Sequence[int],
        search: Search,
        contexts: Contexts,
        moments: Moments | None,
        rows_per_batch: int,
    ):
        language_model.require_decoder_only(f"{self.name}, which edits a subject's last token,")
        blocks = list(blocks)
        if not blocks or blocks != sorted(set(blocks)):
            raise ValueError(f"layers: expected blocks from the lowest up, got {blocks}")
        self.layers = [language_model.layer("mlp_out", block) for block in blocks]
        if blocks[-1] == language_model.blocks - 1:
            raise ValueError(f"layers: {blocks[-1]} is the last block, which no later token reads")
        at_least(1, rows_per_batch=rows_per_batch)
        self.language_model = language_model
        self.blocks = blocks
        self.search = search
        self.contexts = contexts
        self.moments = moments
        self.rows_per_batch = rows_per_batch
        self.templates: tuple[str, ...] = ()
        self.fitted: dict[str, Coordinates] = {}

    def fit(self, moment: Tensor, layer: str) -> Coordinates:
        """The coordinates in which to solve, of a layer's second moment ``[d_in, d_in]``."""
        return factor(moment, layer)

    def prepare(self) -> None:
        """Takes the contexts and the second moments, once, of the clean model."""
        model = self.language_model
        self.templates = self.templates or self.contexts.of(model)
        if self.moments is None or self.fitted:
            return
        for layer, moment in self.moments.of(model, self.layers).items():
            warn_of_few_tokens(moment, layer)
            self.fitted[layer] = of_each(self.fit, moment.mean.to(model.device), layer)


def default_blocks(blocks: int, count: int = 1) -> list[int]:
    """The blocks that are edited by default: a third up, as in the published settings.

    Up to ``count`` of them, from the lowest up; the last one is ``ceil(0.35 * blocks)``, but never
    the model's last, whose output at the subject does not reach the tokens after it.
    """
    last = max(0, min(math.ceil(0.35 * blocks), blocks - 2))
    return list(range(max(0, last + 1 - count), last + 1))


def warn_of_doubtful(language_model: LanguageModel, requests: Sequence[Request]) -> None:
    """Warns of requests that mention their subject twice, or whose target is true already.

    True is what the model, with the hooks that are on it, predicts token by token.
    """
    twice = [request for request in requests if request.mentions > 1]
    _warn(twice, requests, "mention the subject more than once; the last mention is edited")
    answers = zip(requests, says(NOTHING.edited(language_model), requests), strict=True)
    true = [request for request, answered in answers if answered]
    _warn(true, requests, "ask for what the model says already")


def _warn(doubtful: Sequence[Request], requests: Sequence[Request], what: str) -> None:
    if doubtful:
        shown = ", ".join(repr(request.prompt) for request in doubtful[:NAMED])
        more = ", ..." if len(doubtful) > NAMED else ""
        count = len(doubtful)
        logger.warning("%d of %d requests %s: %s%s", count, len(requests), what, shown, more)
