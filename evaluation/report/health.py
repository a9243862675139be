"""Whether an edited model still is a language model: perplexity of other text, size of the change.

A model that edits have broken may still answer what it was asked to; the two say that it is broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

import numpy as np

from edits.edit import EditedModel
from evaluation.report.intervals import interval, resampled_means

PERPLEXITY, UPDATE_NORM, RELATIVE_NORM = "perplexity", "update_norm", "relative_norm"
LARGEST = 700.0  # nats per token, the exponential of which is still a number


def of(model: EditedModel, texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Perplexity of the texts, if there are any to score, and what the edit says of its size.

    Args:
        model: edited by one edit, or by none.
        texts: held out of all that is edited and asked.

    Returns:
        By name the mean, its interval and the number of texts of ``perplexity``; and each measure
        of `Edit.size`, which has no interval.
    """
    size = model.edit.size(model.language_model)
    exact = {name: _exact(value) for name, value in size.items()}
    measurable = texts and model.edit.scores
    return ({PERPLEXITY: perplexity(model, texts)} if measurable else {}) | exact


def perplexity(model: EditedModel, texts: Sequence[str]) -> dict[str, float]:
    """Perplexity per token of the texts behind their first words; the interval is over texts.

    Asked as an edited model can be asked: each text is a first word continued by a target.

    Raises:
        ValueError: no text is of more than one word.
    """
    split = [text.split(None, 1) for text in texts]
    pairs = [pair for pair in split if len(pair) == 2]
    if not pairs:
        raise ValueError("there is no text of more than one word to take the perplexity of")
    scores = model.score([first for first, _ in pairs], [rest for _, rest in pairs])
    nlls = [-float(log_probs.double().sum()) for log_probs in scores.log_probs]
    values = np.array([[nll, len(ids)] for nll, ids in zip(nlls, scores.targets, strict=True)])
    finite = np.isfinite(values[:, 0])
    values[:, 0] = np.where(finite, values[:, 0], LARGEST * values[:, 1])
    draws = resampled_means(values)
    low, high = interval(draws[:, 0] / draws[:, 1])
    total, tokens = values.sum(0)
    bounds = {"mean": total / tokens, "low": low, "high": high}
    return {name: exp(min(value, LARGEST)) for name, value in bounds.items()} | {
        "count": len(pairs)
    }


def _exact(value: float) -> dict[str, float]:
    return {"mean": value, "low": value, "high": value, "count": 1}
