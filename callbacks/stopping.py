"""The end of a run that no longer gets better."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping

from editors.settings import at_least


class Patience(EarlyStopping):
    """Lightning's early stopping; a run that was stopped stays so when it is resumed.

    Args:
        monitor: name of a metric.
        patience: validations without a better value after which a run ends.
        **options: what else Lightning's takes.

    Raises:
        ValueError: it has none.
    """

    def __init__(self, monitor: str, patience: int = 3, **options: Any):
        at_least(1, patience=patience)
        super().__init__(monitor, patience=patience, **options)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop at once what the checkpoint says had been stopped."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True
