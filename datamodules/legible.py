"""What is wrong with a text that is to be read by a tokenizer and shown to a person."""

from __future__ import annotations

import json
import re
import unicodedata

LONGEST = 20_000
"""Characters of the longest text that a record may have; published ones have 1,100 at most."""
SPECIAL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>"
    r"|</?s>|<(?:pad|unk|eos|bos|mask|start_of_turn|end_of_turn)>"
    r"|\[(?:PAD|UNK|CLS|SEP|MASK|/?INST)\]|<</?SYS>>"
)
"""How the tokenizers of known models write their special tokens."""
CONTROLS = ("Cc", "Cs", "Co", "Cn")
"""Unicode's categories of what stands for no character that a text can have."""
BREAKS = "\t\n\r"
JOINERS = "\u200c\u200d"
"""Invisible, but part of how Persian, Hindi or an emoji is written."""


def fault(text: str) -> str | None:
    """Why a text cannot be put to a model; None if it can.

    Control characters but for tab and line ends, special tokens written out, invisible characters
    and nothing else, and more than `LONGEST` characters are faults.
    """
    if len(text) > LONGEST:
        return f"has {len(text):,} characters; at most {LONGEST:,} are read"
    special = SPECIAL.search(text)
    if special:
        return f"holds {special[0]!r}, which tokenizers read as a special token, not as text"
    return None if text.isprintable() else _unprintable(text)


def _unprintable(text: str) -> str | None:
    controls = [c for c in text if c not in BREAKS and unicodedata.category(c) in CONTROLS]
    if controls:
        return f"holds the control characters {_named(controls)}"
    unseen = invisible(text)
    if unseen and all(c.isspace() or c in JOINERS or c in unseen for c in text):
        return f"shows nothing: it consists of {_named(unseen)}"
    return None


def invisible(text: str) -> list[str]:
    """The characters of a text that take no room and join nothing, such as U+200B, in order."""
    if text.isprintable():
        return []
    return [c for c in text if unicodedata.category(c) == "Cf" and c not in JOINERS]


def same(one: str, other: str) -> bool:
    """Whether two texts look the same to a reader, but for case."""
    return folded(one) == folded(other)


def folded(text: str) -> str:
    """A text without its case, its compatibility forms, its invisible characters and its breaks."""
    unseen = invisible(text)
    seen = "".join(c for c in text if c not in unseen)
    return " ".join(unicodedata.normalize("NFKC", seen).casefold().split())


def shown(value: object) -> str:
    """A value of a file for a message: in a line, and no longer than that."""
    text = json.dumps(value, ensure_ascii=True, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


def quoted(text: str) -> str:
    """A text for a message, in quotes, as `shown` otherwise."""
    text = repr(text)
    return text if len(text) <= 100 else f"{text[:97]}..."


def note(text: str) -> str | None:
    """What a reader of the file should know about a text that is used as it is; mostly None."""
    unseen = invisible(text)
    return f"holds the invisible characters {_named(unseen)}" if unseen else None


def _named(characters: list[str]) -> str:
    return ", ".join(f"U+{ord(c):04X}" for c in dict.fromkeys(characters))
