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


def _targets(node: DictConfig | ListConfig, at: str = "") -> Iterator[tuple[str, object]]:
    """The key and the value of each target."""
    mapping = isinstance(node, DictConfig)
    keys = cast(Iterable[Any], node.keys() if mapping else range(len(node)))
    for key in keys:
        try:
            value = None if OmegaConf.is_missing(node, key) else node[key]
        except OmegaConfBaseException:
            continue  # nothing can be built of what cannot be resolved
        here = f"{at}.{key}" if at else str(key)
        if key == "_target_":
            yield here, value
        elif isinstance(value, DictConfig | ListConfig):
            yield from _targets(value, here)
