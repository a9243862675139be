"""Settings that cannot be are refused before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import lightning as L
import torch
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from files.bounds import at_least, positive, shares
from files.schema import check as check_value
from files.schema import check_keys
from running.arguments import check_arguments, overrides
from running.targets import check_targets

OWN: Mapping[str, Any] = MappingProxyType(
    {
        "facts_editor": dict[str, str],
        "seed": int,
        "device": str,
        "resume": str | None,
        "rerun": str | None,
        "ckpt": str | None,
        "runs": str | list[str],
        "split": str,
        "known_only": bool,
        "settings": dict,
    }
)
"""Settings that the scripts read themselves."""
TRAINS = ("editor", "module")
"""What train.py can train: the groups of its configuration."""
LIGHTNING: Mapping[str, float] = MappingProxyType(
    {
        "log_every_n_steps": 0,
        "check_val_every_n_epoch": 1,
        "gradient_clip_val": 0,
    }
)
"""The least of each setting of the trainer that Lightning does not check."""
BUILT = MappingProxyType(
    {
        "edit": ("task", "model", "rendering.edits", "rendering.probes"),
        "train": ("model", "rendering.edits", "data", "trainer"),
    }
)
"""What each script builds, whatever else it does."""
SEEDS = 2**32
"""Seeds are below, as numpy's are."""


def check(cfg: DictConfig) -> None:
    """Refuse settings that nothing takes, of a wrong type, or for a device that is not here.

    And what would be built of something else than this project's classes; see `check_targets`.

    Raises:
        ValueError: names the setting.
    """
    check_targets(cfg)
    check_keys(contents(cfg).keys(), contents(shipped()).keys(), "the run as it is composed")
    check_choices()
    check_values(cfg)
    if "trains" in cfg:
        check_trainable(cfg)


def check_values(cfg: DictConfig) -> None:
    """Refuse values that nothing takes, of what a user sets or a run kept; targets are checked.

    Raises:
        ValueError: names the setting.
    """
    for key in OWN.keys() & cfg.keys():
        check_value(contents(cfg)[key], OWN[key], key)
    for key in ("seed", "device"):
        if key not in cfg:
            raise ValueError(f"{key} is missing")
    for key in BUILT["train" if "trains" in cfg else "edit"]:
        part = OmegaConf.select(cfg, key)
        if not isinstance(part, DictConfig) or "_target_" not in part:
            raise ValueError(f"{key}={part}: there is no _target_ to build")
    if not 0 <= cfg.seed < SEEDS:
        raise ValueError(f"seed={cfg.seed}: expected 0 to {SEEDS - 1}")
    for name, weights in (contents(cfg).get("profiles") or {}).items():
        check_value(weights, dict[str, float], f"profiles.{name}")
        shares(**{f"profiles.{name}.{key}": weight for key, weight in weights.items()})
    check_arguments(cfg)
    if isinstance(cfg.get("trainer"), DictConfig):
        positive(**{"trainer.val_check_interval": cfg.trainer.get("val_check_interval")})
        for name, least in LIGHTNING.items():
            at_least(least, **{f"trainer.{name}": cfg.trainer.get(name)})
    check_device(cfg.device)


def check_trainable(cfg: DictConfig) -> None:
    """Refuse to train what has no training step.

    Raises:
        ValueError: names it, and says what it is for, if it is an editor.
    """
    if cfg.trains not in TRAINS or "_target_" not in (cfg.get(cfg.trains) or ()):
        raise ValueError(f"trains={cfg.trains}: expected one of {', '.join(TRAINS)}, which is set")
    if not issubclass(get_class(cfg[cfg.trains]._target_), L.LightningModule):
        name = HydraConfig.get().runtime.choices.get(cfg.trains)
        raise ValueError(
            f"{cfg.trains}={name}: it makes edits without training: python edit.py editors=[{name}]"
        )


def check_choices() -> None:
    """Refuse a choice of a file that is not there, also where a file need not be.

    Raises:
        ValueError: names the group and the files that it has.
    """
    hydra, loader = HydraConfig.get(), GlobalHydra.instance().config_loader()
    for key, override in given():
        choice = override.partition("=")[2]
        if key == "editor" and hydra.job.name == "edit":
            raise ValueError(f"{override}: edit.py takes a list of them: 'editors=[{choice}]'")
        if key not in hydra.runtime.choices or choice in ("null", "") or choice.startswith("["):
            continue
        folder, _, name = f"{key}/{choice}".rpartition("/")
        known = loader.get_group_options(folder, results_filter=None)
        if name not in known:
            raise ValueError(
                f"{override}: configs/{folder} has {', '.join(known) or 'none at all'}"
            )


def check_device(name: str) -> None:
    """Refuse a device that PyTorch does not know, or does not find here.

    Raises:
        ValueError: names it.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name}: expected cpu, cuda or another of PyTorch's") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name}: PyTorch finds no such device here")


def shipped() -> DictConfig:
    """The configuration as it is without a user's settings, given the user's choice of files."""
    hydra = HydraConfig.get()
    groups = [o for o in overrides() if _key(o) in hydra.runtime.choices]
    return compose(hydra.job.config_name, overrides=groups)


def contents(cfg: DictConfig, resolve: bool = False) -> dict[str, Any]:
    """The settings as dicts, lists and plain values; references stay unless they are resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=resolve))


def given() -> list[tuple[str, str]]:
    """What the command line says: the key and the text of each override."""
    return [(_key(override), override) for override in overrides()]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
