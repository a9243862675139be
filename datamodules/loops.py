"""What Lightning's loops know but do not publish; names as read in Lightning 2.6.6."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, cast

import lightning as L
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from datamodules.records import Record


class Learner(Protocol):
    """The language model in training, as far as data have to know it."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def max_length(self) -> int:
        """Tokens that it takes, at most."""
        ...

    def encode(self, prompts: Sequence[str], targets: Sequence[str]) -> object:
        """A batch of prompts and their targets."""
        ...


def trainer_of(data: L.LightningDataModule) -> L.Trainer:
    """The trainer whose epochs the data follow.

    Raises:
        ValueError: there is none yet.
    """
    if data.trainer is None:
        raise ValueError(f"{type(data).__name__} has no trainer: its batches differ by epoch")
    return data.trainer


def learner_of(data: L.LightningDataModule) -> Learner:
    """The language model that the data are for; errors as of `trainer_of`."""
    return cast(Learner, trainer_of(data).lightning_module.language_model)


def training_records(trainer: L.Trainer) -> Sequence[Record]:
    """What training draws from, also before its first epoch."""
    trainer.fit_loop.setup_data()
    return _records(trainer.train_dataloader)


def validation_records(trainer: L.Trainer) -> Sequence[Record]:
    """What validation goes through."""
    return _records(trainer.val_dataloaders)


def _records(loader: object) -> Sequence[Record]:
    return cast(Sequence[Record], cast(DataLoader, loader).dataset)


def in_the_middle_of_a_step(trainer: L.Trainer) -> bool:
    """Whether gradients of the batches so far wait for more of them."""
    return trainer.fit_loop._should_accumulate()


def validates_before_batch(trainer: L.Trainer) -> bool:
    """Whether validation comes right before the running batch; see `batch_not_begun`."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    return fetcher is not None and loop._should_check_val_fx(fetcher)


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
