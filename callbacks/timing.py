"""How fast an editor trains, and what that cost so far."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch

from datamodules.records import Record
from evaluation.costs import GIB

KIB = 2**10


class Timing(L.Callback):
    """Logs ``train/edits_per_second``: this epoch's mean so far, over all devices.

    One record is one edit. Only training steps count, not validation nor waiting for data. What all
    steps cost, of runs that went on too, stands in each checkpoint as ``training_cost``.
    """

    def __init__(self):
        self.edits, self.seconds, self.start = 0, 0.0, 0.0
        self.cost = {"seconds": 0.0, "records": 0, "peak_gib": 0.0}

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
        seconds, edits = time.perf_counter() - self.start, len(batch) * trainer.world_size
        self.seconds += seconds
        self.edits += edits
        self.cost["seconds"] += seconds
        self.cost["records"] += edits
        editor.log("train/edits_per_second", self.edits / self.seconds, batch_size=len(batch))

    def on_save_checkpoint(
        self, trainer: L.Trainer, editor: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep with what was learned what learning it cost."""
        self.cost["peak_gib"] = max(self.cost["peak_gib"], peak_gib(editor.device))
        checkpoint["training_cost"] = dict(self.cost)

    def on_load_checkpoint(
        self, trainer: L.Trainer, editor: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on counting where the run that is gone on with was."""
        self.cost |= checkpoint.get("training_cost", {})


def peak_gib(device: torch.device) -> float:
    """The most memory so far: of tensors on a GPU; on a CPU all of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / GIB
