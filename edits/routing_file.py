"""Routed edits on disk: embeddings as safetensors, entries as JSON in the file's header."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edits.storage import written_whole

FORMAT_VERSION = 1
HEADER = "errata_routed_edit"


def write(
    path: Path,
    caches: Sequence[Sequence[Sequence[str]]],
    embedded: Tensor,
    owners: Mapping[str, str],
) -> None:
    """Write prompts and targets of each cache, all embeddings, and whose they are."""
    header = json.dumps({"version": FORMAT_VERSION, "caches": caches, **owners})
    tensors = {"embedded": embedded.detach().to("cpu", copy=True).contiguous()}
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata={HEADER: header})


def read(path: Path) -> tuple[list[list[list[str]]], Tensor, dict[str, str]]:
    """What `write` was given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a file, or of a later version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no edit at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    if HEADER not in metadata:
        raise ValueError(f"{path} does not hold a routed edit: its metadata lack {HEADER!r}")
    header = json.loads(metadata[HEADER])
    if header.pop("version") != FORMAT_VERSION:
        raise ValueError(f"{path} has another format version; this code reads {FORMAT_VERSION}")
    caches = header.pop("caches")
    if "embedded" not in tensors or len(tensors["embedded"]) != sum(map(len, caches)):
        raise ValueError(f"{path} is damaged: entries and embeddings are not one to one")
    return caches, tensors["embedded"], header
