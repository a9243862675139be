"""Trains an editor, or whatever else has a training step: ``python train.py editor=mend``."""

from __future__ import annotations

import functools
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import hydra
import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

log = logging.getLogger(__name__)


def told(main: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Tells a user what is wrong in one line where the user can mend it; a bug keeps its trace."""

    @functools.wraps(main)
    def wrapped(cfg: DictConfig) -> None:
        warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's, against newer torch
        advice = logging.getLogger("lightning.pytorch.utilities.rank_zero")
        advice.addFilter(lambda record: "Tip: " not in record.getMessage())
        try:
            main(cfg)
        except InstantiationException as error:
            cause = error.__cause__
            if not isinstance(cause, ValueError | FileNotFoundError | TypeError):
                raise
            key = str(error).rpartition("full_key: ")[2]
            sys.exit(f"error: {key}: {first_line(cause)}")
        except (ValueError, FileNotFoundError, OmegaConfBaseException) as error:
            sys.exit(f"error: {first_line(error)}")

    return wrapped


def first_line(error: BaseException) -> str:
    """What the error says, without the lines that OmegaConf and others put below it."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def run_folder(cfg: DictConfig) -> Path:
    """The run's own folder, with the resolved configuration in it."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    return folder


def checkpoint(path: str | None) -> str | None:
    """The checkpoint to resume from; checked here, since Lightning would start afresh instead."""
    if path is not None and not Path(path).exists():
        raise FileNotFoundError(f"resume={path}: there is no such checkpoint")
    return path


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
@told
def main(cfg: DictConfig) -> None:
    """Builds everything from the configuration, trains, and writes what was reached on val."""
    folder = run_folder(cfg)
    resume = checkpoint(cfg.resume)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    language_model = instantiate(cfg.model)
    data = instantiate(cfg.data)
    module = instantiate(cfg.editor, language_model=language_model, _convert_="object")
    callbacks = list(instantiate(cfg.callbacks).values())
    trainer = instantiate(cfg.trainer, callbacks=callbacks)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    best = trainer.checkpoint_callback.best_model_path if trainer.checkpoint_callback else ""
    if best and trainer.state.finished:
        metrics = trainer.validate(module, datamodule=data, ckpt_path=best, weights_only=True)
        (folder / "results.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
        log.info("best checkpoint: %s", best)
    log.info("everything this run wrote: %s", folder)


if __name__ == "__main__":
    main()
