"""Which records can be edited: those whose fact the language model knows."""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.records import Record
from models.language_model import LanguageModel


def known(records: Sequence[Record], language_model: LanguageModel) -> list[Record]:
    """The records whose request asks what the unedited model answers rightly, in order.

    It does if each token of the true answer is the likeliest one, given the answer up to there, as
    ``scorers.exact_match`` has it. A record without a true answer is not known. Paraphrases and
    locality probes are not asked.

    Raises:
        ValueError: the model knows none of them.
    """
    asked = [record for record in records if record.request.target_true is not None]
    prompts = [record.request.prompt for record in asked]
    scores = language_model.score(prompts, [record.request.target_true for record in asked])
    answers = zip(asked, scores.predicted, scores.targets, strict=True)
    found = [record for record, predicted, true in answers if predicted.equal(true)]
    if not found:
        raise ValueError(
            f"{language_model.name!r} knows the fact of none of the {len(records):,} records"
        )
    return found
