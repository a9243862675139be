"""True facts as prompts and answers, for models that answer a prompt instead of continuing it."""

from __future__ import annotations

import random

import lightning as L
from torch.utils.data import DataLoader

from datamodules.batches import as_dataset
from datamodules.documents import FactText
from datamodules.loops import learner_of, trainer_of
from datamodules.text import TextCorpus


class AnswerData(L.LightningDataModule):
    """Batches of facts as the language model in training encodes prompts and targets.

    Every epoch has each fact once, in another order: the trainer needs
    ``reload_dataloaders_every_n_epochs=1``.

    Args:
        text: what to learn.
        batch_size: facts a batch.
        seed: of the order.

    Raises:
        ValueError: a batch is to have no fact.
    """

    def __init__(self, text: FactText, *, batch_size: int = 64, seed: int = 0):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        self.text = text
        self.batch_size = batch_size
        self.seed = seed

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the facts."""
        return TextCorpus([text for fact in self.text.facts for text in fact]).fingerprint

    def train_dataloader(self) -> DataLoader:
        """All facts once, in the order of the epoch's number."""
        facts, size = list(self.text.facts), self.batch_size
        random.Random(f"{self.seed}-{trainer_of(self).current_epoch}").shuffle(facts)
        encode = learner_of(self).encode
        groups = (facts[start : start + size] for start in range(0, len(facts), size))
        batches = [encode(*map(list, zip(*group, strict=True))) for group in groups]
        return DataLoader(as_dataset(batches), batch_size=None)

    def val_dataloader(self) -> list:
        """None: every fact is learned."""
        return []
