"""Files that are written whole or not at all, and how texts and counts are put into a line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A draft, to be written as a file or a folder, that becomes ``path`` if nothing fails.

    It lies beside ``path``, on the same disk, and has its name. It is on the disk before it takes
    its place, or a loss of power could leave the name alone. A file replaces the one that is there;
    a folder takes the place of an empty one.

    Raises:
        OSError: the draft is a folder, and ``path`` a folder that holds something.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / path.name
        yield draft
        for file in draft.iterdir() if draft.is_dir() else [draft]:
            _flush(file)
        if draft.is_dir() and path.is_dir():
            path.rmdir()
        os.replace(draft, path)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all; text in UTF-8."""
    with written_whole(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def _flush(file: Path) -> None:
    if file.is_file():
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())


def counted(count: int, noun: str) -> str:
    """``1 fact``, ``3,000 facts``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def first_line(text: str) -> str:
    """The text up to the first line break after leading blanks, without blanks at its ends."""
    return text.strip().split("\n", 1)[0].strip()
