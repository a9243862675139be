"""A run has a folder of its own, with its configuration in it, from which it can go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from editors.checkpoint_file import changed, saved
from evaluation.folder import differences
from files import write_whole
from running.folders import CONFIG
from running.settings import check_values, contents, given
from running.targets import check_targets

OF_LIGHTNING = ("epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")
"""What a checkpoint holds that training can go on from."""


def new_run(cfg: DictConfig) -> DictConfig:
    """The configuration of a run that begins; of the one of an earlier run, without its folder."""
    here, there = Path(HydraConfig.get().runtime.output_dir), cfg.trainer.default_root_dir
    if there is None or not (Path(there) / CONFIG).is_file():
        return cfg
    return moved(cfg, there, here)


def keep(cfg: DictConfig, folder: Path) -> None:
    """Write the configuration into the folder of its run: from now on it is one."""
    if rank_zero_only.rank == 0:
        write_whole(folder / CONFIG, as_text(cfg))


def as_text(cfg: DictConfig) -> str:
    """The resolved configuration; a task's references stay, so that each setting stands once."""
    return OmegaConf.to_yaml(OmegaConf.create(_resolved(cfg)))


# going on


def of_run(folder: Path, part: str, to: Path | None = None) -> DictConfig:
    """The configuration of a run that is to go on, in the folder where it now is.

    Args:
        folder: of the run.
        part: what the configurations of this script's runs have.
        to: the folder of a run that repeats it; None: it goes on.

    Raises:
        FileNotFoundError: there is no run in the folder.
        ValueError: it is of another script, whose configuration lacks ``part``; or it would build
            something that no run does.
    """
    setting = f"{'rerun' if to else 'resume'}={folder}"
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{setting}: there is no config.yaml of a run in it")
    cfg = OmegaConf.load(folder / CONFIG)
    if not isinstance(cfg, DictConfig) or part not in cfg:
        script = HydraConfig.get().job.name
        raise ValueError(f"{setting}: this is no run of {script}.py")
    before = OmegaConf.select(cfg, "trainer.default_root_dir")
    if not isinstance(before, str):
        raise ValueError(f"{folder / CONFIG}: trainer.default_root_dir is no folder: {before}")
    cfg = moved(cfg, before, to or folder.resolve())
    check_targets(cfg, str(folder / CONFIG))
    try:
        check_values(cfg)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    return cfg


def editing_run(folder: Path) -> DictConfig:
    """The configuration of a run of edit.py that is to go on, which nothing can be added to.

    Raises:
        FileNotFoundError: as of `of_run`.
        ValueError: the same; or more than the folder is given.
    """
    refuse_others("resume")
    return of_run(folder, "editors")


def repeated(cfg: DictConfig, part: str) -> DictConfig:
    """The configuration of the run ``cfg.rerun``, for a run that repeats it in its own folder.

    Raises:
        FileNotFoundError: as of `of_run`.
        ValueError: the same; or more than the folder is given.
    """
    refuse_others("rerun")
    return of_run(Path(cfg.rerun), part, to=Path(HydraConfig.get().runtime.output_dir))


def refuse_others(setting: str) -> None:
    """Refuse other settings beside one that says them all.

    Raises:
        ValueError: names them.
    """
    others = [override for key, override in given() if key != setting]
    if others:
        raise ValueError(f"{setting} keeps the run's own settings; leave out {' '.join(others)}")


def training_run(cfg: DictConfig) -> tuple[DictConfig, str]:
    """Configuration and checkpoint of the run of train.py in the folder ``cfg.resume``.

    What the command line sets besides must be as it was; but for ``trainer``, which says how long
    and where a run trains.

    Raises:
        FileNotFoundError: there is no run in the folder, or it has no checkpoint.
        ValueError: it was set otherwise, or was not made by this script.
    """
    folder = Path(cfg.resume).resolve()
    run = of_run(folder, "callbacks")
    path = checkpoint(str(folder / "checkpoints" / "last.ckpt"))
    now = moved(cfg, HydraConfig.get().runtime.output_dir, folder)
    for key, _ in given():
        if key.partition(".")[0] == "trainer":
            OmegaConf.update(run, key, OmegaConf.select(now, key), merge=False, force_add=True)
        elif key != "resume" and not key.startswith("hydra."):
            whole = key in now or "." in key
            check_agreement(run, now, [key] if whole else ["model", "data", "editor", "module"])
    write_whole(folder / CONFIG, OmegaConf.to_yaml(run))
    if "TensorBoard" in OmegaConf.select(run, "trainer.logger._target_", default=""):
        step = (saved(Path(path)) or {})["global_step"]  # what is behind it is made again
        OmegaConf.update(run, "trainer.logger.purge_step", step, force_add=True)
    return run, path


def checkpoint(path: str) -> str:
    """The checkpoint to resume from; checked here, since Lightning would start afresh instead."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"resume={path}: there is no such checkpoint")
    held = saved(Path(path))
    if held is None:
        raise ValueError(f"resume={path}: this is no checkpoint")
    if changed(Path(path)):
        raise ValueError(f"resume={path} is damaged: it is not what was written")
    missing = [name for name in OF_LIGHTNING if name not in held]
    if missing:
        raise ValueError(f"resume={path}: no run goes on from this, it lacks {', '.join(missing)}")
    return path


def moved(cfg: DictConfig, old: str, new: Path) -> DictConfig:
    """The configuration, resolved as in `as_text`, with the run's folder in another place."""

    def place(value: object) -> object:
        if isinstance(value, dict):
            return {key: place(item) for key, item in value.items()}
        if isinstance(value, list):
            return [place(item) for item in value]
        if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
            return f"{new}{value[len(old) :]}"
        return value

    return OmegaConf.create(cast(dict, place(_resolved(cfg))))


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    resolved = contents(cfg, resolve=True)
    if "task" in cfg:
        resolved["task"] = contents(cfg)["task"]
    return resolved


def check_agreement(run: DictConfig, now: DictConfig, keys: Sequence[str]) -> None:
    """Refuse to go on with a run that is set otherwise.

    Raises:
        ValueError: names the setting.
    """
    for key in keys:
        parts = (OmegaConf.create({key: OmegaConf.select(cfg, key)}) for cfg in (run, now))
        there, here = map(contents, parts)
        for name, values in differences(there, here):
            raise ValueError(f"{name}: {values}; a run goes on as it was set, but for trainer")
