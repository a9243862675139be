"""Short digests that say whether two runs ask the same questions of the same editors."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

import lightning as L
import torch
from torch import nn

from editors.editor import Editor

NAME, LANGUAGE_MODEL = 16, "language_model."
LIGHTNING = frozenset(vars(L.LightningModule()))  # what every module has


def of_editor(editor: Editor) -> dict[str, object]:
    """The editor's class, its plain public settings and, if it is trained, what it has learned.

    Plain are numbers, texts, and lists, mappings and dataclasses of them; a corpus is told by its
    fingerprint.
    """
    own = {
        name: getattr(value, "fingerprint", value)
        for name, value in vars(editor).items()
        if not name.startswith("_") and name not in LIGHTNING and name != LANGUAGE_MODEL[:-1]
    }
    settings = {name: plain(value) for name, value in own.items() if is_plain(value)}
    identity = {"class": type(editor).__qualname__, **settings}
    if isinstance(editor, nn.Module):
        identity["tensors"] = of_tensors(editor.state_dict())
    return identity


def of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest of names, types, shapes and bytes; the language model's own are left out."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        if not name.startswith(LANGUAGE_MODEL):
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:NAME]


def is_plain(value: object) -> bool:
    """Whether JSON can hold the value once ``plain`` has been at it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return all(is_plain(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def plain(value: object) -> object:
    """The value with dataclasses as dicts."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
