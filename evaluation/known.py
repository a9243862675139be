"""Which records can be edited: those that fit into the model, those whose fact it knows.

What a model knows is asked once: the answers are kept in the cache, by model and by questions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from datamodules.records import Record
from evaluation.folder import write_whole
from models.cache import cache_folder
from models.language_model import LanguageModel

CHUNK = 128  # records from one look at the limit, and one writing of the answers, to the next


def known(
    records: Sequence[Record], language_model: LanguageModel, limit: int | None = None
) -> list[Record]:
    """The records whose request asks what the unedited model answers rightly, in order.

    It does if each token of the true answer is the likeliest one, given the answer up to there, as
    ``scorers.exact_match`` has it. A record without a true answer is not known. Paraphrases and
    locality probes are not asked.

    Args:
        records: may be many more than are wanted; they are asked in order.
        language_model: the unedited model.
        limit: how many known ones are wanted: none is asked after the last of them. None: all.

    Raises:
        ValueError: the model knows none of them, or fewer than ``limit``.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected at least 1")
    answerable = [record for record in records if record.request.target_true is not None]
    right = _right(answerable, language_model, limit) if answerable else []
    facts = [record for record, known in zip(answerable, right, strict=False) if known][:limit]
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
    right = _kept(path)
    asking = tqdm(records, "known facts", initial=len(right), disable=None, leave=False)
    with asking:
        while len(right) < len(records) and (limit is None or sum(right) < limit):
            chunk = [r.request for r in records[len(right) : len(right) + CHUNK]]
            scores = language_model.score([r.prompt for r in chunk], [r.target_true for r in chunk])
            right += scores.exact()
            write_whole(path, json.dumps([int(one) for one in right]) + "\n")
            asking.update(len(chunk))
    return right


def _answers(records: Sequence[Record], language_model: LanguageModel) -> Path:
    """The file of the answers: its name tells weights, questions and their tokens apart."""
    pairs = [(record.request.prompt, record.request.target_true) for record in records]
    tokens = language_model.tokenizer([text for pair in pairs for text in pair])["input_ids"]
    digest = hashlib.sha256(json.dumps([pairs, tokens]).encode()).hexdigest()[:16]
    return cache_folder() / "known" / f"{language_model.fingerprint}-{digest}.json"


def _kept(path: Path) -> list[bool]:
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
