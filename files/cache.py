"""The folder on this machine for what is made once and kept: ``$ERRATA_CACHE``."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

log = logging.getLogger(__name__)

DIGESTS = "digests.json"
"""SHA-256 of every other file of a kept folder; without it the folder is not whole."""


def cache_folder() -> Path:
    """``$ERRATA_CACHE``, or ``~/.cache/errata``."""
    return Path(os.environ.get("ERRATA_CACHE") or "~/.cache/errata").expanduser()


def cached(name: str, fill: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache, which ``fill`` writes where it is not there whole.

    It appears whole or not at all, and one process at a time fills it: the others wait, and take
    what they find. One whose files are no longer what ``fill`` wrote is named and filled anew.
    """
    folder = cache_folder() / name
    if is_intact(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not is_intact(folder):
            _fill(folder, fill)
    return folder


def is_intact(folder: Path) -> bool:
    """Whether the folder is there, and holds what was once written to it."""
    return folder.is_dir() and not changes(folder)


def changes(folder: Path) -> list[str]:
    """The files of a kept folder that are missing, cut or changed."""
    try:
        digests = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [DIGESTS]
    return [file for file, digest in digests.items() if _digest(folder / file) != digest]


def _fill(folder: Path, fill: Callable[[Path], None]) -> None:
    draft = folder.with_name(f"{folder.name}.part")  # of a process that was killed, if it is there
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir()
        fill(draft)
        digests = {file.name: _digest(file) for file in sorted(draft.iterdir())}
        (draft / DIGESTS).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
        if folder.is_dir():
            changed = ", ".join(changes(folder))
            log.warning("%s is no longer what was written (%s): made anew", folder, changed)
            shutil.rmtree(folder)
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _digest(file: Path) -> str | None:
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
