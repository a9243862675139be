"""Second moments on disk: what they depend on, whole sums, and those of a pass not through yet."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.language_model import LanguageModel

VERSION = 1
"""Of what is computed; a change makes every cached file stale."""


class Corpus(Protocol):
    """Texts, and a name for exactly these texts."""

    @property
    def texts(self) -> Sequence[str]:
        """The texts, in a fixed order."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes with any change of the texts."""
        ...


@dataclass(frozen=True, eq=False)
class SecondMoment:
    """The sum of ``k k^T`` of a layer's inputs, ``[d_in, d_in]`` float64, and how many they are."""

    total: Tensor
    count: int

    def __add__(self, other: SecondMoment) -> SecondMoment:
        return SecondMoment(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> Tensor:
        """``E[k k^T]``, ``[d_in, d_in]`` float64."""
        return self.total / self.count


@dataclass(frozen=True)
class Recipe:
    """How second moments are taken of a corpus.

    Args:
        limit: take only so many texts from the start; None: all.
        max_length: longer texts are cut after so many tokens, or what the model takes if less.
        include_first_token: whether the first token of a text counts. Models that park attention
            there have keys of another order of magnitude at it; the authors include it.
    """

    limit: int | None = None
    max_length: int = 1024
    include_first_token: bool = True


def cache_key(
    language_model: LanguageModel, layer: str, corpus: Corpus, recipe: Recipe
) -> dict[str, str]:
    """All that a second moment depends on."""
    backend = json.loads(language_model.tokenizer.backend_tokenizer.to_str())
    tokens = {k: v for k, v in backend.items() if k not in ("padding", "truncation")}  # call state
    key = {
        "model": language_model.fingerprint,
        "dtype": language_model.dtype,
        "tokenizer": hashlib.sha256(json.dumps(tokens, sort_keys=True).encode()).hexdigest()[:16],
        "layer": layer,
        "corpus": corpus.fingerprint,
        **asdict(recipe),
        "max_length": min(recipe.max_length, language_model.max_length),
        "version": VERSION,
    }
    return {name: str(value) for name, value in key.items()}


def cache_path(folder: Path, key: Mapping[str, str]) -> Path:
    """The file of a key."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{key['model']}-{key['layer']}-{digest}.safetensors"


def write(path: Path, moment: SecondMoment, key: Mapping[str, str]) -> None:
    """Writes a second moment and its key, whole or not at all."""
    write_whole(path, {"total": moment.total}, {**key, "count": str(moment.count)})


def read(path: Path, key: Mapping[str, str]) -> SecondMoment:
    """Reads what `write` wrote.

    Raises:
        ValueError: the file holds something else.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if {name: metadata.get(name) for name in key} != dict(key):
            raise ValueError(f"{path} holds the second moment of something else; remove it")
        return SecondMoment(file.get_tensor("total"), int(metadata["count"]))


class Partial:
    """The sums that a process has so far, so that a pass which is killed goes on from there.

    Args:
        folder: where the file is.
        keys: what the second moments of all layers of the pass depend on.
        rank: the process's number.
        world: how many processes share the corpus.
        every: seconds from one writing to the next.
    """

    def __init__(
        self,
        folder: Path,
        keys: Sequence[Mapping[str, str]],
        rank: int = 0,
        world: int = 1,
        every: float = 300.0,
    ):
        digest = hashlib.sha256(json.dumps(list(keys), sort_keys=True).encode()).hexdigest()[:16]
        name = f"{keys[0]['model']}-{digest}-{rank}-of-{world}.unfinished.safetensors"
        self.path, self.every = folder / name, every

    def write(self, totals: Sequence[Tensor], batches: int, count: int) -> None:
        """Writes the totals of the process's first ``batches`` batches, of ``count`` tokens."""
        tensors = {str(number): total for number, total in enumerate(totals)}
        write_whole(self.path, tensors, {"batches": str(batches), "count": str(count)})

    def resume(self, totals: Sequence[Tensor]) -> tuple[int, int]:
        """Fills in the totals that were written, if any; returns their batches and tokens."""
        if not self.path.is_file():
            return 0, 0
        with safe_open(self.path, framework="pt") as file:
            for number, total in enumerate(totals):
                total.copy_(file.get_tensor(str(number)))
            return int(file.metadata()["batches"]), int(file.metadata()["count"])

    def remove(self) -> None:
        """Once the second moments are written."""
        self.path.unlink(missing_ok=True)


def write_whole(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        kept = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(kept, temporary, metadata=dict(metadata))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
