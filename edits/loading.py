"""The edit in a file, whatever kind of edit it is."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from safetensors import SafetensorError, safe_open

from edits import storage
from edits.edit import Edit
from edits.journal import Journal
from edits.weights import WeightEdit
from models.language_model import LanguageModel


def load(path: str | Path, language_model: LanguageModel) -> Edit:
    """Read what an edit's ``save`` wrote, and check that it is an edit of ``language_model``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an edit's file, or not of this model.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no edit at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            found = set(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    for header, read in READERS.items():
        if header in found:
            return read(path, language_model)
    raise ValueError(f"{path} holds no edit: its metadata have none of {', '.join(READERS)}")


def weight_edit(path: Path, language_model: LanguageModel) -> WeightEdit:
    """A weight edit, with its journal if it has one."""
    kind = Journal if storage.has_journal(path) else WeightEdit
    return kind.load(path, language_model)


READERS = MappingProxyType({storage.HEADER: weight_edit})
"""By the entry in a file's metadata that says what it holds."""
