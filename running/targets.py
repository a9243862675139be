"""What a configuration may build: classes of this project, and a few others by name.

A configuration may come from a stranger, with the folder of a run that goes on or by
``--config-path``. Whatever it names as a ``_target_`` is called; so each is looked up here first.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

PACKAGES = frozenset(
    ("callbacks", "datamodules", "editors", "edits", "evaluation", "models", "scoring")
)
"""Every class that is defined in them may be built."""
NAMED = frozenset(
    (
        "datamodules.atlas.text.corpus",
        "datamodules.atlas.text.unseen",
        "datamodules.documents.facts_of",
        "models.atlas.language_model",
        "models.language_model.LanguageModel.load",
        "models.pretraining.blank",
        "models.pretraining.lengthened",
        "models.smollm2.language_model",
        "lightning.Trainer",
        "lightning.pytorch.callbacks.LearningRateMonitor",
        "lightning.pytorch.callbacks.ModelCheckpoint",
        "lightning.pytorch.loggers.CSVLogger",
        "lightning.pytorch.loggers.TensorBoardLogger",
        "lightning.pytorch.strategies.DDPStrategy",
        "lightning.pytorch.strategies.ModelParallelStrategy",
    )
)
"""What else may be called: this project's functions that build something, classes of Lightning."""
OF_HYDRA = frozenset(
    (
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        *(f"optuna.samplers.{name}Sampler" for name in ("TPE", "Random", "Grid", "CmaEs")),
        *(f"logging.{name}" for name in ("StreamHandler", "FileHandler", "NullHandler")),
        *(f"ext://sys.{name}" for name in ("stdout", "stderr")),
    )
)
"""What Hydra may build for itself, under ``hydra``, before a script has its say."""
PARTS_OF_HYDRA = ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging")
"""Where it does so; the rest is text, and folders that are made where they are resolved."""
COMMANDS = (
    *("hydra.launcher.setup", "hydra.launcher.python", "hydra.launcher.srun_args"),
    "hydra.sweeper.custom_search_space",
)
"""What launchers of clusters and searches run; a user may, a file may not."""
CALLS = ("_target_", "class", "()")
"""Keys that name what is called: of Hydra, and of the configuration of Python's logging."""


def check_targets(cfg: DictConfig | ListConfig, source: str = "") -> None:
    """Refuse a configuration that would build something else, before anything is built.

    Args:
        cfg: all of it; targets are looked for at any depth, in lists and behind interpolations.
        source: the file it was read from, for the message.

    Raises:
        ValueError: names the key and the target.
    """
    for key, target in _targets(cfg):
        if not allowed(target):
            before = f"{source}: " if source else ""
            raise ValueError(
                f"{before}{key}={target}: a configuration builds classes of this project only, "
                "and what running/targets.py names"
            )


def allowed(target: object) -> bool:
    """Whether a configuration may name it; only modules of this project are imported to see."""
    if not isinstance(target, str):
        return False
    module, _, name = target.rpartition(".")
    if target in NAMED:
        return True
    if module.partition(".")[0] not in PACKAGES:
        return False
    try:
        built = getattr(import_module(module), name, None)
    except ImportError:
        return False
    return inspect.isclass(built) and built.__module__.partition(".")[0] in PACKAGES


def check_hydra(cfg: DictConfig) -> None:
    """Refuse what Hydra itself would call or set as a configuration says, under ``hydra``.

    Raises:
        ValueError: names the key and the value.
    """
    parts = [
        (f"hydra.{name}", cfg.hydra.get(name) or OmegaConf.create()) for name in PARTS_OF_HYDRA
    ]
    for key, value in (leaf for at, part in parts for leaf in _leaves(part, at)):
        name, outside = key.rpartition(".")[2], str(value).startswith("ext://")
        if (name in CALLS or outside) and value not in OF_HYDRA:
            raise ValueError(
                f"{key}={value}: Hydra builds only what running/targets.py names, by its name"
            )
    if cfg.hydra.job.env_set:
        raise ValueError("hydra.job.env_set: set variables of the environment outside of the run")

    words = {override.lstrip("+~").partition("=")[0] for override in cfg.hydra.overrides.hydra}
    for key in COMMANDS:
        if OmegaConf.select(cfg, key) and key not in words:
            raise ValueError(f"{key} is run as it stands: give it on the command line")


def _leaves(node: DictConfig | ListConfig, at: str) -> Iterator[tuple[str, object]]:
    """The key and the value of whatever holds no others."""
    for key, value in _items(node):
        if isinstance(value, DictConfig | ListConfig):
            yield from _leaves(value, f"{at}.{key}")
        else:
            yield f"{at}.{key}", value


def _targets(node: DictConfig | ListConfig, at: str = "") -> Iterator[tuple[str, object]]:
    """The key and the value of each target."""
    for key, value in _items(node):
        here = f"{at}.{key}" if at else str(key)
        if key == "_target_":
            yield here, value
        elif isinstance(value, DictConfig | ListConfig):
            yield from _targets(value, here)


def _items(node: DictConfig | ListConfig) -> Iterator[tuple[Any, object]]:
    """Keys and values, but for what cannot be resolved: nothing can be built of that."""
    mapping = isinstance(node, DictConfig)
    keys = cast(Iterable[Any], node.keys() if mapping else range(len(node)))
    for key in keys:
        try:
            yield key, None if OmegaConf.is_missing(node, key) else node[key]
        except OmegaConfBaseException:
            continue
