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

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edits.history import History, Making
from files import written_whole

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
    copies = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }
    with written_whole(path) as draft:
        save_file(copies, draft, metadata={HEADER: json.dumps(header)})


def read(path: Path) -> tuple[Owner, dict[str, Any], dict[str, Tensor]]:
    """What `write` was given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a file, or of another version.
    """
    header, tensors = _opened(path, tensors=True)
    return _owner(header), header["state"], tensors


def about(path: Path) -> tuple[Owner, History]:
    """Whose an edit is, what it makes true and how it was made, without its tensors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a file, or of another version.
    """
    header, _ = _opened(path, tensors=False)
    try:
        history = tuple(Making.of_values(making) for making in header.get("history", ()))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: it does not say how it was made: {error}") from error
    return _owner(header), history


def _opened(path: Path, tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The checked header, and the tensors if they are wanted."""
    if not path.is_file():
        raise FileNotFoundError(f"no edit at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, file.metadata() or {})
            names = list(file.keys()) if tensors else []
            return header, {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def _owner(header: Mapping[str, Any]) -> Owner:
    return Owner(**{name: header[name] for name in Owner.__annotations__})


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The checked header of a file."""
    if HEADER not in metadata:
        raise ValueError(f"{path} holds no edit: its metadata lack {HEADER!r}")
    try:
        header = json.loads(metadata[HEADER])
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: its header is not JSON: {error}") from error
    version = header.get("version") if isinstance(header, dict) else None
    if version not in READ:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        advice = "; it needs a newer Errata" if newer else ""
        versions = " and ".join(map(str, READ))
        raise ValueError(f"{path} has format version {version}; this code reads {versions}{advice}")
    texts = all(isinstance(header.get(name), str) for name in Owner.__annotations__)
    if not texts or not isinstance(header.get("state"), dict):
        raise ValueError(f"{path} is damaged: its header does not say whose edit it is")
    return header
