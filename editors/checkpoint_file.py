"""What a file that may be a checkpoint holds."""

from __future__ import annotations

from json import JSONDecodeError
from pathlib import Path
from pickle import UnpicklingError
from zipfile import BadZipFile

import torch


def saved(path: Path) -> dict | None:
    """What a checkpoint holds, without its tensors' values; None if it is no checkpoint."""
    try:
        contents = torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except (RuntimeError, OSError, EOFError, UnpicklingError, BadZipFile, JSONDecodeError):
        return None
    return contents if isinstance(contents, dict) and "state_dict" in contents else None
