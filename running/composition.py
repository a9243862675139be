"""What Hydra says of a command line that it cannot compose, in one line."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra._internal.hydra as hydra_itself
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf

from running.errors import MENDABLE, text
from running.targets import check_hydra

FULL = "HYDRA_FULL_ERROR"
UNKNOWN = re.compile(r"Could not override '([^']+)'")
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class Loader(ConfigLoaderImpl):
    """Hydra's, which is asked before Hydra builds callbacks, launchers and handlers of logging."""

    def load_configuration(self, *args: Any, **keywords: Any) -> DictConfig:
        """As Hydra's; what Hydra is not to build is refused."""
        cfg = super().load_configuration(*args, **keywords)
        check_hydra(cfg)
        return cfg


def one_line(composed: Callable[..., None]) -> Callable[[], None]:
    """A script that ends with one line where Hydra cannot compose what the command line says.

    It goes above ``hydra.main``. Where ``HYDRA_FULL_ERROR`` is set, Hydra's trace stands instead.
    """

    @functools.wraps(composed)
    def script() -> None:
        hydra_itself.ConfigLoaderImpl = Loader  # pyright: ignore[reportPrivateImportUsage]
        if FULL in os.environ:
            composed()
            return
        if any(argument.startswith("--experimental-rerun") for argument in sys.argv):
            sys.exit("error: --experimental-rerun reads a pickle, which may run code: rerun=FOLDER")
        os.environ[FULL] = "1"  # Hydra raises what it would print
        try:
            composed()
        except InstantiationException:
            raise  # a bug: what can be mended has been said
        except (HydraException, *MENDABLE) as error:
            sys.exit(f"error: {_meant(error)}")
        finally:
            del os.environ[FULL]

    return script


def _meant(error: Exception) -> str:
    """What Hydra says; of an unknown key which one is near, of an unknown file which there are."""
    if isinstance(error, MissingConfigException) and error.options:
        return f"{text(error)}; there are {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {text(error)}"
    unknown = UNKNOWN.match(str(error))
    if not unknown:
        return text(error)
    key = unknown[1]
    near = get_close_matches(key, _keys(key), 1, 0.7)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{key}: there is no such setting as the run is composed; {meant}+{key}=... adds one"


def _keys(unknown: str) -> list[str]:
    """Every key of what is composed without the one that is unknown."""
    given = [
        a for a in sys.argv[1:] if not a.startswith("-") and a.lstrip("+~").split("=")[0] != unknown
    ]
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = compose(Path(sys.argv[0]).stem, overrides=given)
    except (HydraException, *MENDABLE):  # something else is wrong, too
        return []
    return list(_below(OmegaConf.to_container(cfg, resolve=False)))


def _below(node: object, at: str = ""):
    for name, value in node.items() if isinstance(node, dict) else ():
        key = f"{at}.{name}" if at else str(name)
        yield key
        yield from _below(value, key)
