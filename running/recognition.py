"""Which file of configs/model is about a model: by its name, or by the configuration beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SHAPES = Path(__file__).with_suffix(".yaml")
"""What stands in the ``config.json`` of each model with a file of its own."""
ANY = "pretrained"
"""The file of configs/model for a model that has none of its own."""
TUNED = ("-instruct", "-chat", "-it", "-hf")
"""Endings of names of models that are a known one, trained further."""


def group_of(source: str) -> str:
    """The file of configs/model that is about a model; `ANY` where none is.

    Args:
        source: a name in configs/model; a hub id, or its end; or a folder with a ``config.json``.
    """
    file = Path(source).expanduser() / "config.json"
    if file.is_file():
        return _by_shape(json.loads(file.read_text(encoding="utf-8")))
    return _by_name(source.casefold())


def is_name_of(source: str, group: str) -> bool:
    """Whether this is what the model of a file of configs/model is called, and no folder."""
    return not Path(source).expanduser().is_dir() and source.casefold() in _names(group)


def _names(group: str) -> set[str]:
    """Of the file; of its model on the hub, with and without the owner."""
    file = CONFIGS / "model" / f"{group}.yaml"
    path = str(yaml.safe_load(file.read_text(encoding="utf-8")).get("path", ""))
    return {name.casefold() for name in (group, path, path.rpartition("/")[2]) if name}


def _by_name(name: str) -> str:
    for ending in TUNED:
        name = name.removesuffix(ending)
    groups = sorted(file.stem for file in (CONFIGS / "model").glob("*.yaml"))
    return next((group for group in groups if name in _names(group)), ANY)


def _by_shape(config: Mapping) -> str:
    shapes = yaml.safe_load(SHAPES.read_text(encoding="utf-8"))
    fitting = (name for name, shape in shapes.items() if shape.items() <= config.items())
    return next(fitting, ANY)
