"""What a file that may be a checkpoint holds."""

from __future__ import annotations

from json import JSONDecodeError
from pathlib import Path
from pickle import UnpicklingError
from struct import error as StructError
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

import torch

DAMAGED = (
    *(RuntimeError, EOFError, UnpicklingError, BadZipFile, JSONDecodeError, ValueError, TypeError),
    *(KeyError, IndexError, AttributeError, AssertionError, OverflowError, MemoryError),
    *(NotImplementedError, StructError),
)


def changed(path: Path) -> bool:
    """Whether a checkpoint is not what was written: the sums in its archive do not agree."""
    try:
        with ZipFile(path) as archive:
            return archive.testzip() is not None
    except (BadZipFile, NotImplementedError, OSError, EOFError, ValueError, ZlibError):
        return True


def saved(path: Path) -> dict | None:
    """What a checkpoint holds, without its tensors' values; None if it is no checkpoint.

    Damaged files raise whatever the bytes happen to mean to ``torch.load`` and to pickle.
    """
    try:
        contents = torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except (*DAMAGED, OSError):
        return None
    return contents if isinstance(contents, dict) and "state_dict" in contents else None
