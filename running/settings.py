"""Settings that cannot be are refused before anything is built."""

from __future__ import annotations

from typing import Any, cast

import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from running.targets import check_targets


def check(cfg: DictConfig) -> None:
    """Refuse settings of a wrong type, without a reader, or for a device that is not here.

    And what would be built of something else than this project's classes; see `check_targets`.

    Raises:
        ValueError: names the setting.
    """
    check_targets(cfg)
    usual = shipped()
    check_types(cfg, usual)
    for key in cfg.keys() - usual.keys():
        raise ValueError(f"{key}: nothing reads this setting as the run is composed")
    if torch.device(cfg.device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={cfg.device}: PyTorch finds no such device here")


def shipped() -> DictConfig:
    """The configuration as it is without a user's settings, given the user's choice of files."""
    hydra = HydraConfig.get()
    groups = [o for o in hydra.overrides.task if _key(o) in hydra.runtime.choices]
    return compose(hydra.job.config_name, overrides=groups)


def check_types(cfg: DictConfig, default: DictConfig, at: str = "") -> None:
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


def contents(cfg: DictConfig, resolve: bool = False) -> dict[str, Any]:
    """The settings as dicts, lists and plain values; references stay unless they are resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=resolve))


def given() -> list[tuple[str, str]]:
    """What the command line says: the key and the text of each override."""
    return [(_key(override), override) for override in HydraConfig.get().overrides.task]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
