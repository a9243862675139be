"""A person's own facts: a table of prompts and what is to stand behind them."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from datamodules.reading import Fields, Reading, collect, fetch, read_rows
from datamodules.records import Probe, Record, RecordError, Request

NEW, TRUE, PARAPHRASES = (
    ("target_new", "target"),
    ("ground_truth", "target_true"),
    "rephrase_prompt",
)
FIRST_WORDS = frozenset(
    "a an in on at of by as is are was were does did do which what who where when how the to for "
    "from question".split()
)
"""Words that begin a sentence more often than a name, whatever their case."""
WORD = re.compile(r"[\w'’.-]*\w")


@dataclass(frozen=True)
class Facts:
    """Facts of a file, and whose subject was guessed: each a prompt and the guess."""

    reading: Reading
    guessed: dict[str, str]

    @property
    def records(self) -> list[Record]:
        """A record for each fact, with its paraphrases as probes."""
        return self.reading.records


def read_facts(source: str | Path, guess: bool = True) -> Facts:
    """The facts of a CSV, JSON or JSON lines file.

    Needed are ``prompt``, ``subject`` and ``target_new``; ``ground_truth`` (what was true) and
    ``rephrase_prompt`` (a paraphrase, or a list of them) may stand beside them.

    Args:
        source: path, URL or hub id; see `reading.fetch`.
        guess: whether a missing subject is guessed from the prompt.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not one fact of it can be used.
    """
    path, guessed = fetch(source), {}

    def record(at: int, fields: Fields) -> Record:
        prompt, target = fields.text("prompt"), fields.text(_name(fields, NEW))
        subject = _subject(fields, prompt, guess)
        if "subject" not in fields:
            guessed[prompt] = subject
        true = next((fields.text(name) for name in TRUE if name in fields), None)
        texts = fields.answers(PARAPHRASES) if PARAPHRASES in fields else ()
        probes = tuple(Probe("generalization", text, target, true) for text in texts)
        return Record(f"{path.stem}-{at}", (Request(prompt, subject, target, true),), probes)

    rows = _csv(path) if path.suffix.lower() == ".csv" else read_rows(path)
    return Facts(collect(path, [*map(_filled, rows)], record), guessed)


def subject_of(prompt: str) -> str | None:
    """The longest name in the prompt: words that begin with a capital or a digit; None if none."""
    names, name = [], []
    for word in WORD.finditer(prompt):
        text = word[0]
        begins = not name and text.casefold() in FIRST_WORDS
        if (text[0].isupper() or text[0].isdigit()) and not begins:
            name.append(word)
        elif name:
            names, name = [*names, name], []
    spans = [(each[0].start(), each[-1].end()) for each in [*names, name] if each]
    start, end = max(spans, key=lambda span: (span[1] - span[0], span[0]), default=(0, 0))
    return prompt[start:end] or None


def _subject(fields: Fields, prompt: str, guess: bool) -> str:
    if "subject" in fields:
        return fields.text("subject")
    if not guess:
        raise RecordError("subject", "is missing, and the editor changes what stands at it")
    subject = subject_of(prompt)
    if subject is None:
        raise RecordError("subject", f"is missing, and there is no name in {prompt!r} to take")
    return subject


def _name(fields: Fields, names: tuple[str, ...]) -> str:
    return next((name for name in names if name in fields), names[0])


def _filled(row: object) -> object:
    """A row without its empty cells."""
    if not isinstance(row, dict):
        return row
    return {name: value for name, value in row.items() if value not in ("", None)}


def _csv(path: Path) -> list[object]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file, strict=True))
