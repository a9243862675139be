"""Edits on disk: one safetensors file, whatever kind of edit it holds.

The file's metadata say what it is: a version, the kind, who made it, for which model, what it makes
true and how it was made, and the edit's own JSON values. Tensors stand beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from edits.history import History, Making
from files.schema import check
from files.tensors import read as read_tensors
from files.tensors import write as write_tensors

FORMAT_VERSION = 3
READ = (2, FORMAT_VERSION)
"""Files of version 2 do not say what they make true."""
HEADER = "errata_edit"


@dataclass(frozen=True)
class Owner:
    """Whose an edit is.

    Attributes:
        kind: of the edit, see `Edit.kind`.
        editor: name of the editor that made it.
        model: fingerprint of the language model it was made for.
        base: that model's name.
    """

    kind: str
    editor: str
    model: str
    base: str


@dataclass(frozen=True)
class Source:
    """Where an edit is read from.

    Attributes:
        path: of the file.
        owner: whose it is.
        models: what the editor that made it brings along, where its edits need it.
    """

    path: Path
    owner: Owner
    models: Any = None


def write(
    path: Path,
    owner: Owner,
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    history: History = (),
) -> None:
    """Write an edit, whole or not at all; see `read` and `about`."""
    makings = [making.values() for making in history]
    header = {
        "version": FORMAT_VERSION,
        **asdict(owner),
        "history": makings,
        "state": state,
    }
    write_tensors(path, tensors, {HEADER: json.dumps(header)})


def read(path: Path) -> tuple[Owner, dict[str, Any], dict[str, Tensor]]:
    """What `write` was given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a file, is damaged or broken, or of another version.
    """
    header, tensors = _opened(path)
    return _owner(header), header["state"], tensors


def about(path: Path) -> tuple[Owner, History]:
    """Whose an edit is, what it makes true and how it was made.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a file, or of another version.
    """
    header, _ = _opened(path)
    try:
        history = tuple(Making.of_values(making) for making in header.get("history", ()))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: it does not say how it was made: {error}") from error
    return _owner(header), history


def _opened(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The checked header, and the tensors."""
    if not path.is_file():
        raise FileNotFoundError(f"no edit at {path}")
    tensors, metadata = read_tensors(path)
    return _header(path, metadata), tensors


def _owner(header: Mapping[str, Any]) -> Owner:
    return Owner(**{name: header[name] for name in Owner.__annotations__})


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The checked header of a file."""
    if HEADER not in metadata:
        raise ValueError(f"{path} holds no edit: its metadata lack {HEADER!r}")
    try:
        header = json.loads(metadata[HEADER])
    except ValueError as error:
        raise ValueError(f"{path} is damaged: its header is not JSON: {error}") from error
    version = header.get("version") if isinstance(header, dict) else None
    if version not in READ:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        advice = "; it needs a newer Errata" if newer else ""
        versions = " and ".join(map(str, READ))
        raise ValueError(f"{path} has format version {version}; this code reads {versions}{advice}")
    try:
        check({name: header.get(name) for name in Owner.__annotations__}, Owner, "header")
        check(header.get("state"), dict, "header.state")
    except ValueError as error:
        raise ValueError(f"{path} does not say whose edit it is: {error}") from error
    return header
