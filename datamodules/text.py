"""Plain text: corpora for second moments and perplexity."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.batches import padded_batches
from datamodules.reading import fetch, read_rows

# B texts, T tokens


class TextCorpus(Sequence[str]):
    """Texts, in order: given ones, or those of a file (``reading.fetch``).

    Files: ``.txt`` (each line that is not blank is a text), ``.csv`` with a heading (each row's
    ``field``), ``.json`` and ``.jsonl`` (strings, or objects with ``field``). Blank texts are
    skipped; the others stay as they are, but for the blanks at the ends of a ``.txt`` line.

    Args:
        source: a file, or the texts themselves.
        field: the column or key of the text; None for the one called "text", in any case.
    """

    def __init__(self, source: str | Path | Sequence[str], field: str | None = None):
        in_memory = not isinstance(source, str | Path)
        texts = source if in_memory else _read(fetch(source), field)
        self.name = "texts" if in_memory else str(source)
        self.texts = [text for text in texts if text.strip()]
        if not self.texts:
            raise ValueError(f"{self.name}: no text that is not blank")

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index):
        return self.texts[index]

    @cached_property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of SHA-256 over the texts, in order."""
        digest = hashlib.sha256()
        for text in self.texts:
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()[:16]

    def token_batches(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tokens_per_batch: int,
        max_length: int,
        limit: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields ``input_ids`` and ``attention_mask`` [B, T], right padded, the shortest first.

        Args:
            tokenizer: adds its special tokens, if it has any.
            tokens_per_batch: padded tokens B * T a batch, at most, unless one text has more.
            max_length: tokens of a text; the rest of it is cut off.
            limit: texts to use, from the first; None for all.
        """
        for argument, value in (("tokens_per_batch", tokens_per_batch), ("max_length", max_length)):
            if value < 1:
                raise ValueError(f"{argument} is {value}; expected at least 1")
        encoded = tokenizer(self.texts[:limit], truncation=True, max_length=max_length)["input_ids"]
        rows = (ids for ids in encoded if ids)
        yield from padded_batches(rows, tokens_per_batch, _pad_id(tokenizer))


def _read(path: Path, field: str | None) -> list[str]:
    if path.suffix == ".csv":
        return _column(path, field)
    if path.suffix in (".json", ".jsonl", ".ndjson"):
        return [_value(path, index, row, field) for index, row in enumerate(read_rows(path))]
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
    return [line.strip() for line in lines]


def _column(path: Path, field: str | None) -> list[str]:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:  # pandas' own errors are ValueErrors too
        raise ValueError(f"{path} is not CSV in UTF-8 with a heading: {error}") from None
    return table[_key(str(path), list(table), field)].tolist()


def _value(path: Path, index: int, row: object, field: str | None) -> str:
    place = f"{path.name}[{index}]"
    value = row[_key(place, list(row), field)] if isinstance(row, dict) else row
    if not isinstance(value, str):
        raise ValueError(f"{place}: expected text, got {type(value).__name__}")
    return value


def _key(place: str, keys: Sequence[str], field: str | None) -> str:
    matches = [key for key in keys if (key == field if field else key.lower() == "text")]
    if not matches:
        raise ValueError(f"{place} has no field {field or 'text'!r}; it has {', '.join(keys)}")
    return matches[0]


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Padding is masked, so any id will do where the tokenizer has none for it."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return 0
