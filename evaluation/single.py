"""The protocol ``single``: each request is edited into the clean model, alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.records import Record
from editors.editor import Editor
from evaluation.independent import Chunk, Independent


class Single(Independent):
    """N records at a time: N independent edits, each seen by its own record's probes only.

    Args:
        editors: As ``Protocol`` takes them.
        records: The same.
        folder: The same.
        records_per_chunk: N.
        **options: What else ``Protocol`` takes.

    Raises:
        ValueError: a chunk of no record.
    """

    name = "single"

    def __init__(
        self,
        editors: Mapping[str, Editor],
        records: Sequence[Record],
        folder: str | Path,
        *,
        records_per_chunk: int = 16,
        **options,
    ):
        super().__init__(editors, records, folder, **options)
        self.records_per_chunk = checked_chunk(records_per_chunk)

    def settings(self) -> dict[str, object]:
        """How many records are edited and asked at a time."""
        return {"records_per_chunk": self.records_per_chunk}

    def chunks(self) -> list[Chunk]:
        """The records, so many at a time."""
        return singles(self.records, self.records_per_chunk)


def singles(records: Sequence[Record], records_per_chunk: int) -> list[Chunk]:
    """Chunks of records each of which gets an edit of its own."""
    starts = range(0, len(records), records_per_chunk)
    return [Chunk(records[start : start + records_per_chunk], 1) for start in starts]


def checked_chunk(records_per_chunk: int) -> int:
    """The number of records in a chunk.

    Raises:
        ValueError: there is none.
    """
    if records_per_chunk < 1:
        raise ValueError(f"records_per_chunk must be at least 1, got {records_per_chunk}")
    return records_per_chunk
