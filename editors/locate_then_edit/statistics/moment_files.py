"""Second moments on disk: whole sums, and those of a pass that is not through yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from files import written_whole


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


def cache_path(folder: Path, key: Mapping[str, str]) -> Path:
    """The file of a key."""
    return folder / f"{key['model']}-{key['layer']}-{digest(key)}.safetensors"


def digest(value: object) -> str:
    """16 hexadecimal digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def write(path: Path, moment: SecondMoment, key: Mapping[str, str]) -> None:
    """Writes a second moment and its key, whole or not at all."""
    _write(path, {"total": moment.total}, {**key, "count": str(moment.count)})


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
        name = f"{keys[0]['model']}-{digest(list(keys))}-{rank}-of-{world}.unfinished.safetensors"
        self.path, self.every = folder / name, every

    def write(self, totals: Sequence[Tensor], batches: int, count: int) -> None:
        """Writes the totals of the process's first ``batches`` batches, of ``count`` tokens."""
        tensors = {str(number): total for number, total in enumerate(totals)}
        _write(self.path, tensors, {"batches": str(batches), "count": str(count)})

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


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file, whole or not at all."""
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with written_whole(path) as draft:
        save_file(contiguous, draft, metadata=dict(metadata))
