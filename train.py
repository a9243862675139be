"""Trains an editor, or whatever else has a training step: ``python train.py editor=mend``."""

from __future__ import annotations

import functools
import json
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import hydra
import lightning as L
import pandas as pd
import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from editors.checkpoints import saved
from evaluation.folder import differences, write_whole

log = logging.getLogger(__name__)


def told(main: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Tells a user what is wrong in one line where the user can mend it; a bug keeps its trace."""

    @functools.wraps(main)
    def wrapped(cfg: DictConfig) -> None:
        warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's, against newer torch
        for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).handlers.clear()  # into the run's log, as all else
            logging.getLogger(name).propagate = True
        advice = logging.getLogger("lightning.pytorch.utilities.rank_zero")
        advice.addFilter(lambda record: "Tip: " not in record.getMessage())
        try:
            check_types(cfg, shipped(HydraConfig.get().job.config_name))
            if torch.device(cfg.device).type == "cuda" and not torch.cuda.is_available():
                raise ValueError(f"device={cfg.device}: PyTorch finds no such device here")
            main(cfg)
        except InstantiationException as error:
            cause = error.__cause__
            if not isinstance(cause, ValueError | FileNotFoundError | TypeError):
                raise
            key = str(error).rpartition("full_key: ")[2]
            sys.exit(f"error: {key}: {first_line(cause)}{given(key, cause)}")
        except (ValueError, FileNotFoundError, OmegaConfBaseException) as error:
            sys.exit(f"error: {first_line(error)}")

    return wrapped


def first_line(error: BaseException) -> str:
    """What the error says, without the lines that OmegaConf and others put below it."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def given(key: str, cause: BaseException) -> str:
    """What the command line says of a part of the configuration, if a wrong type is the cause."""
    said = [o for o in HydraConfig.get().overrides.task if o.lstrip("+~").startswith(f"{key}.")]
    return f" ({' '.join(said)})" if said and isinstance(cause, TypeError) else ""


def shipped(name: str) -> DictConfig:
    """The configuration as it is without a user's settings, given the user's choice of files."""
    chosen, said = HydraConfig.get().runtime.choices, HydraConfig.get().overrides.task
    groups = [o for o in said if o.lstrip("+~").partition("=")[0] in chosen]
    return compose(name, overrides=groups)


def check_types(cfg: Mapping, default: Mapping, at: str = "") -> None:
    """Refuse a text where there is a number or a switch by default.

    Raises:
        ValueError: names the setting.
    """
    for key, usual in default.items_ex(resolve=False):
        value = None if OmegaConf.is_missing(cfg, key) else cfg.get(key)
        if isinstance(usual, DictConfig) and isinstance(value, DictConfig):
            check_types(value, usual, f"{at}{key}.")
        elif isinstance(usual, bool | int | float) and isinstance(value, str):
            kind = "true or false" if isinstance(usual, bool) else f"a number, as in {usual}"
            raise ValueError(f"{at}{key}={value}: expected {kind}")


def run_folder(cfg: DictConfig) -> Path:
    """The run's own folder, with the resolved configuration in it."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if rank_zero_only.rank == 0:
        write_whole(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    return folder


def checkpoint(path: str | None) -> str | None:
    """The checkpoint to resume from; checked here, since Lightning would start afresh instead."""
    if path is not None and not Path(path).is_file():
        raise FileNotFoundError(f"resume={path}: there is no such checkpoint")
    if path is not None and saved(Path(path)) is None:
        raise ValueError(f"resume={path}: this is no checkpoint")
    return path


def of_run(folder: Path, part: str) -> DictConfig:
    """The configuration of a run that is to go on.

    Raises:
        FileNotFoundError: there is no run in the folder.
        ValueError: it is of another script, whose configuration lacks ``part``.
    """
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"resume={folder}: there is no config.yaml of a run in it")
    cfg = OmegaConf.load(folder / "config.yaml")
    if part not in cfg:
        script = HydraConfig.get().job.config_name
        raise ValueError(f"resume={folder}: this is no run of {script}.py")
    return cfg


def going_on(cfg: DictConfig) -> tuple[DictConfig, Path, str]:
    """Configuration, folder and checkpoint of the run in the folder ``cfg.resume``.

    What the command line sets besides must be as it was; but for ``trainer``, which says how long
    and where a run trains.

    Raises:
        FileNotFoundError: there is no run in the folder, or it has no checkpoint.
        ValueError: it was set otherwise, or was not made by this script.
    """
    folder = Path(cfg.resume).resolve()
    run = of_run(folder, "callbacks")
    path = checkpoint(str(folder / "checkpoints" / "last.ckpt"))
    run = moved(run, run.trainer.default_root_dir, folder)
    now = moved(cfg, HydraConfig.get().runtime.output_dir, folder)
    for said in HydraConfig.get().overrides.task:
        key = said.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] == "trainer":
            OmegaConf.update(run, key, OmegaConf.select(now, key), merge=False, force_add=True)
        elif key != "resume" and not key.startswith("hydra."):
            agreed(run, now, [key] if key in now or "." in key else ["model", "data", "editor"])
    write_whole(folder / "config.yaml", OmegaConf.to_yaml(run))
    if "TensorBoard" in OmegaConf.select(run, "trainer.logger._target_", default=""):
        step = saved(Path(path))["global_step"]  # what is behind it is made again
        OmegaConf.update(run, "trainer.logger.purge_step", step, force_add=True)
    return run, folder, path


def moved(cfg: DictConfig, old: str, new: Path) -> DictConfig:
    """The configuration, resolved, with the run's folder in another place."""
    text = OmegaConf.to_yaml(cfg, resolve=True)
    return OmegaConf.create(text.replace(str(old), str(new)))


def agreed(run: DictConfig, now: DictConfig, keys: Sequence[str]) -> None:
    """Refuse to go on with a run that is set otherwise.

    Raises:
        ValueError: names the setting.
    """
    for key in keys:
        parts = (OmegaConf.create({key: OmegaConf.select(cfg, key)}) for cfg in (run, now))
        for name, values in differences(*map(OmegaConf.to_container, parts)):
            raise ValueError(f"{name}: {values}; a run goes on as it was set, but for trainer")


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
@told
def main(cfg: DictConfig) -> None:
    """Builds everything from the configuration, trains, and writes what was reached on val."""
    if cfg.resume and Path(cfg.resume).is_dir():
        cfg, folder, resume = going_on(cfg)
    else:
        resume = checkpoint(cfg.resume)
        folder = run_folder(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    language_model = instantiate(cfg.model)
    data = instantiate(cfg.data)
    module = instantiate(cfg.editor, language_model=language_model, _convert_="object")
    callbacks = list(instantiate(cfg.callbacks).values())
    trainer = instantiate(cfg.trainer, callbacks=callbacks)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    if trainer.state.finished and trainer.checkpoint_callback:
        reached(trainer, module, data, folder)
    log.info("everything this run wrote: %s", folder)


def reached(
    trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule, folder: Path
) -> None:
    """Keeps the end of the run as ``last``, and measures the best checkpoint on val.

    ``results.json`` and the table ``results.md`` have the numbers, TensorBoard's hparams too.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if (saved(last) or {}).get("global_step") != trainer.global_step:
        trainer.save_checkpoint(last, weights_only=False)  # training ended between two validations
    best = trainer.checkpoint_callback.best_model_path or last
    logger, trainer.logger = trainer.logger, None  # its curves end where training did
    [metrics] = trainer.validate(module, datamodule=data, ckpt_path=best, weights_only=True) or [{}]
    if not trainer.is_global_zero:
        return
    write_whole(folder / "results.json", json.dumps([metrics], indent=1))
    table = pd.Series(metrics, dtype=float).rename_axis("metric").to_frame("best checkpoint")
    write_whole(folder / "results.md", table.to_markdown(floatfmt=".4f") + "\n")
    if logger and metrics:
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        config = {name: config[name] for name in ("seed", "model", "data", "editor", "trainer")}
        found = {name.replace("val/", "best/"): value for name, value in metrics.items()}
        logger.log_hyperparams(pd.json_normalize(config).iloc[0].to_dict(), found)
        logger.save()
    log.info("best checkpoint: %s", best)


if __name__ == "__main__":
    main()
