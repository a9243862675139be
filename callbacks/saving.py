"""Checkpoints from which a run goes on as if it had never stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from datamodules.loops import batch_not_begun, in_the_middle_of_a_step, validates_before_batch
from editors.settings import at_least


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
        # not a folder of its own for each draft: a kill leaves one at most, which ends in no .ckpt
        draft = path.with_name(f".{path.name}.draft")
        try:
            with draft.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # what the disk refused, torch's way
                raise error.__context__ from error
            raise
        finally:
            draft.unlink(missing_ok=True)


class Best(ModelCheckpoint):
    """Lightning's, for a single best file; it finds that again in a folder that was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what the checkpoint says, with the paths of this folder if the file is in it."""
        here = Path(self.dirpath or "") / Path(state_dict["best_model_path"]).name
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
        at_least(1, every_n_steps=every_n_steps)
        self.path, self.every_n_steps = Path(folder) / "last.ckpt", every_n_steps
        self._saved = 0  # optimiser steps in the file

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Count from here."""
        self._saved = trainer.global_step

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Keep what validation changed, if the step before it is finished."""
        if trainer.state.fn is not TrainerFn.FITTING or trainer.sanity_checking:
            return
        if not in_the_middle_of_a_step(trainer):
            self._save(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int
    ) -> None:
        """Keep the state before this batch, the step before which is logged by now."""
        steps = trainer.global_step - self._saved
        if steps < self.every_n_steps or index % trainer.accumulate_grad_batches:
            return
        with batch_not_begun(trainer):
            # where it validates, Lightning takes the counters for those after a validation
            if not validates_before_batch(trainer):
                self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = trainer.global_step
