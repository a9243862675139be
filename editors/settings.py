"""Settings of editors: checks with clear errors, and the values that tell one from another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from files.bounds import at_least, one_of, positive, shares

__all__ = ["at_least", "named", "one_of", "plain", "positive", "shares"]


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
