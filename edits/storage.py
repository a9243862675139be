"""Weight edits on disk: the edit alone as safetensors, or merged into a Hugging Face folder.

Beside an edit its file can hold the increments that it is the sum of; see :mod:`edits.journal`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edits.updates import Dense, LowRank, compute_dtype
from models.language_model import LanguageModel

FORMAT_VERSION = 1
HEADER = "errata_weight_edit"
KINDS = {"low_rank": LowRank, "dense": Dense}
PAST_KEYS = "past_keys"
FIELDS = {"low_rank": ("left", "right"), "dense": ("weight", "bias")}
JOURNAL = "journal"
MAX_ROUNDING = 0.1  # share of the update's norm that may be lost to the weights' dtype


Changes = Mapping[str, LowRank | Dense]
Keys = Mapping[str, Tensor]


def write(
    path: Path,
    updates: Changes,
    editor: str,
    model: str,
    base: str,
    past_keys: Keys,
    journal: Sequence[tuple[str, Changes, Keys]] = (),
    ends: Sequence[int] = (),
) -> None:
    """Write the updates with what they belong to; see :func:`read` and :func:`read_journal`."""
    header = {
        "version": FORMAT_VERSION,
        "editor": editor,
        "model": model,
        "base": base,
        "updates": _kinds(updates),
    }
    found = _tensors(updates, past_keys)
    if journal:
        increments = [{"editor": by, "updates": _kinds(changes)} for by, changes, _ in journal]
        header[JOURNAL] = {"increments": increments, "ends": list(ends)}
    for number, (_, changes, keys) in enumerate(journal):
        found |= _tensors(changes, keys, f"{JOURNAL}.{number}.")
    tensors = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in found.items()
    }
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata={HEADER: json.dumps(header)})


def read(path: Path) -> tuple[dict[str, LowRank | Dense], str, str, str, dict[str, Tensor]]:
    """Updates, editor, model fingerprint, model name and past keys that :func:`write` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a file, or of a later version.
    """
    header, tensors = _opened(path, journal=False)
    updates, past_keys = _changes(path, header["updates"], tensors)
    return updates, header["editor"], header["model"], header["base"], past_keys


def read_journal(
    path: Path,
) -> tuple[list[tuple[str, dict[str, LowRank | Dense], dict[str, Tensor]]], list[int]]:
    """The increments (editor, updates, past keys) beside an edit, and the ends of its steps.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a file, of a later version, or holds no increments.
    """
    header, tensors = _opened(path, journal=True)
    if JOURNAL not in header:
        raise ValueError(f"{path} holds an edit without the increments that it is the sum of")
    increments = [
        (own["editor"], *_changes(path, own["updates"], tensors, f"{JOURNAL}.{number}."))
        for number, own in enumerate(header[JOURNAL]["increments"])
    ]
    return increments, header[JOURNAL]["ends"]


def has_journal(path: Path) -> bool:
    """Whether the file holds increments beside an edit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an edit's file, or of a later version.
    """
    with _reading(path) as (header, _):
        return JOURNAL in header


def _kinds(updates: Changes) -> dict[str, str]:
    return {
        name: "low_rank" if isinstance(update, LowRank) else "dense"
        for name, update in updates.items()
    }


def _tensors(updates: Changes, past_keys: Keys, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of an edit, by the names that they have in a file."""
    found = {f"{prefix}{name}.{PAST_KEYS}": keys for name, keys in past_keys.items()}
    for name, kind in _kinds(updates).items():
        fields = {field: getattr(updates[name], field) for field in FIELDS[kind]}
        found |= {f"{prefix}{name}.{field}": x for field, x in fields.items() if x is not None}
    return found


def _changes(
    path: Path, kinds: Mapping[str, str], tensors: Mapping[str, Tensor], prefix: str = ""
) -> tuple[dict[str, LowRank | Dense], dict[str, Tensor]]:
    """What :func:`_tensors` was given."""
    updates = {}
    for name, kind in kinds.items():
        fields = [tensors.get(f"{prefix}{name}.{field}") for field in FIELDS[kind]]
        if fields[0] is None:
            raise ValueError(f"{path} is damaged: it lists {prefix + name!r} but lacks its tensors")
        updates[name] = KINDS[kind](*fields)
    keys = {name: f"{prefix}{name}.{PAST_KEYS}" for name in updates}
    return updates, {name: tensors[key] for name, key in keys.items() if key in tensors}


def _opened(path: Path, journal: bool) -> tuple[dict, dict[str, Tensor]]:
    """Header of a file, and the tensors of the increments or those of the edit itself."""
    with _reading(path) as (header, file):
        names = [key for key in file.keys() if key.startswith(f"{JOURNAL}.") == journal]  # noqa: SIM118
        return header, {name: file.get_tensor(name) for name in names}


@contextmanager
def _reading(path: Path) -> Iterator[tuple[dict, safe_open]]:
    """The header of a file, and the file, open."""
    if not path.is_file():
        raise FileNotFoundError(f"no edit at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if HEADER not in metadata:
                raise ValueError(
                    f"{path} does not hold a weight edit: its metadata lack {HEADER!r}"
                )
            header = json.loads(metadata[HEADER])
            if header["version"] != FORMAT_VERSION:
                raise ValueError(
                    f"{path} has format version {header['version']}; this code reads "
                    f"{FORMAT_VERSION}"
                )
            yield header, file
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def merge(
    language_model: LanguageModel, updates: Mapping[str, LowRank | Dense], folder: Path
) -> None:
    """Write the model's folder with the first edit of ``updates`` in its weights."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder")
    state = language_model.model.state_dict()
    for name, update in updates.items():
        state |= _merged(language_model.module(name), name, update)
    with written_whole(folder) as temporary:
        language_model.model.save_pretrained(temporary, state_dict=state)
        language_model.tokenizer.save_pretrained(temporary)


def _merged(module: nn.Module, name: str, update: LowRank | Dense) -> dict[str, Tensor]:
    """The layer's entries of the state dict, changed; its module type decides the orientation."""
    delta = update.dense()[0].detach()  # [d_in, d_out]
    delta = delta.T if isinstance(module, nn.Linear) else delta
    changed = {f"{name}.weight": _sum(name, module.weight, delta)}
    if isinstance(update, Dense) and update.bias is not None:
        if module.bias is None:
            raise ValueError(f"the update of {name!r} moves a bias; the layer has none")
        changed[f"{name}.bias"] = _sum(name, module.bias, update.bias[0].detach())
    return changed


def _sum(name: str, weight: Tensor, delta: Tensor) -> Tensor:
    dtype = compute_dtype(weight.dtype)
    delta = delta.to(weight.device, dtype)
    exact = weight.detach().to(dtype) + delta
    rounded = exact.to(weight.dtype)
    lost = torch.linalg.vector_norm(rounded.to(dtype) - exact)
    if lost > MAX_ROUNDING * torch.linalg.vector_norm(delta):
        raise ValueError(
            f"rounding to {weight.dtype} would lose more than {MAX_ROUNDING:.0%} of the update of "
            f"{name!r}: load the model in float32 to merge it"
        )
    return rounded


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A place to write to, beside ``path``, that becomes ``path`` if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)
