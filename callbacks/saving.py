"""Checkpoints from which a run goes on as if it had never stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn


class WholeFiles(TorchCheckpointIO):
    """Writes each checkpoint beside its place and then puts it there, whole or not at all.

    Lightning's own way starts in the machine's temporary folder; where that is another file
    system, the last part is a copy, which a kill cuts in two.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write ``path``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.draft")  # one a place: a kill leaves one at most
        with draft.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)


class Best(ModelCheckpoint):
    """Lightning's, for a single best file; it finds that again in a folder that was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what the checkpoint says, with the paths of this folder if the file is in it."""
        here = Path(self.dirpath) / Path(state_dict["best_model_path"]).name
        if here.is_file():
            paths = {name: str(here) for name in ("best_model_path", "kth_best_model_path")}
            score = {str(here): state_dict["best_model_score"]}
            paths |= {"dirpath": self.dirpath, "best_k_models": score}
            state_dict = {**state_dict, **paths}
        super().load_state_dict(state_dict)


class Last(Checkpoint):
    """Keeps the newest state of a run as ``last.ckpt``: after validations, and between them.

    It is written between two optimiser steps only, so that no accumulated gradient is lost, and
    after the metrics of what it holds are in the loggers' files.

    Args:
        folder: of the file.
        every_n_steps: optimiser steps after which it is written anew, if no validation did so.

    Raises:
        ValueError: no step is given.
    """

    def __init__(self, folder: str | Path, every_n_steps: int = 50):
        super().__init__()
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.path, self.every_n_steps = Path(folder) / "last.ckpt", every_n_steps
        self._saved = 0  # optimiser steps in the file

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Count from here."""
        self._saved = trainer.global_step

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Keep what validation changed, if the step before it is finished."""
        if trainer.state.fn is not TrainerFn.FITTING or trainer.sanity_checking:
            return
        if not trainer.fit_loop._should_accumulate():
            self._save(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int
    ) -> None:
        """Keep the state before this batch, the step before which is logged by now."""
        steps = trainer.global_step - self._saved
        if steps < self.every_n_steps or index % trainer.accumulate_grad_batches:
            return
        loop = trainer.fit_loop
        with _not_begun(loop.epoch_loop.batch_progress):
            # where it validates, Lightning takes the counters for those after a validation
            if not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
                self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = trainer.global_step


@contextmanager
def _not_begun(progress: Any) -> Iterator[None]:
    """The counters of batches as they were before the running batch was fetched."""
    last, progress.is_last_batch = progress.is_last_batch, False
    for counter in (progress.total, progress.current):
        counter.ready -= 1
    try:
        yield
    finally:
        progress.is_last_batch = last
        for counter in (progress.total, progress.current):
            counter.ready += 1
