"""Records that an editor may look at beside its requests: demonstrations, texts to leave alone."""

from __future__ import annotations

from collections.abc import Iterable

from datamodules.editing import EditingData
from datamodules.records import Record, fingerprint


class Pool:
    """The records of a split that is not tested, in order.

    Args:
        data: where they come from.
        split: which of its splits.
        limit: how many of them, from the first; None: as many as ``data`` gives.
        tested: the split that is tested, where it is known already; see `disjoint_from`.

    Attributes:
        records: what an editor may look at.
        fingerprint: of all their texts, for an editor's identity.

    Raises:
        ValueError: there is no such split or nothing in it, or it is the one that is tested.
    """

    def __init__(
        self,
        data: EditingData,
        split: str = "train",
        limit: int | None = None,
        tested: str | None = None,
    ):
        self.split = split
        self._check_split(tested)
        self.records = tuple(data.records(split, limit))  # which refuses an empty split
        self.fingerprint = fingerprint(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def disjoint_from(self, records: Iterable[Record], split: str) -> None:
        """Checks that an editor does not see in its pool what it is tested on.

        Args:
            records: what is tested; no subject of theirs, in any case, may be one of the pool's.
            split: theirs, which may not be the pool's.

        Raises:
            ValueError: one of the two is not so.
        """
        self._check_split(split)
        shared = sorted(_subjects(records) & _subjects(self.records))
        if shared:
            raise ValueError(
                f"pool: {len(shared):,} of its subjects are tested, such as {shared[0]!r}; "
                "expected none: take another split of the data that is tested"
            )

    def _check_split(self, tested: str | None) -> None:
        if tested == self.split:
            raise ValueError(
                f"pool.split is {self.split!r}, which is tested; expected another split"
            )


def _subjects(records: Iterable[Record]) -> set[str]:
    return {subject for record in records for subject in record.subjects}
