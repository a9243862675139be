"""How fast an editor trains."""

from __future__ import annotations

import time
from collections.abc import Sequence

import lightning as L

from datamodules.records import Record


class Timing(L.Callback):
    """Logs ``train/edits_per_second``: this epoch's mean so far, over all devices.

    One record is one edit. Only training steps count, not validation nor waiting for data.
    """

    def __init__(self):
        self.edits, self.seconds, self.start = 0, 0.0, 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, editor: L.LightningModule) -> None:
        """Start counting anew."""
        self.edits, self.seconds = 0, 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, editor: L.LightningModule, batch: Sequence[Record], index: int
    ) -> None:
        """Note the time."""
        self.start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        editor: L.LightningModule,
        outputs: object,
        batch: Sequence[Record],
        index: int,
    ) -> None:
        """Count the step's records and seconds; Lightning decides which steps are written."""
        self.seconds += time.perf_counter() - self.start
        self.edits += len(batch) * trainer.world_size
        editor.log("train/edits_per_second", self.edits / self.seconds, batch_size=len(batch))
