"""Settings: checks with clear errors, and the values that tell one editor from another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any


def named(layers: Sequence[str]) -> list[str]:
    """The layers that a user names.

    Raises:
        ValueError: there are none, one occurs twice, or a text stands where a list should.
    """
    if not layers or isinstance(layers, str):
        raise ValueError(f"layers: expected a list of names, got {layers!r}")
    for name in layers:
        if list(layers).count(name) > 1:
            raise ValueError(f"layers: {name!r} is named twice")
    return list(layers)


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Refuse a setting that is none of ``known``.

    Raises:
        ValueError: it is none of them.
    """
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")


def at_least(least: float, **settings: float | None) -> None:
    """Refuse settings below ``least`` or without end; None is no number and passes.

    Raises:
        ValueError: one is below, infinite or NaN.
    """
    for name, value in settings.items():
        if value is not None and not least <= _number(name, value) < inf:
            raise ValueError(f"{name} must be at least {least:g}, got {value}")


def positive(**settings: float | None) -> None:
    """Refuse settings that are not above 0, or without end; None passes.

    Raises:
        ValueError: one is not, or is infinite or NaN.
    """
    for name, value in settings.items():
        if value is not None and not 0 < _number(name, value) < inf:
            raise ValueError(f"{name} must be more than 0, got {value}")


def shares(**settings: float) -> None:
    """Refuse settings that are not from 0 to 1.

    Raises:
        ValueError: one is not.
    """
    for name, value in settings.items():
        if not 0 <= _number(name, value) <= 1:
            raise ValueError(f"{name} must be a share from 0 to 1, got {value}")


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return value


def plain(value: Any) -> Any:
    """A setting as a JSON value; of an object with a ``fingerprint`` it is the fingerprint.

    Fields that a dataclass leaves out of comparisons are left out here, too.

    Raises:
        TypeError: the value has neither a JSON form nor a fingerprint.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if fingerprint := getattr(value, "fingerprint", None):
        return fingerprint
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        compared = [field.name for field in dataclasses.fields(value) if field.compare]
        return {name: plain(getattr(value, name)) for name in compared}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    raise TypeError(f"no setting of an editor: {value!r}")
