"""What classes and functions take by name, and what each value may be, by their annotations."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any, get_type_hints


@cache
def signature(target: Any) -> tuple[dict[str, Any], bool]:
    """What a class or function takes by name, with the annotation of each; and whether yet more."""
    hints: dict[str, Any] = {}
    for call in _calls(target):  # up the bases, as long as each passes on what it does not know
        annotated = get_type_hints(target if dataclasses.is_dataclass(target) else call)
        parameters = inspect.signature(call).parameters.values()
        named = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self"]
        hints = {name: annotated.get(name, Any) for name in named} | hints
        if len(named) + ("self" in inspect.signature(call).parameters) == len(parameters):
            return hints, False
    return hints, True


def _calls(target: Any) -> Iterator[Any]:
    """A function; or the constructors of a class and of its bases."""
    if not isinstance(target, type):
        yield target
        return
    for cls in target.__mro__[:-1]:
        if "__init__" in vars(cls):
            yield cls.__init__


def required(target: type) -> list[str]:
    """The arguments of a constructor that have no default."""
    parameters = list(inspect.signature(target).parameters.values())
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return [p.name for p in named if p.default is p.empty]
