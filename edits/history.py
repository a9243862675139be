"""What an edit makes true, and how it was made: it stands in the edit's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

from datamodules.records import Request


@dataclass(frozen=True)
class Making:
    """Requests that an editor made true together.

    Attributes:
        editor: its name.
        requests: what became true.
        settings: what decided it; see `editors.editor.Editor.identity`.
        date: when, in ISO 8601 with a time zone.
        errata: version of this project.
    """

    editor: str
    requests: tuple[Request, ...]
    settings: Mapping[str, Any]
    date: str
    errata: str

    @classmethod
    def now(cls, editor: str, requests: Sequence[Request], settings: Mapping[str, Any]) -> Self:
        """What is being made at this moment."""
        date = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(editor, tuple(requests), settings, date, _version())

    def values(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {**vars(self), "requests": [asdict(request) for request in self.requests]}

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> Self:
        """What `values` gave.

        Raises:
            KeyError, TypeError, ValueError: it did not.
        """
        requests = tuple(Request(**request) for request in values["requests"])
        return cls(**{**values, "requests": requests})


History = tuple[Making, ...]
"""All that an edit holds, in the order in which it was made."""


def requests_in(history: History) -> list[Request]:
    """What is true by an edit of this history; of requests with one prompt the last one counts."""
    last = {request.prompt: request for making in history for request in making.requests}
    return list(last.values())


def without(history: History, prompts: Sequence[str]) -> History:
    """The history of an edit from which the requests with these prompts were taken.

    Raises:
        ValueError: no request has one of the prompts.
    """
    held = {request.prompt for request in requests_in(history)}
    for prompt in prompts:
        if prompt not in held:
            raise ValueError(f"no request of the edit has the prompt {prompt!r}")
    left = [(m, tuple(r for r in m.requests if r.prompt not in prompts)) for m in history]
    return tuple(Making(**{**vars(m), "requests": kept}) for m, kept in left if kept)


def _version() -> str:
    try:
        return version("errata")
    except PackageNotFoundError:  # a clone that nobody installed
        return "unknown"
