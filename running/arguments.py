"""Settings of a configuration, held against the constructors that take them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast, get_type_hints

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from files.schema import check, check_keys
from files.signatures import signature

REFERENCE = re.compile(r"\$\{([\w.]+)\}")
CHECKPOINT = "checkpoint"
"""The key beside the target of an editor that is set as this file says."""
HYDRA = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


class Unresolved:
    """What stands for a value that the configuration does not say; it is asked for when built."""


def check_arguments(cfg: DictConfig, key: str = "", called: str = "") -> None:
    """Refuse what a constructor does not take, by its annotations, at any depth.

    Whatever the configuration names as a target is looked up: see `check_targets` first.

    Args:
        cfg: all of a configuration, so that references can be followed.
        key: the part of it that is checked.
        called: the key under which a user sets that part, if it is another one.

    Raises:
        ValueError: names the key, the value, and what would be right.
    """
    part = OmegaConf.select(cfg, key) if key else cfg

    def shown(place: str) -> str:
        place = home(cfg, place)
        return called + place.removeprefix(key) if called and place.startswith(key) else place

    for place, node in _targets(part, key):
        _check(node, place, shown)


def _targets(node: Any, at: str) -> Iterator[tuple[str, DictConfig]]:
    """Whatever is to be built, the innermost first, and its key; but for what a checkpoint sets."""
    if not isinstance(node, DictConfig | ListConfig) or {CHECKPOINT, "_target_"} <= {*node}:
        return
    for name, child in _children(node):
        yield from _targets(child, f"{at}.{name}" if at else str(name))
    if isinstance(node, DictConfig) and "_target_" in node:
        yield at, node


def _check(node: DictConfig, at: str, shown: Callable[[str], str]) -> None:
    target = get_object(node._target_)
    hints, more = signature(target)
    given = {str(key): value for key, value in _children(node) if key not in HYDRA}
    if not more:
        check_keys(given, hints, target.__qualname__, shown(at) + "." if at else "")
    for key, value in given.items():
        stand_in = _stand_in(value)
        if stand_in is not Unresolved and key in hints:
            check(stand_in, hints[key], shown(f"{at}.{key}"))


def _stand_in(value: Any) -> Any:
    """A value as the constructor gets it; of an object, one of its class that is not built."""
    if isinstance(value, ListConfig):
        return [_stand_in(item) for _, item in _children(value)]
    if not isinstance(value, DictConfig):
        return value
    if "_target_" not in value:
        return {key: _stand_in(item) for key, item in _children(value)}
    target = get_object(value._target_)
    if value.get("_partial_"):
        return target
    built = target if isinstance(target, type) else get_type_hints(target).get("return")
    if not isinstance(built, type) or inspect.isabstract(built):
        return Unresolved
    return cast(Any, built).__new__(built)


def _children(node: DictConfig | ListConfig) -> Iterator[tuple[str | int, Any]]:
    """Keys and values; what is missing, or refers to what is not there, is `Unresolved`."""
    keys = cast(Iterable[Any], node.keys() if isinstance(node, DictConfig) else range(len(node)))
    for key in keys:
        try:
            yield key, Unresolved if OmegaConf.is_missing(node, key) else node[key]
        except OmegaConfBaseException:
            yield key, Unresolved


def overrides() -> list[str]:
    """What the command line says, as it stands there: references are not followed."""
    task = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return [str(override) for override in cast(list, task)]


def home(cfg: DictConfig, key: str) -> str:
    """The key under which a user sets what another part, such as a task, takes by reference."""
    names: list[str] = []
    for name in key.split("."):
        node = OmegaConf.select(cfg, ".".join(names)) if names else cfg
        if isinstance(node, DictConfig) and OmegaConf.is_interpolation(node, name):
            reference = REFERENCE.fullmatch(str(cast(Any, node._get_node(name))._value()))
            if reference:
                names = reference[1].split(".")
                continue
        names.append(name)
    return ".".join(names)
