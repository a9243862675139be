"""Edits on disk: one safetensors file, whatever kind of edit it holds.

The file's metadata say what it is: a version, the kind, who made it, for which model, and the
edit's own JSON values. Tensors stand beside them.
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

from files import written_whole

FORMAT_VERSION = 2
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
    path: Path, owner: Owner, state: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write an edit, whole or not at all; see `read`."""
    header = {"version": FORMAT_VERSION, **asdict(owner), "state": state}
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
    if not path.is_file():
        raise FileNotFoundError(f"no edit at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = _header(path, metadata)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    return Owner(**{name: header[name] for name in Owner.__annotations__}), header["state"], tensors


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The checked header of a file."""
    if HEADER not in metadata:
        raise ValueError(f"{path} holds no edit: its metadata lack {HEADER!r}")
    try:
        header = json.loads(metadata[HEADER])
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: its header is not JSON: {error}") from error
    version = header.get("version") if isinstance(header, dict) else None
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        advice = "; it needs a newer Errata" if newer else ""
        raise ValueError(
            f"{path} has format version {version}; this code reads {FORMAT_VERSION}{advice}"
        )
    texts = all(isinstance(header.get(name), str) for name in Owner.__annotations__)
    if not texts or not isinstance(header.get("state"), dict):
        raise ValueError(f"{path} is damaged: its header does not say whose edit it is")
    return header
