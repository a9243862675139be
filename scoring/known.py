"""What a model says and knows; which records can be edited: those that fit, those it knows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from torch import Tensor

from datamodules.records import KINDS, Record, Request
from edits.edit import NOTHING, EditedModel
from files import write_whole
from files.cache import cache_folder
from models.language_model import LanguageModel
from watching import Watch

CHUNK = 128
"""Records from one look at the limit, and one writing of the answers, to the next."""
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


def known(
    records: Sequence[Record], language_model: LanguageModel, limit: int | None = None
) -> list[Record]:
    """The records all of whose requests ask what the unedited model answers rightly, in order.

    It does if each token of the true answer is the likeliest one, given the answer up to there, as
    ``scorers.exact_match`` has it. A record with a request without a true answer is not known.
    Paraphrases and locality probes are not asked. What was asked once is kept in the cache, by
    model and by questions.

    Args:
        records: may be many more than are wanted; they are asked in order.
        language_model: the unedited model.
        limit: how many known ones are wanted: few are asked after the last of them. None: all.

    Raises:
        ValueError: the model knows none of them, or fewer than ``limit``.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected at least 1")
    complete = [r for r in records if all(q.target_true is not None for q in r.requests)]
    right = _right(complete, language_model, limit) if complete else []
    facts = [record for record, knows in zip(complete, right, strict=False) if knows][:limit]
    if not facts:
        raise ValueError(
            f"{language_model.name!r} knows the fact of none of the {len(records):,} records"
        )
    if limit is not None and len(facts) < limit:
        raise ValueError(
            f"{language_model.name!r} knows the facts of {len(facts):,} of the {len(records):,} "
            f"records, and limit asks for {limit:,}"
        )
    return facts


def _right(
    records: Sequence[Record], language_model: LanguageModel, limit: int | None
) -> list[bool]:
    """Whether the model knows each record, of as many from the start as the limit needs."""
    path = _answers(records, language_model)
    right, model = _stored(path), NOTHING.edited(language_model)
    with Watch("known facts", len(records), "records", len(right)) as watch:
        while len(right) < len(records) and (limit is None or sum(right) < limit):
            chunk = records[len(right) : len(right) + CHUNK]
            answers = iter(knows(model, [pair for record in chunk for pair in _facts(record)]))
            right += [all(list(islice(answers, len(record.requests)))) for record in chunk]
            write_whole(path, json.dumps([int(answer) for answer in right]) + "\n")
            watch.advance(len(chunk), known=sum(right))
    return right


def _facts(record: Record) -> list[Pair]:
    return [(q.prompt, q.target_true) for q in record.requests if q.target_true is not None]


def _answers(records: Sequence[Record], language_model: LanguageModel) -> Path:
    """The file of the answers: its name tells weights, questions and their tokens apart."""
    pairs = [_facts(record) for record in records]
    texts = [text for facts in pairs for pair in facts for text in pair]
    tokens = language_model.tokenizer(texts)["input_ids"]
    questions = json.dumps([pairs, tokens, dataclasses.asdict(language_model.rendering)])
    digest = hashlib.sha256(questions.encode()).hexdigest()[:16]
    return cache_folder() / "known" / f"{language_model.fingerprint}-{digest}.json"


def _stored(path: Path) -> list[bool]:
    """The answers so far; none if there is no file, or one that somebody else wrote."""
    try:
        answers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    fine = isinstance(answers, list) and all(answer in (0, 1) for answer in answers)
    return [bool(answer) for answer in answers] if fine else []


def fitting(
    records: Sequence[Record], language_model: LanguageModel, more: int = 0
) -> tuple[list[Record], list[Record]]:
    """The records all of whose questions fit into the model, and those that have a longer one.

    A question takes prompt and answer, or prompt and ``more`` tokens of the model's own, or as many
    as its kind has.

    Raises:
        ValueError: none fits.
    """
    questions = [(at, pair) for at, record in enumerate(records) for pair in _pairs(record)]
    prompts, answers = (
        [prompt for _, (prompt, _) in questions],
        [answer for _, (_, answer) in questions],
    )
    whole = language_model.lengths(prompts, answers)
    alone = language_model.lengths(prompts, None, more)
    longest = [0] * len(records)
    for (at, _), length, free in zip(questions, whole, alone, strict=True):
        longest[at] = max(longest[at], length, free)
    for at, record in enumerate(records):
        for probe in record.questions:
            if KINDS[probe.kind].tokens > more:
                [free] = language_model.lengths([probe.prompt], None, KINDS[probe.kind].tokens)
                longest[at] = max(longest[at], free)
    fit = [length <= language_model.max_length for length in longest]
    if not any(fit):
        raise ValueError(
            f"none of the {len(records):,} records fits into {language_model.name!r}, which takes "
            f"{language_model.max_length} tokens, {more} of them for its own answer"
        )
    fits, too_long = (
        [r for r, f in zip(records, fit, strict=True) if f is w] for w in (True, False)
    )
    return fits, too_long


def _pairs(record: Record) -> Iterator[Pair]:
    """All that a model may be asked about a record: every answer, and every condition."""
    for probe in record.questions:
        yield from ((probe.prompt, answer) for answer in (*probe.answers, *probe.wrong))
        yield from probe.known
