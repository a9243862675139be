"""The settings that a search tries: all combinations of some values, each by a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

Point = dict[str, Any]
"""Dotted names of settings to values."""


def points(grid: Mapping[str, Sequence]) -> list[Point]:
    """All combinations of the values.

    Args:
        grid: the values of each setting, by its name; dotted names reach into bundles.

    Raises:
        ValueError: there is no setting, or no list of values of one.
    """
    if not isinstance(grid, Mapping) or not grid:
        raise ValueError(f"grid={grid}: name settings and values, as in grid='{{layer:[0,1,2]}}'")
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError(f"grid: {name} has {values!r}; expected a list of values")
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def called(point: Point) -> str:
    """The name of a combination."""
    return ", ".join(f"{name}={value}" for name, value in point.items())


def nested(point: Point) -> dict[str, Any]:
    """The settings as a configuration has them, bundle in bundle."""
    tree: dict[str, Any] = {}
    for name, value in point.items():
        *bundles, last = name.split(".")
        place = tree
        for bundle in bundles:
            place = place.setdefault(bundle, {})
        place[last] = value
    return tree
