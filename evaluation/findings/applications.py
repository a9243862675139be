"""Findings F9 to F15: many edits, consequences, side effects, costs, and the choice of a method."""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.findings.checks import (
    Check,
    Named,
    ahead,
    at_least,
    at_most,
    at_most_times,
    more,
    times,
)
from evaluation.findings.evidence import Evidence
from evaluation.findings.single_edits import HIGH, LOW, NEAR, SURVEYED
from evaluation.report.document import scorecards

HOLDS = 0.05
"""By so much at most a value falls that is said to hold."""
FROZEN = ("serac", "tpatcher", "ike", "calinet", "grace", "in_context")
"""Editors that leave every weight as it is."""
CHANGING = ("ft_l", "ke", "mend", "kn", "rome")
"""Editors of the survey that change weights, without MEMIT."""
PERFECT = 0.95
ALIKE = 1.5
"""Peaks of memory within this factor are alike."""


def batch(e: Evidence) -> list[Check]:
    """F9: MEMIT holds to 1,000 edits at once, SERAC to 100, MEND and FT-L do not."""
    return [
        *(
            more(f"MEMIT's {probe} holds to the largest batch", last, first, by=-HOLDS)
            for probe in ("reliability", "generalization")
            for first, last in [_falls(e, "memit", probe)]
        ),
        more("its locality falls there", *_falls(e, "memit", "neighborhood")),
        at_least("SERAC is perfect", PERFECT, e.batch("serac", "reliability", most=True)),
        *(
            more(f"{name} falls", *_falls(e, name, "reliability"), by=HOLDS)
            for name in ("mend", "ft_l")
        ),
        *(
            more(
                f"{name} needs more memory for more edits",
                *(e.cost(name, "peak_gib", "batch", most=most) for most in (True, False)),
            )
            for name in ("ft_l", "serac", "mend")
        ),
    ]


def _falls(e: Evidence, editor: str, probe: str) -> tuple[Named, Named]:
    """The value of the smallest batch, and of the largest."""
    return e.batch(editor, probe, most=False), e.batch(editor, probe, most=True)


def sequence(e: Evidence) -> list[Check]:
    """F10: editors that freeze the model are stable; ROME, MEND fall, MEMIT later than ROME."""
    memit, rome = (_ends(e, name, 100)[1] for name in ("memit", "rome"))
    return [
        *(
            more(f"{name} is stable", last, first, by=-HOLDS)
            for name in ("serac", "tpatcher")
            for first, last in [_ends(e, name, 100)]
        ),
        more("ROME falls within 100 edits or more", *_ends(e, "rome", 100), by=HOLDS),
        more("MEND falls within 10 edits or more", *_ends(e, "mend", 10), by=HOLDS),
        more("MEMIT holds longer than ROME", memit, rome),
    ]


def _ends(e: Evidence, editor: str, least: int) -> tuple[Named, Named]:
    """All edits so far at the first checkpoint, and at the end, if that is far enough."""
    longest = max(e.sizes(editor, "sequential"), default=least)
    if longest < least:
        none = Named(editor, None, f"no sequence of {least} edits or more of", editor)
        return none, none
    first, last = (e.retained(editor, "reliability", last=last) for last in (False, True))
    return first, last


def portability(e: Evidence) -> list[Check]:
    """F11: weak everywhere; SERAC drops most; who is good at which kind."""

    def of(probe: str, *names: str) -> list[Named]:
        return [e.share(name, probe) for name in names]

    others = [name for name in SURVEYED if name != "ike"]
    hops = ("rome", "memit", "ike")
    return [
        at_most("portability is weak everywhere", LOW, *(e.portability(n) for n in SURVEYED)),
        ahead(
            "SERAC drops most: no method is lower",
            _negated(e.portability("serac")),
            [_negated(e.portability(name)) for name in SURVEYED if name != "serac"],
            by=-NEAR,
        ),
        at_least(
            "at another name of the subject FT-L, IKE and T-Patcher are good",
            LOW,
            *of("subject_alias", "ft_l", "ike", "tpatcher"),
        ),
        ahead(
            "at the reversed relation only IKE is",
            e.share("ike", "reversed_relation"),
            of("reversed_relation", *others),
        ),
        *(
            ahead(
                f"at one hop {name} is ahead of the others",
                e.share(name, "one_hop"),
                of("one_hop", *(other for other in SURVEYED if other not in hops)),
            )
            for name in hops
        ),
        ahead("IKE is best overall", e.portability("ike"), [e.portability(n) for n in others]),
    ]


def _negated(named: Named) -> Named:
    """The same upside down, so that the lowest is ahead."""
    value = named.value
    if value is None:
        return named
    flipped = type(value)(1 - value.mean, 1 - value.high, 1 - value.low)
    return Named(f"{named.name}, missed:", flipped)


def locality(e: Evidence) -> list[Check]:
    """F12: other relations fine, distracting neighbours poor but for IKE, other tasks mixed."""

    def of(probe: str, names: tuple[str, ...]) -> list[Named]:
        return [e.share(name, probe) for name in names]

    distracted = of("distracting_neighbor", tuple(n for n in SURVEYED if n != "ike"))
    return [
        at_least("other relations of the subject stay", HIGH, *of("other_relation", SURVEYED)),
        at_most("neighbours behind the edited sentence are lost", LOW, *distracted),
        at_least("but for IKE", HIGH, e.share("ike", "distracting_neighbor")),
        at_least("frozen models keep other tasks", HIGH, *of("other_task", FROZEN)),
        at_most("changed ones do not", LOW, *of("other_task", CHANGING)),
        at_least("but for MEMIT", HIGH, e.share("memit", "other_task")),
    ]


def seconds(e: Evidence) -> list[Check]:
    """F13: KE and MEND are fastest once trained; what has to be prepared, and how long."""

    def costs(column: str, *names: str) -> list[Named]:
        return [e.cost(name, column) for name in names]

    slow = ("ft_l", "tpatcher", "kn", "rome", "memit")
    per_edit = "seconds_per_edit"
    return [
        *(
            times(f"{slower} takes longer than {name}", *costs(per_edit, slower, name))
            for name in ("ke", "mend")
            for slower in slow
        ),
        times("ROME takes longer than SERAC", *costs(per_edit, "rome", "serac")),
        times("T-Patcher takes longer than ROME", *costs(per_edit, "tpatcher", "rome")),
        times("SERAC trains longer than MEND", *costs("training_seconds", "serac", "mend")),
        *(
            times(
                f"ROME's statistics take longer than what {name} prepares",
                *costs("preparation_seconds", "rome", name),
            )
            for name in ("tpatcher", "kn", "calinet")
        ),
    ]


def memory(e: Evidence) -> list[Check]:
    """F14: much the same in editing; MEND's training takes most."""
    peaks = [e.cost(name, "peak_gib") for name in SURVEYED]
    there = sorted((p for p in peaks if p.value), key=lambda p: p.value.mean if p.value else 0.0)
    if len(there) < 2:
        alike = Check("editing takes much the same memory", missing=peaks[0].missing)
        return [alike]
    return [
        at_most_times("editing takes much the same memory", there[-1], there[0], factor=ALIKE),
        times(
            "MEND's training takes more than any editing",
            e.cost("mend", "training_peak_gib"),
            there[-1],
        ),
    ]


def choice(e: Evidence, profiles: Mapping[str, Mapping[str, float]]) -> list[Check]:
    """F15: which editor is best depends on what an application needs."""
    claim = "the profiles choose different editors"
    cards = scorecards(e.runs, profiles)
    if cards is None or len(cards.cards) < 2:
        return [Check(claim, missing="runs of two editors or more, about the same records")]
    first = {card.profile: next(iter(card.scores)) for card in cards.cards}
    numbers = ", ".join(
        f"{card.profile} {first[card.profile]} ({next(iter(card.scores.values())):.2f}"
        + (f", not told from {len(card.behind)} others)" if card.behind else ")")
        for card in cards.cards
    )
    if len(set(first.values())) == 1:
        return [Check(claim, numbers, False)]
    sure = any(
        first[other.profile] not in (first[card.profile], *card.behind)
        for card in cards.cards
        for other in cards.cards
    )
    return [Check(claim, numbers, True if sure else None)]
