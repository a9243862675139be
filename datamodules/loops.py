"""What Lightning's loops know and say nowhere in public; names as read in Lightning 2.6.6."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning as L

from datamodules.records import Record


def training_records(trainer: L.Trainer) -> Sequence[Record]:
    """What training draws from, also before its first epoch."""
    trainer.fit_loop.setup_data()
    return trainer.train_dataloader.dataset


def in_the_middle_of_a_step(trainer: L.Trainer) -> bool:
    """Whether gradients of the batches so far wait for more of them."""
    return trainer.fit_loop._should_accumulate()


def validates_before_batch(trainer: L.Trainer) -> bool:
    """Whether validation comes right before the running batch; see `batch_not_begun`."""
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


@contextmanager
def batch_not_begun(trainer: L.Trainer) -> Iterator[None]:
    """Inside, the counters of batches are as they were before the running batch was fetched."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    last, progress.is_last_batch = progress.is_last_batch, False
    for counter in (progress.total, progress.current):
        counter.ready -= 1
    try:
        yield
    finally:
        progress.is_last_batch = last
        for counter in (progress.total, progress.current):
            counter.ready += 1
