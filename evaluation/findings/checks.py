"""A claim about measured numbers, and whether their intervals support it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import hypot

from evaluation.report.scorecard import Value, Z

SHOWN, REFUTED = "shown", "refuted"
UNDECIDED, NOT_MEASURABLE = "undecided", "not measurable here"
VERDICTS = (SHOWN, REFUTED, UNDECIDED, NOT_MEASURABLE)


@dataclass(frozen=True)
class Check:
    """One claim of a finding.

    Attributes:
        claim: in words.
        numbers: that were measured, with their intervals.
        holds: whether they support it; None: their intervals leave it open.
        missing: what was not measured and how it would be, in place of numbers.
    """

    claim: str
    numbers: str = ""
    holds: bool | None = None
    missing: str = ""

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        if self.missing:
            return NOT_MEASURABLE
        return {True: SHOWN, False: REFUTED, None: UNDECIDED}[self.holds]


def verdict_of(checks: Sequence[Check]) -> str:
    """Of a finding: refuted by any of its claims, shown by all of them."""
    verdicts = {check.verdict for check in checks}
    if REFUTED in verdicts:
        return REFUTED
    return verdicts.pop() if len(verdicts) == 1 else UNDECIDED


@dataclass(frozen=True)
class Named:
    """A measured value and how it is called; or what is missing.

    Attributes:
        name: of the value.
        value: None if it was not measured.
        missing: why it was not, up to the editor of whom that is so.
        editor: of whom.
        percent: whether it is a share.
    """

    name: str
    value: Value | None
    missing: str = ""
    editor: str = ""
    percent: bool = True

    @property
    def text(self) -> str:
        """Name and value with its interval."""
        assert self.value is not None, "what is missing has no text"
        mean, low, high = self.value.mean, self.value.low, self.value.high
        if not self.percent:
            return f"{self.name} {mean:.3g}"
        return f"{self.name} {100 * mean:.1f} ({100 * low:.0f} to {100 * high:.0f})"


def at_least(claim: str, bound: float, *values: Named) -> Check:
    """That each of the shares is ``bound`` or more."""
    return _of_all(claim, values, lambda value: _side(value, bound))


def at_most(claim: str, bound: float, *values: Named) -> Check:
    """That each of the shares is ``bound`` or less."""
    return _of_all(claim, values, lambda value: _not(_side(value, bound)))


def more(claim: str, one: Named, other: Named, *, by: float = 0.0) -> Check:
    """That one value is more than another, by so much at least; negative: at most so far behind."""
    if missing := _missing([one, other]):
        return Check(claim, missing=missing)
    holds = _side(_difference(one.value, other.value), by)
    return Check(claim, f"{one.text}, {other.text}", holds)


def ahead(claim: str, one: Named, others: Sequence[Named], *, by: float = 0.0) -> Check:
    """That one value is more than each of the others, by so much; negative: that none is ahead."""
    there = [other for other in others if other.value is not None]
    if one.value is None or not there:
        return Check(claim, missing=_missing([one, *others][: 1 if one.value is None else None]))
    sides = [_side(_difference(one.value, other.value), by) for other in there]
    best = max(there, key=lambda other: other.value.mean if other.value else 0.0)
    absent = [other.editor for other in others if other.value is None]
    numbers = f"{one.text}; the best other: {best.text}"
    return Check(claim, numbers + _absent(absent), _all([*sides, *(None for _ in absent)]))


def times(claim: str, one: Named, other: Named, *, factor: float = 1.0) -> Check:
    """That one cost is more than ``factor`` times another."""
    if missing := _missing([one, other]):
        return Check(claim, missing=missing)
    assert other.value is not None
    scaled = Value(*(factor * x for x in (other.value.mean, other.value.low, other.value.high)))
    holds = _side(_difference(one.value, scaled), 0.0)
    return Check(claim, f"{one.text}, {other.text}", holds)


def at_most_times(claim: str, one: Named, other: Named, *, factor: float) -> Check:
    """That one cost is no more than ``factor`` times another."""
    check = times(claim, one, other, factor=factor)
    return check if check.missing else Check(claim, check.numbers, _not(check.holds))


def _of_all(claim: str, values: Sequence[Named], holds: Callable[[Value], bool | None]) -> Check:
    there = [value for value in values if value.value is not None]
    if not there:
        return Check(claim, missing=_missing(values))
    absent = [value.editor for value in values if value.value is None]
    numbers = ", ".join(value.text for value in there) + _absent(absent)
    sides = [holds(each.value) for each in there if each.value]
    return Check(claim, numbers, _all([*sides, *(None for _ in absent)]))


def _missing(values: Sequence[Named]) -> str:
    """What is missing, and of which editors."""
    editors: dict[str, dict[str, None]] = {}
    for value in (value for value in values if value.value is None):
        editors.setdefault(value.missing, {})[value.editor] = None
    return "; ".join(f"{why} {', '.join(names)}".strip() for why, names in editors.items())


def _absent(names: Sequence[str]) -> str:
    return f" (not measured: {', '.join(names)})" if names else ""


def _all(sides: Sequence[bool | None]) -> bool | None:
    """Whether all hold; None where none is refuted and some are open."""
    if False in sides:
        return False
    return None if None in sides else True


def _side(value: Value, bound: float) -> bool | None:
    """Whether a value is above a bound; None where its interval has both sides of it."""
    if value.low >= bound:
        return True
    return False if value.high < bound else None


def _not(holds: bool | None) -> bool | None:
    return None if holds is None else not holds


def _difference(one: Value | None, other: Value | None) -> Value:
    """Of two values that were measured apart; their errors add as independent ones do."""
    assert one is not None and other is not None, "what is missing was looked for before"
    mean, error = one.mean - other.mean, hypot(one.error, other.error)
    return Value(mean, mean - Z * error, mean + Z * error)
