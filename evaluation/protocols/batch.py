"""The protocols ``batch`` and ``single``: n requests are edited into the clean model together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datamodules.records import Record
from editors.editor import Editor
from editors.settings import at_least
from evaluation.protocols.conflicts import checked_policy, settle
from evaluation.protocols.independent import Chunk, Independent

SIZES = (1, 10, 100, 1_000)


class Batch(Independent):
    """For each n: groups of n records, one edit for each group, asked about by its own probes.

    The groups are cut from the records in order; what is left over at the end is left out. With
    ``sizes=[1]`` each record is edited alone.

    Args:
        editors: As ``Protocol`` takes them.
        records: The same.
        folder: The same.
        sizes: The values of n; None: 1, 10, 100 and 1,000 as far as there are records.
        groups: Largest number of groups of each size; None: as many as there are.
        conflicts: What is done with requests of one group that contradict each other; see
            ``conflicts.settle``.
        records_per_chunk: How many groups of one record are taken at a time.
        name: The protocol's, for result rows.
        **options: What else ``Protocol`` takes.

    Raises:
        ValueError: sizes that are no list of different numbers from 1 to the number of records, no
            group, no such policy, or a conflict under the policy to refuse it.
    """

    def __init__(
        self,
        editors: Mapping[str, Editor],
        records: Sequence[Record],
        folder: str | Path,
        *,
        sizes: Sequence[int] | None = None,
        groups: int | None = None,
        conflicts: str = "last",
        records_per_chunk: int = 16,
        name: str = "batch",
        **options,
    ):
        super().__init__(editors, records, folder, **options)
        self.name = name
        count = len(self.records)
        self.sizes = _sizes(sizes, count)
        at_least(1, groups=groups, records_per_chunk=records_per_chunk)
        self.groups = groups
        self.conflicts = checked_policy(conflicts)
        self.records_per_chunk = records_per_chunk
        self.chunks()  # refuses what the policy refuses

    def settings(self) -> dict[str, object]:
        """How many requests an edit is made for, and which."""
        return {
            "sizes": self.sizes,
            "groups": self.groups,
            "conflicts": self.conflicts,
            "records_per_chunk": self.records_per_chunk,
        }

    def chunks(self) -> list[Chunk]:
        """The groups of each size in turn."""
        return [chunk for n in self.sizes for chunk in self._of_size(n)]

    def _of_size(self, n: int) -> Iterator[Chunk]:
        whole = len(self.records) // n
        count = whole if self.groups is None else min(whole, self.groups)
        if n == 1:
            for start in range(0, count, self.records_per_chunk):
                end = min(start + self.records_per_chunk, count)
                yield Chunk(self.records[start:end], 1)
            return
        for start in range(0, count * n, n):
            records, overruled = settle(self.records[start : start + n], self.conflicts)
            yield Chunk(records, n, overruled)


def _sizes(sizes: Sequence[int] | None, count: int) -> list[int]:
    if sizes is None:
        return [n for n in SIZES if n <= count]
    whole = not isinstance(sizes, str | int) and all(type(n) is int for n in sizes)
    if not whole or not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise ValueError(f"sizes={sizes}: expected different numbers from 1, as in sizes=[1,100]")
    if max(sizes) > count:
        raise ValueError(
            f"sizes={list(sizes)}: a batch of {max(sizes):,} is larger than the {count:,} records "
            "there are"
        )
    return list(sizes)
