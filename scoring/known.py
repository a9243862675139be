"""Which records can be edited: those that fit into the model, those whose fact it knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from datamodules.records import Record, Request
from edits.edit import EditedModel
from models.language_model import LanguageModel


def says(
    model: EditedModel | LanguageModel,
    requests: Sequence[Request],
    rows: Sequence[int] | None = None,
) -> list[bool]:
    """Whether the model says each request's target: every token of it is the likeliest one.

    ``rows`` says which of an edited model's edits each request sees; see `EditedModel`.
    """
    prompts, targets = [r.prompt for r in requests], [r.target for r in requests]
    options = {} if rows is None else {"rows": rows}
    return model.score(prompts, targets, **options).exact()


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
    found = [record for record, right in zip(asked, scores.exact(), strict=True) if right]
    if not found:
        raise ValueError(
            f"{language_model.name!r} knows the fact of none of the {len(records):,} records"
        )
    return found


def fitting(
    records: Sequence[Record], language_model: LanguageModel, more: int = 0
) -> tuple[list[Record], list[Record]]:
    """The records all of whose questions fit into the model, and those that have a longer one.

    A question takes prompt and answer, or prompt and ``more`` tokens of the model's own.

    Raises:
        ValueError: none fits.
    """
    asked = [(at, probe) for at, record in enumerate(records) for probe in record.questions]
    asked += [(at, replace(p, target=p.contrast)) for at, p in asked if p.contrast is not None]
    prompts, targets = [p.prompt for _, p in asked], [p.target for _, p in asked]
    whole = language_model.lengths(prompts, targets)
    alone = language_model.lengths(prompts, None, more)
    longest = [0] * len(records)
    for (at, _), length, free in zip(asked, whole, alone, strict=True):
        longest[at] = max(longest[at], length, free)
    fit = [length <= language_model.max_length for length in longest]
    if not any(fit):
        raise ValueError(
            f"none of the {len(records):,} records fits into {language_model.name!r}, which takes "
            f"{language_model.max_length} tokens, {more} of them for its own answer"
        )
    kept, others = ([r for r, f in zip(records, fit, strict=True) if f is w] for w in (True, False))
    return kept, others
