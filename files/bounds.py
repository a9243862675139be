"""What numbers and names may be, where an annotation cannot say it."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf


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
