"""The fields of one object of a file, read by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from datamodules import legible
from datamodules.legible import shown
from datamodules.records import RecordError

Built = TypeVar("Built")


@dataclass(frozen=True)
class Remark:
    """What a reader of a file should know about a record that is used.

    Attributes:
        field: where it stands.
        reason: what was done with it; the same words each time, so that they can be counted.
        value: what it was done with.
    """

    field: str
    reason: str
    value: str = ""


@dataclass
class Trace:
    """What was read of an object of a file, and what there is to say about it."""

    read: set[str] = field(default_factory=set)
    remarks: list[Remark] = field(default_factory=list)

    def remark(self, field: str, reason: str, value: str = "") -> None:
        """Keeps what there is to say about a record that is used."""
        self.remarks.append(Remark(field, reason, value))


class Fields:
    """One JSON object of a file; reads its fields by name, whatever they turn out to hold.

    Texts come without blanks at their ends: published targets often carry one, and whoever joins
    prompt and target puts exactly one between them. Inside a text nothing changes.

    Attributes:
        place: where the object stands in another one; empty for the outermost.
        trace: what was read, and remarks; one for an object and all that is in it.
    """

    def __init__(self, raw: object, path: str = "", trace: Trace | None = None):
        if not isinstance(raw, dict):
            raise RecordError(path or "record", f"expected an object, got {shown(raw)}")
        self._raw = raw
        self.place = path
        self.trace = trace or Trace()

    def __contains__(self, name: str) -> bool:
        return name in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def has(self, name: str) -> bool:
        """Whether a field is there and holds something: no null, blank or empty list."""
        value = self._raw.get(name)
        blank = value is None or (isinstance(value, str) and not value.strip())
        self._reads(name)
        return not blank and value != [] and value != {}

    def renamed(self, columns: Mapping[str, str]) -> Fields:
        """The same fields, those of ``columns`` under the names that are its keys.

        Raises:
            RecordError: the object lacks one of its values.
        """
        self.require(*columns.values())
        others = {name: value for name, value in self._raw.items() if name not in columns.values()}
        fields = Fields({**others, **{n: self._raw[c] for n, c in columns.items()}}, self.place)
        fields.trace = self.trace
        fields.trace.read.update(columns.values())
        return fields

    def require(self, *names: str) -> None:
        """Raises RecordError, naming all of ``names`` that the object lacks."""
        missing = [name for name in names if name not in self._raw]
        if missing:
            has = ", ".join(map(str, self._raw)) or "nothing"
            also = f" (as are {', '.join(missing[1:])})" if missing[1:] else ""
            raise RecordError(self._name(missing[0]), f"is missing{also}; the record has {has}")

    def remark(self, name: str, reason: str, value: str = "") -> None:
        """Keeps what there is to say about a field of a record that is used."""
        self.trace.remark(self._name(name), reason, value)

    def text(self, name: str) -> str:
        """The text of a field; RecordError if it is missing, blank or anything else."""
        return self._text(self._value(name), self._name(name))

    def texts(self, name: str) -> list[str]:
        """The texts of a field that holds a list of them."""
        values = self._value(name)
        if not isinstance(values, list):
            raise RecordError(self._name(name), f"expected a list of texts, got {shown(values)}")
        return [self._text(value, f"{self._name(name)}[{i}]") for i, value in enumerate(values)]

    def inner(self, name: str) -> Fields:
        """The object that a field holds."""
        return Fields(self._value(name), self._name(name), self.trace)

    def answers(self, name: str) -> tuple[str, ...]:
        """The answer that a field holds, then its aliases, each once.

        Published files write ``"a"``, ``["a", "b"]`` or ``[["a", "b"], ["c"]]``.
        """
        texts = list(_leaves(self._value(name), self._name(name)))
        if not texts:
            raise RecordError(self._name(name), "expected an answer, got none")
        return tuple(dict.fromkeys(self._text(text, place) for text, place in texts))

    def each(self, name: str) -> Iterator[Fields]:
        """The objects of a field that holds a list of them; none where the field is missing.

        Args:
            name: of the field, or dotted names on the way to it: ``"portability.Reasoning"``.
        """
        outer, _, rest = name.partition(".")
        if outer not in self:
            return
        if rest:
            yield from self.inner(outer).each(rest)
            return
        values, place = self._value(outer), self._name(outer)
        if not isinstance(values, list):
            raise RecordError(place, f"expected a list of objects, got {shown(values)}")
        for index, value in enumerate(values):
            yield Fields(value, f"{place}[{index}]", self.trace)

    def pairs(self, name: str, *parts: str) -> Iterator[Fields]:
        """As `each`; a single object stands for a list of it, or, with lists in it, for several.

        Args:
            name: of the field.
            parts: of the object; where each holds a list, the n-th entries belong together.
        """
        if not isinstance(self._raw.get(name), dict):
            yield from self.each(name)
            return
        outer = self.inner(name)
        outer.require(*parts)
        values = [outer._raw[part] for part in parts]
        if not isinstance(values[0], list):
            yield outer
            return
        lengths = [len(value) if isinstance(value, list) else 1 for value in values]
        if len(set(lengths)) > 1:
            sizes = ", ".join(f"{n} {part}" for part, n in zip(parts, lengths, strict=True))
            raise RecordError(outer.place, f"expected as many of each, got {sizes}")
        for index, row in enumerate(zip(*values, strict=True)):
            inner = dict(zip(parts, row, strict=True))
            yield Fields(inner, f"{outer.place}[{index}]", self.trace)

    def usable(self, name: str, build: Callable[[Fields], Built]) -> Iterator[Built]:
        """What ``build`` makes of `each` object; one that raises RecordError is a remark."""
        for part in self.each(name):
            try:
                yield build(part)
            except RecordError as error:
                reason = f"left out of {name}: {error.reason}"
                self.trace.remark(error.field, reason)

    def _value(self, name: str) -> object:
        self.require(name)
        self._reads(name)
        return self._raw[name]

    def _reads(self, name: str) -> None:
        if not self.place:
            self.trace.read.add(name)

    def _text(self, value: object, place: str) -> str:
        text = _text(value, place)
        note = legible.note(text)
        if note:
            self.trace.remark(place, note)
        return text

    def _name(self, name: str) -> str:
        return f"{self.place}.{name}" if self.place else name


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RecordError(name, f"expected text, got {shown(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RecordError(name, f"is not valid Unicode: {error.reason}") from None
    fault = legible.fault(value)
    if fault:
        raise RecordError(name, fault)
    return value.strip()


def _leaves(value: object, place: str) -> Iterator[tuple[object, str]]:
    """What nested lists hold, in order, each with its place."""
    if not isinstance(value, list):
        yield value, place
        return
    for index, part in enumerate(value):
        yield from _leaves(part, f"{place}[{index}]")
