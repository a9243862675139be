"""Records: one request, the probes that judge it, and the errors a file of them can hold."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

PORTABILITY = ("subject_alias", "reversed_relation", "one_hop")
LOCALITY = ("neighborhood", "unrelated", "other_relation", "distracting_neighbor", "other_task")
PROBE_KINDS = ("reliability", "generalization", *PORTABILITY, *LOCALITY)
"""The survey's probe kinds, in the order in which tables list them."""


class RecordError(ValueError):
    """A field of one record cannot be used; readers add the file and the index."""

    def __init__(self, field: str, reason: str):
        super().__init__(f"field {field!r}: {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True)
class Request:
    """What is to become true: ``prompt`` continued by ``target``; ``prompt`` mentions ``subject``.

    Targets have no leading blank; whoever joins prompt and target puts one between them.

    Raises:
        RecordError: empty prompt, subject or target, or the subject is not in the prompt.
    """

    prompt: str
    subject: str
    target: str
    target_true: str | None = None

    def __post_init__(self):
        for name in ("prompt", "subject", "target"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise RecordError(name, f"expected text, got {value!r}")
            if value != value.strip():
                raise RecordError(name, f"has blanks at an end: {value!r}")
        if not self._mentions(re.IGNORECASE):
            raise RecordError("subject", f"{self.subject!r} is not in the prompt {self.prompt!r}")

    @cached_property
    def span(self) -> tuple[int, int]:
        """Characters ``[start, end)`` of the subject in the prompt: its last exact occurrence.

        One that is a part of a longer word ("Iran" in "Iranian") counts where there is no other,
        and one that differs in case where there is no exact one.
        """
        return self._best_mentions[-1].span()

    @property
    def mentions(self) -> int:
        """How many occurrences of the subject ``span`` is the last of."""
        return len(self._best_mentions)

    @cached_property
    def _best_mentions(self) -> list[re.Match]:
        found = self._mentions() or self._mentions(re.IGNORECASE)
        return [one for one in found if _is_whole(one)] or found

    def _mentions(self, flags: int = 0) -> list[re.Match]:
        return list(re.finditer(re.escape(self.subject), self.prompt, flags))


def _is_whole(found: re.Match) -> bool:
    """Whether no letter or digit touches the match."""
    before, behind = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    return not before.isalnum() and not behind.isalnum()


@dataclass(frozen=True)
class Probe:
    """A question put to the edited model.

    ``target`` is the expected answer; for locality kinds it is only what the question is about: the
    right answer there is whatever the unedited model says. ``contrast`` is the answer whose
    probability must stay below that of ``target`` (the old object for the request and its
    paraphrases, the new one for neighbours), as in ROME's scores.
    """

    kind: str
    prompt: str
    target: str
    contrast: str | None = None

    def __post_init__(self):
        if self.kind not in PROBE_KINDS:
            raise RecordError("kind", f"{self.kind!r} is none of {', '.join(PROBE_KINDS)}")
        for name in ("prompt", "target"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise RecordError(name, f"expected text, got {value!r}")


@dataclass(frozen=True)
class Record:
    """One request and its probes; ``id`` is unique in its data set."""

    id: str
    request: Request
    probes: tuple[Probe, ...] = field(default=())

    @cached_property
    def questions(self) -> tuple[Probe, ...]:
        """The request itself as the ``reliability`` probe, then the other probes."""
        request = self.request
        return (
            Probe("reliability", request.prompt, request.target, request.target_true),
            *self.probes,
        )

    def of_kind(self, *kinds: str) -> tuple[Probe, ...]:
        """The probes of the given kinds, in order."""
        return tuple(probe for probe in self.questions if probe.kind in kinds)
