"""What a model says and knows; which records can be edited: those that fit, those it knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from torch import Tensor

from datamodules.records import Record, Request
from edits.edit import NOTHING, EditedModel
from models.language_model import LanguageModel

Pair = tuple[str, str]
"""A prompt and an answer to it."""


def says(
    model: EditedModel, requests: Sequence[Request], rows: Tensor | Sequence[int] | None = None
) -> list[bool]:
    """Whether the model's answer to each request is its target, in every token.

    Answers are teacher-forced: each token is to be the likeliest one, given the target up to there.

    Args:
        model: edited or not.
        requests: what is asked.
        rows: which edit each of them is asked of; see `EditedModel`.
    """
    prompts, targets = [r.prompt for r in requests], [r.target for r in requests]
    return model.score(prompts, targets, rows=rows).exact()


def knows(model: EditedModel, pairs: Sequence[Pair]) -> list[bool]:
    """Whether the model gives each prompt its answer, in every token, as `says` has it."""
    return model.score([prompt for prompt, _ in pairs], [answer for _, answer in pairs]).exact()


def known(records: Sequence[Record], language_model: LanguageModel) -> list[Record]:
    """The records all of whose requests ask what the unedited model answers rightly, in order.

    It does if each token of the true answer is the likeliest one, given the answer up to there, as
    ``scorers.exact_match`` has it. A record with a request without a true answer is not known.
    Paraphrases and locality probes are not asked.

    Raises:
        ValueError: the model knows none of them.
    """
    complete = [r for r in records if all(q.target_true is not None for q in r.requests)]
    pairs = [(q.prompt, q.target_true) for record in complete for q in record.requests]
    right = iter(knows(NOTHING.edited(language_model), pairs))
    kept = [record for record in complete if all(list(islice(right, len(record.requests))))]
    if not kept:
        raise ValueError(
            f"{language_model.name!r} knows the fact of none of the {len(records):,} records"
        )
    return kept


def fitting(
    records: Sequence[Record], language_model: LanguageModel, more: int = 0
) -> tuple[list[Record], list[Record]]:
    """The records all of whose questions fit into the model, and those that have a longer one.

    A question takes prompt and answer, or prompt and ``more`` tokens of the model's own.

    Raises:
        ValueError: none fits.
    """
    asked = [(at, pair) for at, record in enumerate(records) for pair in _pairs(record)]
    prompts, answers = [prompt for _, (prompt, _) in asked], [answer for _, (_, answer) in asked]
    whole = language_model.lengths(prompts, answers)
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


def _pairs(record: Record) -> Iterator[Pair]:
    """All that a model may be asked about a record: every answer, and every condition."""
    for probe in record.questions:
        contrast = () if probe.contrast is None else (probe.contrast,)
        yield from ((probe.prompt, answer) for answer in (*probe.answers, *contrast))
        yield from probe.known
