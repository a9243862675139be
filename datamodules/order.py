"""The order of training records, in which a run can go on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler

from datamodules.batches import as_dataset
from datamodules.records import Record


class Order(DistributedSampler):
    """A new order each epoch, drawn from seed and epoch alone.

    Args:
        records: what is to be put in order.
        trained: how many indices of the epoch have been used already; asked when a pass begins.
        **options: as `DistributedSampler` takes them.
    """

    def __init__(self, records: Sequence[Record], trained: Callable[[], int], **options: Any):
        super().__init__(as_dataset(records), **options)
        self.trained = trained

    def __iter__(self) -> Iterator[int]:
        """The rest of this process's indices in the epoch."""
        yield from islice(super().__iter__(), self.trained(), None)


class ResumableLoader(DataLoader):
    """Tells Lightning that a pass can begin inside an epoch; the trainer's counters say where."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see `Order`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""
