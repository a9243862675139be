"""The order of training records, in which a run can go on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from torch.utils.data import DataLoader, DistributedSampler

from datamodules.records import Record


class Order(DistributedSampler):
    """An order drawn from seed and epoch alone; its next pass leaves out the first ``start``."""

    start: int = 0

    def __iter__(self) -> Iterator[int]:
        """Indices of this process's records."""
        start, self.start = self.start, 0
        return islice(super().__iter__(), start, None)


class ResumableLoader(DataLoader):
    """Batches of records as lists; its state is how many of the epoch have been trained on.

    Args:
        records: of the split.
        batch_size: records a batch.
        sampler: their order.
        trained: batches of the running epoch, or of the one that ended, that were trained on.
    """

    def __init__(
        self,
        records: Sequence[Record],
        batch_size: int,
        sampler: Order,
        trained: Callable[[], int],
    ):
        super().__init__(records, batch_size, sampler=sampler, collate_fn=list)
        self._trained = trained

    def state_dict(self) -> dict[str, int]:
        """For the checkpoint."""
        return {"batches": self._trained()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave out what was trained on in the epoch that goes on."""
        self.sampler.start = state["batches"] * self.batch_size
