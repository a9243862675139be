"""Whether values from outside, of a file or a configuration, are what annotations say.

One place says what a value may be: the annotation of the argument, attribute or key that takes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from difflib import get_close_matches
from math import inf
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

PATH: Any = PathLike
"""A class, whatever a type checker thinks of protocols."""

PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
MISSING, NOTHING = "what is missing", "nothing of this name"
"""What stands for annotations where a key is missing or left over."""
LARGEST = {int: 2**63 - 1, float: 1e18}
"""Whole numbers are counted in 64 bits, and products of two others are not to leave float32."""
MOST = 60
"""Characters of a wrong value that a message shows."""


def check(value: object, kind: Any, name: str) -> None:
    """Refuse a value that is not what the annotation ``kind`` says; NaN and inf are no numbers.

    A dataclass or a ``TypedDict`` stands for a mapping with its names: all that have no default,
    and no others. Of other classes `isinstance` decides; protocols are not checked.

    Raises:
        ValueError: names what is wrong, by its place below ``name``.
    """
    for place, part, expected in _wrong(value, kind, name):
        if expected is MISSING:
            raise ValueError(f"{place} is missing")
        raise ValueError(f"{place}={_shown(part)}: expected {described(expected)}{_range(part)}")


def check_keys(given: Collection[str], known: Collection[str], what: str, name: str = "") -> None:
    """Refuse a key that ``what`` does not have.

    Raises:
        ValueError: names it, and the key that may be meant.
    """
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, 1, 0.5)
            meant = f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'none'}"
            raise ValueError(f"{name}{key}: {what} has no such setting; {meant}")


def described(kind: Any) -> str:
    """An annotation in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind == NOTHING:
        return NOTHING
    if kind in PLAIN:
        return PLAIN[kind]
    if kind in (None, NoneType):
        return "null"
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(described, parts)))
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if _is_list(kind):
        inside = [part for part in parts if part is not Ellipsis]
        return f"a list of {', '.join(map(described, inside))}" if inside else "a list"
    if _is_mapping(kind):
        return "a mapping"
    if isinstance(kind, type) and issubclass(kind, PATH):
        return "a path"
    return getattr(kind, "__name__", str(kind))


def _wrong(value: Any, kind: Any, at: str) -> Iterator[tuple[str, object, Any]]:
    """Place, value and annotation of each part that does not fit; of a list the first parts."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        misfits = [list(_wrong(value, part, at)) for part in parts]
        if all(misfits):
            deeper = [wrong for wrong in misfits if wrong[0][0] != at]
            yield deeper[0][0] if deeper else (at, value, kind)
    elif isinstance(value, Mapping) and (names := _names(kind)) is not None:
        yield from _wrong_names(value, kind, names, at)
    elif _is_list(kind):
        yield from _wrong_items(value, kind, at)
    elif _is_mapping(kind):
        if not isinstance(value, Mapping):
            yield at, value, kind
        elif len(parts) == 2:
            for key, item in value.items():
                yield from _wrong(item, parts[1], f"{at}.{key}")
    elif not _is_one(value, kind, origin, parts):
        yield at, value, kind


def _wrong_names(
    value: Mapping, kind: Any, names: Mapping[str, bool], at: str
) -> Iterator[tuple[str, object, Any]]:
    hints = get_type_hints(kind)
    for name, needed in names.items():
        if needed and name not in value:
            yield f"{at}.{name}", None, MISSING
    for name, item in value.items():
        yield from _wrong(item, hints[name] if name in names else NOTHING, f"{at}.{name}")


def _wrong_items(value: Any, kind: Any, at: str) -> Iterator[tuple[str, object, Any]]:
    parts = get_args(kind)
    fixed = get_origin(kind) is tuple and Ellipsis not in parts
    plain = isinstance(value, list | tuple)
    whole = isinstance(value, get_origin(kind) or kind) and not isinstance(value, str | Mapping)
    if not (plain or whole) or (fixed and len(value) != len(parts)):
        yield at, value, kind
        return
    for number, item in enumerate(value if plain and parts else ()):
        yield from _wrong(item, parts[number] if fixed else parts[0], f"{at}[{number}]")


def _is_one(value: Any, kind: Any, origin: Any, parts: tuple) -> bool:
    """Whether a value without parts is of the kind."""
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if kind in (None, NoneType):
        return value is None
    if kind == NOTHING:
        return False
    if kind is bool:
        return isinstance(value, bool)
    if kind in (int, float):
        number = isinstance(value, int if kind is int else int | float)
        return number and not isinstance(value, bool) and abs(value) <= LARGEST[kind]
    if kind is Callable or origin is Callable:
        return callable(value)
    kind = origin or kind
    if kind is Any or not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True
    return isinstance(value, (str, kind) if issubclass(kind, PATH) else kind)


def _is_list(kind: Any) -> bool:
    kind = get_origin(kind) or kind
    if kind in (Collection, Iterable):
        return True
    return isinstance(kind, type) and issubclass(kind, Sequence | Set) and kind not in (str, bytes)


def _is_mapping(kind: Any) -> bool:
    kind = get_origin(kind) or kind
    return isinstance(kind, type) and issubclass(kind, Mapping)


def _names(kind: Any) -> dict[str, bool] | None:
    """The names of a dataclass or TypedDict, and whether each has to be there; None: it is none."""
    if is_typeddict(kind):
        return {name: name in kind.__required_keys__ for name in kind.__annotations__}
    if not dataclasses.is_dataclass(kind):
        return None
    missing = dataclasses.MISSING
    return {
        field.name: field.default is missing and field.default_factory is missing
        for field in dataclasses.fields(kind)
    }


def _range(value: object) -> str:
    """What is wrong with a number that is too large."""
    if isinstance(value, int | float) and LARGEST[float] < abs(value) < inf:
        return f" from {-LARGEST[float]:g} to {LARGEST[float]:g}"
    return ""


def _shown(value: object) -> str:
    """As a user would write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if not isinstance(value, str | int | float | list | tuple | Mapping):
        return type(value).__name__
    text = str(value)
    return text if len(text) <= MOST else f"{text[:MOST]}..."
