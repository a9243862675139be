"""Training, as a person watches it."""

from __future__ import annotations

from math import isfinite
from typing import Any

import lightning as L

from watching import Watch


class Watching(L.Callback):
    """Shows steps, loss and the last score of training, and the batches of validation."""

    def __init__(self):
        self.training: Watch | None = None
        self.validation: Watch | None = None

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Begin where the run goes on."""
        steps = trainer.estimated_stepping_batches
        total = int(steps) if isfinite(steps) else None
        self.training = Watch("training", total, "steps", trainer.global_step).__enter__()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """A step more, or none where gradients are accumulated."""
        if self.training is None:
            return
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        values = {} if loss is None else {"loss": loss}
        score = trainer.callback_metrics.get("val/score")
        values |= {} if score is None else {"val/score": score}
        self.training.advance(trainer.global_step - self.training.done, **values)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Count its batches."""
        batches = sum(trainer.num_val_batches)
        total = int(batches) if isfinite(batches) else None
        self.validation = Watch("validation", total, "batches").__enter__()

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, *batch: Any
    ) -> None:
        """One more."""
        if self.validation is not None:
            self.validation.advance()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """It is through."""
        self.validation = _closed(self.validation)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """It is through."""
        self.training = _closed(self.training)

    def on_exception(
        self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException
    ) -> None:
        """Nothing is watched any more."""
        self.validation, self.training = _closed(self.validation), _closed(self.training)


def _closed(watch: Watch | None) -> None:
    if watch is not None:
        watch.__exit__()
