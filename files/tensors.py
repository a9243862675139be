"""Tensors on disk: safetensors files that are written whole, and noticed where they are damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from files import written_whole

DIGEST = "digest"
"""The key of a file's digest in its metadata; files of others have none."""


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata, with a digest of both, whole or not at all; see `read`.

    Raises:
        OSError: the disk is full, or refuses the file.
    """
    own = _each_its_own(tensors)
    with written_whole(path) as draft:
        try:
            save_file(own, draft, metadata={**metadata, DIGEST: _digest(own, metadata)})
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `write` was given, or another safetensors file.

    Raises:
        ValueError: it is no such file, is not what was written, or holds NaN or inf.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    written = metadata.pop(DIGEST, None)
    if written is not None and written != _digest(tensors, metadata):
        raise ValueError(f"{path} is damaged: it is not what was written")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path} is broken: {name} holds NaN or inf")
    return tensors, metadata


def _each_its_own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, no two of which share memory; those that need no copy are not."""
    own: dict[str, Tensor] = {}
    places = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        whole = value.untyped_storage().nbytes() == value.nbytes
        own[name] = value if whole and value.data_ptr() not in places else value.clone()
        places.add(value.data_ptr())
    return own


def digest(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits of the tensors' names, types, shapes and bytes."""
    hashed = hashlib.sha256()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        hashed.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        hashed.update(value.flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()[:16]


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of a file, whatever the order in which it holds its tensors."""
    ordered = {name: tensors[name] for name in sorted(tensors)}
    text = json.dumps({**metadata, "tensors": digest(ordered)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
