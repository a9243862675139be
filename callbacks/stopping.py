"""The end of a run that no longer gets better."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping


class Patience(EarlyStopping):
    """Lightning's early stopping; a run that was stopped stays so when it is resumed."""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop at once what the checkpoint says had been stopped."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True
