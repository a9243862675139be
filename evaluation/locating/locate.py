"""Causal tracing of the facts that a model knows, in one call."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from datamodules.records import Record, requests_of
from evaluation.locating.traces import Located
from evaluation.locating.tracing import Tracing, trace
from models.language_model import LanguageModel
from scoring.known import fitting, known

logger = logging.getLogger(__name__)


def locate(language_model: LanguageModel, records: Sequence[Record], tracing: Tracing) -> Located:
    """Traces those facts of the records that fit into the model and that it knows.

    Raises:
        ValueError: it knows none of them, or the window is too wide.
    """
    window = tracing.width(language_model.blocks)
    fit, _ = fitting(records, language_model)
    facts = known(fit, language_model)
    logger.info("facts that the model knows: %d of %d", len(facts), len(fit))
    traces = trace(language_model, requests_of(facts), tracing)
    return Located(language_model.name, window, traces)
