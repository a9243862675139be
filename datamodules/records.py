"""Records: requests, the probes that judge them, and the errors that a file of them can hold."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from datamodules.legible import fault, invisible, quoted, same

Group = Literal["request", "generalization", "portability", "locality", "depth"]
COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "request": "green",
        "generalization": "green",
        "portability": "magenta",
        "locality": "cyan",
        "depth": "yellow",
    }
)
"""The colour of each group of kinds in tables."""


@dataclass(frozen=True)
class Kind:
    """What a probe asks for.

    Attributes:
        name: as it stands in records, rows of results and configurations.
        group: which of the questions about an edit it belongs to. On ``locality`` kinds the right
            answer is whatever the unedited model says.
        heading: of its column in a table; narrow, so that ten of them fit beside each other.
        generated: whether it is answered by free generation too, unless a run says otherwise.
        tokens: how many are generated at least.
    """

    name: str
    group: Group
    heading: str
    generated: bool = False
    tokens: int = 0

    @property
    def colour(self) -> str:
        """That of its group."""
        return COLOURS[self.group]

    @property
    def local(self) -> bool:
        """Whether the right answer is what the unedited model says."""
        return self.group == "locality"


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("reliability", "request", "relia-\nbility", generated=True),
            Kind("generalization", "generalization", "general-\nization", generated=True),
            Kind("subject_alias", "portability", "subject\nalias", generated=True),
            Kind("reversed_relation", "portability", "reversed\nrelation", generated=True),
            Kind("one_hop", "portability", "one\nhop", generated=True),
            Kind("entailed", "portability", "en-\ntailed", generated=True),
            Kind("neighborhood", "locality", "neighbor-\nhood"),
            Kind("unrelated", "locality", "un-\nrelated"),
            Kind("other_relation", "locality", "other\nrelation"),
            Kind("distracting_neighbor", "locality", "distract.\nneighbor"),
            Kind("kept_objects", "locality", "kept\nobjects"),
            Kind("other_task", "locality", "other\ntask"),
            Kind("negated", "depth", "negated"),
            Kind("yes_no", "depth", "yes\nor no"),
            Kind("yes_no_control", "depth", "yes/no\ncontrol"),
            Kind("choice", "depth", "choice"),
            Kind("choice_control", "depth", "choice\ncontrol"),
            Kind("leak", "depth", "leak", generated=True, tokens=80),
        )
    }
)
"""All probe kinds, in the order in which tables and figures show them."""


def kinds_of(*groups: Group) -> tuple[str, ...]:
    """The names of the kinds of some groups, in order."""
    return tuple(kind.name for kind in KINDS.values() if kind.group in groups)


PROBE_KINDS = tuple(KINDS)
PORTABILITY = kinds_of("portability")
DEPTH = kinds_of("depth")
LOCALITY = kinds_of("locality")
GENERATED = tuple(kind.name for kind in KINDS.values() if kind.generated)


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
        RecordError: empty prompt, subject or target, or one that cannot be put to a model
            (`legible.fault`); the subject is not in the prompt; a target or subject with invisible
            characters, which nobody will say; a target that differs from what was true in nothing
            that can be seen.
    """

    prompt: str
    subject: str
    target: str
    target_true: str | None = None

    def __post_init__(self):
        for name in ("prompt", "subject", "target"):
            value = getattr(self, name)
            _checked_text(name, value)
            if value != value.strip():
                raise RecordError(name, f"has blanks at an end: {value!r}")
        if not self._mentions(re.IGNORECASE):
            reason = f"{quoted(self.subject)} is not in the prompt {quoted(self.prompt)}"
            raise RecordError("subject", reason)
        self._check_target()

    def _check_target(self) -> None:
        for name in ("subject", "target"):
            text = getattr(self, name)
            if invisible(text):
                raise RecordError(name, f"holds invisible characters: {quoted(text)}")
        true = self.target_true
        if true is not None and _only_form_differs(self.target, true):
            forms = f"{quoted(self.target)}, {quoted(true)}"
            raise RecordError("target", f"differs from the true one in Unicode form only: {forms}")

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
        mentions = self._mentions() or self._mentions(re.IGNORECASE)
        return [mention for mention in mentions if _is_whole(mention)] or mentions

    def _mentions(self, flags: int = 0) -> list[re.Match]:
        return list(re.finditer(re.escape(self.subject), self.prompt, flags))


def _only_form_differs(one: str, other: str) -> bool:
    ascii = one.isascii() and other.isascii()
    return not ascii and one.casefold() != other.casefold() and same(one, other)


def _is_whole(mention: re.Match) -> bool:
    """Whether no letter or digit touches the mention."""
    before, behind = mention.string[: mention.start()][-1:], mention.string[mention.end() :][:1]
    return not before.isalnum() and not behind.isalnum()


@dataclass(frozen=True)
class Probe:
    """A question put to the edited model.

    Attributes:
        kind: one of `KINDS`.
        prompt: the question.
        target: the expected answer; for locality kinds it is only what the question is about: the
            right answer there is whatever the unedited model says.
        contrast: the answer whose probability must stay below that of ``target`` (the old object
            for a request and its paraphrases, the new one for neighbours), as in ROME's scores.
        aliases: other right answers; the best of them all counts.
        known: (prompt, answer) pairs that the unedited model has to know, or the probe is not
            judged.
        any_of: probes of a record under one such name are one question in several wordings: it is
            answered if one of them is. Empty: the probe stands by itself.
        all_of: the same of probes that are answered only together, as a question to be answered
            with yes and its control, to be answered with no. They presume the same.
        distractors: wrong answers beside ``contrast``, each of which has to be less likely.
        references: texts that are right about what the prompt asks to talk about.
        hops: how many facts the answer takes; 0 where the source does not say.

    Raises:
        RecordError: a kind that is none, a field that holds no text where one is needed, or a probe
            with both ``any_of`` and ``all_of``.
    """

    kind: str
    prompt: str
    target: str
    contrast: str | None = None
    aliases: tuple[str, ...] = ()
    known: tuple[tuple[str, str], ...] = ()
    any_of: str = ""
    all_of: str = ""
    distractors: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    hops: int = field(default=0, repr=False)  # no part of what is asked, nor of a fingerprint

    def __post_init__(self):
        if self.kind not in KINDS:
            raise RecordError("kind", f"{self.kind!r} is none of {', '.join(KINDS)}")
        if self.any_of and self.all_of:
            raise RecordError("all_of", f"{self.all_of!r} beside any_of={self.any_of!r}: not both")
        for name in ("prompt", "target"):
            _checked_text(name, getattr(self, name))
        several = ((name, getattr(self, name)) for name in ("aliases", "distractors", "references"))
        for name, texts in (*several, *(("known", pair) for pair in self.known)):
            if isinstance(texts, str):
                raise RecordError(name, f"expected several texts, got {texts!r}")
            for text in texts:
                _checked_text(name, text)
        if any(len(pair) != 2 for pair in self.known):
            raise RecordError("known", f"expected pairs of prompt and answer, got {self.known}")

    @property
    def answers(self) -> tuple[str, ...]:
        """All right answers: the target, then the aliases."""
        return (self.target, *self.aliases)

    @property
    def wrong(self) -> tuple[str, ...]:
        """All wrong answers: the contrast, if there is one, then the distractors."""
        return (*(() if self.contrast is None else (self.contrast,)), *self.distractors)


@dataclass(frozen=True)
class Record:
    """Requests that are made together, mostly one, and their probes.

    Attributes:
        id: unique in its data set.
        requests: what is to become true.
        probes: what is asked beside the requests themselves.

    Raises:
        RecordError: there is no request, or it does not stand in a tuple.
    """

    id: str
    requests: tuple[Request, ...]
    probes: tuple[Probe, ...] = ()

    def __post_init__(self):
        if not isinstance(self.requests, tuple) or not self.requests:
            raise RecordError("requests", f"expected a tuple of requests, got {self.requests!r}")

    @cached_property
    def subjects(self) -> frozenset[str]:
        """The subjects of all requests, without regard to case."""
        return frozenset(request.subject.casefold() for request in self.requests)

    @cached_property
    def questions(self) -> tuple[Probe, ...]:
        """The requests themselves as ``reliability`` probes, then the other probes."""
        reliability = (
            Probe("reliability", request.prompt, request.target, request.target_true)
            for request in self.requests
        )
        return (*reliability, *self.probes)

    def of_kind(self, *kinds: str) -> tuple[Probe, ...]:
        """The probes of the given kinds, in order."""
        return tuple(probe for probe in self.questions if probe.kind in kinds)


def requests_of(records: Iterable[Record]) -> list[Request]:
    """The requests of all the records, in order."""
    return [request for record in records for request in record.requests]


def fingerprint(records: Iterable[Record]) -> str:
    """The first 16 hexadecimal digits of SHA-256 over all texts of the records, in order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(repr(record).encode())
    return digest.hexdigest()[:16]


def _checked_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise RecordError(name, f"expected text, got {value!r}")
    reason = fault(value)
    if reason:
        raise RecordError(name, reason)
