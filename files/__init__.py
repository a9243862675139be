"""Files and folders that are there whole, or not at all; and the first line of a text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A place to write a file or a folder to, beside ``path``, that becomes it if all goes well.

    A folder that is there already has to be empty.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / path.name
        yield draft
        os.replace(draft, path)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write ``content`` to ``path``: wholly, or not at all if anything fails on the way."""
    with written_whole(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def first_line(text: str) -> str:
    """The text up to the first line break behind leading blanks, without blanks around it."""
    return text.strip().split("\n", 1)[0].strip()
