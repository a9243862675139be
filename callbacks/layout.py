"""Groups the curves of a training in TensorBoard."""

from __future__ import annotations

import lightning as L

from evaluation.report import layout


class Layout(L.Callback):
    """Writes the layout of custom scalars once, when training begins."""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """By one process, for each TensorBoard logger."""
        for logger in trainer.loggers if trainer.is_global_zero else ():
            layout.write(logger, layout.TRAINING)
