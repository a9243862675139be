"""Trains an editor, or whatever else has a training step: ``python train.py editor=mend``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sized
from math import isfinite
from pathlib import Path
from typing import cast

import hydra
import lightning as L
import pandas as pd
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from editors.checkpoint_file import saved
from files import write_whole
from running.composition import one_line
from running.errors import reporting_errors
from running.folders import claimed
from running.notes import note
from running.runs import checkpoint, keep, new_run, repeated, training_run
from running.settings import contents

log = logging.getLogger(__name__)

CONFIGS = str(Path(__file__).with_name("configs"))  # also where it is started as a command


@one_line
@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="train")
@reporting_errors
def main(cfg: DictConfig) -> float | None:
    """Builds everything from the configuration, trains, and writes what was reached on val.

    What it returns is what a sweeper looks at: the score of the best checkpoint.
    """
    with claimed(cfg) as folder:
        score = train(cfg, folder)
        log.info("everything this run wrote: %s", folder)
    return score


def train(cfg: DictConfig, folder: Path) -> float | None:
    """Goes on with the run in the folder, or begins one there; ``val/score``, if there is one."""
    goes_on = cfg.resume and Path(cfg.resume).is_dir()
    if goes_on:
        cfg, resume = training_run(cfg)
    else:
        cfg = repeated(cfg, "callbacks") if cfg.rerun else new_run(cfg)
        resume = None if cfg.resume is None else checkpoint(cfg.resume)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    language_model = instantiate(cfg.model).rendered(instantiate(cfg.rendering.edits))
    data = instantiate(cfg.data)
    module = instantiate(cfg[cfg.trains], language_model=language_model, _convert_="object")
    callbacks = list(instantiate(cfg.callbacks).values())
    trainer = instantiate(cfg.trainer, callbacks=callbacks)
    if not goes_on:
        keep(cfg, folder)
    note(folder, seed=cfg.seed, model=language_model.fingerprint, data=data.fingerprint)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    if trainer.state.finished and trainer.checkpoint_callback:
        return reached(trainer, module, data, folder).get("val/score")
    return None


def reached(
    trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule, folder: Path
) -> Mapping[str, float]:
    """Keeps the end of the run as ``last``, and measures the best checkpoint on val.

    ``results.json`` and the table ``results.md`` have the numbers, TensorBoard's hparams too; what
    was not asked on val has none.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if (saved(last) or {}).get("global_step") != trainer.global_step:
        trainer.save_checkpoint(last, weights_only=False)  # training ended between two validations
    best = cast(ModelCheckpoint, trainer.checkpoint_callback).best_model_path or last
    logger, trainer.logger = trainer.logger, None  # its curves end where training did
    [metrics] = trainer.validate(module, datamodule=data, ckpt_path=best, weights_only=True) or [{}]
    if not trainer.is_global_zero:
        return metrics
    metrics = {**metrics, "val/count": float(judged(trainer))}
    numbers = {name: value if isfinite(value) else None for name, value in metrics.items()}
    write_whole(folder / "results.json", json.dumps([numbers], indent=1))
    table = pd.Series(metrics, dtype=float).rename_axis("metric").to_frame("best checkpoint")
    write_whole(folder / "results.md", table.to_markdown(floatfmt=".4f") + "\n")
    if logger and metrics:
        config = contents(cast(DictConfig, OmegaConf.load(folder / "config.yaml")))
        trains = config["trains"]
        config = {name: config[name] for name in ("seed", "model", "data", trains, "trainer")}
        best_metrics = {name.replace("val/", "best/"): value for name, value in metrics.items()}
        logger.log_hyperparams(pd.json_normalize(config).iloc[0].to_dict(), best_metrics)
        logger.save()
    log.info("best checkpoint: %s", best)
    return metrics


def judged(trainer: L.Trainer) -> int:
    """How many records of val were looked at, of which a run may use only some."""
    if not sum(trainer.num_val_batches):
        return 0
    loader = cast(DataLoader, trainer.val_dataloaders)
    seen = sum(trainer.num_val_batches) * (loader.batch_size or 1) * trainer.world_size
    return int(min(seen, len(cast(Sized, loader.dataset))))


if __name__ == "__main__":
    main()
