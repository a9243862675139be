"""Second moments on disk: whole sums, and those of a pass that is not through yet."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from files.tensors import read as read_tensors
from files.tensors import write as write_tensors

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SecondMoment:
    """The sum of ``k k^T`` of a layer's inputs, ``[d_in, d_in]`` float64, and how many they are.

    Of a mixture of experts the sums of each one's own part of them, ``[E, f, f]``.
    """

    total: Tensor
    count: int

    def __add__(self, other: SecondMoment) -> SecondMoment:
        return SecondMoment(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> Tensor:
        """``E[k k^T]``, ``[d_in, d_in]`` float64; of experts ``[E, f, f]``."""
        return self.total / self.count


def cache_path(folder: Path, key: Mapping[str, str]) -> Path:
    """The file of a key."""
    return folder / f"{key['model']}-{key['layer']}-{digest(key)}.safetensors"


def digest(value: object) -> str:
    """16 hexadecimal digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def write(path: Path, moment: SecondMoment, key: Mapping[str, str]) -> None:
    """Writes a second moment and its key, whole or not at all."""
    notes = {"count": str(moment.count), "shape": str([*moment.total.shape])}
    write_tensors(path, {"total": moment.total}, {**key, **notes})


def read(path: Path, key: Mapping[str, str]) -> SecondMoment:
    """Reads what `write` wrote.

    Raises:
        ValueError: the file holds something else, or is damaged.
    """
    tensors, metadata = read_tensors(path)
    if {name: metadata.get(name) for name in key} != dict(key):
        raise ValueError(f"{path} holds the second moment of something else; remove it")
    total, count = tensors.get("total"), metadata.get("count", "")
    if total is None or not count.isdecimal() or not int(count) or not _is_moment(total, metadata):
        raise ValueError(f"{path} holds no second moment; remove it")
    return SecondMoment(total, int(count))


def _is_moment(total: Tensor, notes: Mapping[str, str]) -> bool:
    """Whether it can be a sum of ``k k^T``, or one of each expert where that was written."""
    square = total.ndim in (2, 3) and total.shape[-2] == total.shape[-1]
    square &= total.ndim == 2 if "shape" not in notes else notes["shape"] == str([*total.shape])
    return square and total.dtype == torch.float64 and torch.equal(total, total.mT)


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
        write_tensors(self.path, tensors, {"batches": str(batches), "count": str(count)})

    def resume(self, totals: Sequence[Tensor]) -> tuple[int, int]:
        """Fills in the totals that were written, if any; returns their batches and tokens.

        What is damaged is named and passed over: the pass then begins anew.
        """
        if not self.path.is_file():
            return 0, 0
        try:
            tensors, metadata = read_tensors(self.path)
            numbers = int(metadata["batches"]), int(metadata["count"])
            parts = [tensors[str(number)] for number in range(len(totals))]
            if [part.shape for part in parts] != [total.shape for total in totals]:
                raise ValueError("its sums are of other layers")
        except (KeyError, ValueError) as error:
            logger.warning("%s cannot be gone on from, done again: %s", self.path, error)
            return 0, 0
        for total, part in zip(totals, parts, strict=True):
            total.copy_(part)
        return numbers

    def remove(self) -> None:
        """Once the second moments are written."""
        self.path.unlink(missing_ok=True)
