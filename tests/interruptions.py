"""Callbacks that end a run where nobody planned it."""

import lightning as L


class Interruption(L.Callback):
    """Fails before batch ``at`` of the run, counted from 0 in this process."""

    def __init__(self, at):
        self.left = at

    def on_train_batch_start(self, trainer, module, batch, index):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("interrupted")
