"""Which editor for which application: properties, weighed by what the application needs.

Yao et al., "Editing Large Language Models", EMNLP 2023, https://arxiv.org/abs/2305.13172, section
6: rank the editors in each property that matters, average the ranks by weight, take the best. Here
a rank is the share of the other editors that are behind, from 0 (last) to 1 (first), and is
averaged over draws of the measured values from their intervals: a lead that the intervals do not
support counts half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, isclose, nan
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from datamodules.records import KINDS, LOCALITY, PORTABILITY
from evaluation.report.lines import UNEDITED

SHARES = ("reliability", "generalization", "portability", *LOCALITY, "batch", "sequence")
COSTS = ("speed", "memory", "preparation")
PROPERTIES = (*SHARES, *COSTS)
LOCALITY_OF_ALL = "locality"
"""In a profile: shared out equally among the kinds of locality that were measured."""
NOISE = 0.1
"""Standard error of a cost, as a share of it: each is measured once."""
LEAST = MappingProxyType({"speed": 0.001, "memory": 0.01, "preparation": 1.0})
"""And what it is at least: nobody minds a millisecond an edit, or a second once."""
DRAWS, SEED = 2_000, 0
SURE = 0.95
"""In this share of the draws an editor has to be ahead of another, to be told from it."""
Z = 1.959964  # half the width of a 95 % interval in standard errors


@dataclass(frozen=True)
class Value:
    """A measured property of an editor: higher is better, but for `COSTS`."""

    mean: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Its standard error, as its interval has it."""
        return (self.high - self.low) / (2 * Z)


Values = Mapping[str, Mapping[str, Value]]
"""Of each editor the properties that were measured."""


def checked(name: str, weights: Mapping[str, float]) -> dict[str, float]:
    """The weights of a profile, of which each names a property and all together are 1.

    Raises:
        ValueError: they do not.
    """
    known = (*PROPERTIES, LOCALITY_OF_ALL)
    for key, weight in weights.items():
        if key not in known:
            raise ValueError(f"profile {name}: {key} is none of the properties {', '.join(known)}")
        if not isinstance(weight, int | float) or not 0 <= weight <= 1:
            raise ValueError(f"profile {name}: the weight of {key} is {weight}; expected 0 to 1")
    total = sum(weights.values())
    if not isclose(total, 1, abs_tol=1e-6):
        raise ValueError(f"profile {name}: the weights sum to {total:g}; expected 1")
    return dict(weights)


# what was measured


def measured(rows: Sequence[Mapping], costs: Sequence[Mapping], scorer: str) -> Values:
    """The properties of each editor, of the rows and costs of all runs about the same.

    A kind of probe by itself is that of single edits, ``portability`` the mean of its kinds,
    ``batch`` and ``sequence`` reliability at the largest n that any editor was asked at, the latter
    of all edits so far. Costs are those of single edits, where they were made.

    Args:
        rows: of results, of any protocols.
        costs: of `efficiency`, each with its ``protocol``.
        scorer: whose means count.
    """
    editors = dict.fromkeys(row["editor"] for row in rows if row["editor"] != UNEDITED)
    scored = [row for row in rows if row["scorer"] == scorer]
    return {
        editor: _of_probes([row for row in scored if row["editor"] == editor])
        | _at_most(scored, editor)
        | _of_costs([cost for cost in costs if cost["editor"] == editor])
        for editor in editors
    }


def _of_probes(rows: Sequence[Mapping]) -> dict[str, Value]:
    single = {row["probe"]: _value(row) for row in rows if row["protocol"] == "single"}
    values = {kind: single[kind] for kind in SHARES if kind in single}
    several = [single[kind] for kind in PORTABILITY if kind in single]
    if several:
        mean, error = (
            float(np.mean([value.mean for value in several])),
            float(np.linalg.norm([value.error for value in several])) / len(several),
        )
        values["portability"] = Value(mean, max(0, mean - Z * error), min(1, mean + Z * error))
    return values


def _at_most(rows: Sequence[Mapping], editor: str) -> dict[str, Value]:
    """Reliability after the most edits, together and one after another."""
    values = {}
    for name, protocol, phase in (
        ("batch", "batch", "immediate"),
        ("sequence", "sequential", "retention"),
    ):
        about = [r for r in rows if (r["protocol"], r["phase"]) == (protocol, phase)]
        about = [r for r in about if r["probe"] == "reliability"]
        most = max((row["n"] for row in about), default=0)
        own = [row for row in about if (row["editor"], row["n"]) == (editor, most)]
        if own:
            values[name] = _value(own[0])
    return values


def _of_costs(costs: Sequence[Mapping]) -> dict[str, Value]:
    single = [cost for cost in costs if cost["protocol"] == "single"] or costs
    if not single or single[0]["seconds_per_edit"] is None:
        return {}
    cost = single[0]
    once = cost["preparation_seconds"] + (cost.get("training_seconds") or 0.0)
    values = {"speed": cost["seconds_per_edit"], "memory": cost["peak_gib"], "preparation": once}
    return {
        name: _within(value, Z * hypot(NOISE * value, LEAST[name]))
        for name, value in values.items()
    }


def _within(value: float, bound: float) -> Value:
    return Value(value, value - bound, value + bound)


def _value(row: Mapping) -> Value:
    return Value(row["mean"], row["low"], row["high"])


# what it amounts to


@dataclass(frozen=True)
class Card:
    """What a profile makes of what was measured.

    Attributes:
        profile: its name.
        weights: of the properties that were measured, which sum to 1.
        missing: the weight in the profile of each property that was measured of no editor.
        points: of each editor and property, from 0 (last) to 1 (first).
        scores: of each editor, the weighted average of its points; the best first.
        first: in which share of the draws each editor comes first.
        behind: the editors that the intervals do not tell from the first.
    """

    profile: str
    weights: Mapping[str, float]
    missing: Mapping[str, float]
    points: Mapping[str, Mapping[str, float]]
    scores: Mapping[str, float]
    first: Mapping[str, float]
    behind: tuple[str, ...]


def card(profile: str, weights: Mapping[str, float], values: Values) -> Card:
    """Ranks and the weighted average of them; an editor that lacks a property is last in it.

    Raises:
        ValueError: no editor, or none of the weighted properties was measured.
    """
    weights, missing = _measurable(profile, weights, values)
    editors = list(values)
    draws = np.stack([_points(name, editors, values) for name in weights])  # [properties, draws, e]
    scores = np.einsum("p,pde->de", np.array(list(weights.values())), draws)
    order = [int(e) for e in np.argsort(-scores.mean(0), kind="stable")]
    first = scores == scores.max(1, keepdims=True)
    first = first / first.sum(1, keepdims=True)
    behind = [e for e in order[1:] if (scores[:, order[0]] > scores[:, e]).mean() < SURE]
    return Card(
        profile,
        weights,
        missing,
        {
            editor: {name: float(draws[p, :, e].mean()) for p, name in enumerate(weights)}
            for e, editor in enumerate(editors)
        },
        {editors[e]: float(scores[:, e].mean()) for e in order},
        {editors[e]: float(first[:, e].mean()) for e in order},
        tuple(editors[e] for e in behind),
    )


def _measurable(
    profile: str, weights: Mapping[str, float], values: Values
) -> tuple[dict[str, float], dict[str, float]]:
    """The weights of what was measured, made to sum to 1, and those of what was not."""
    if not values:
        raise ValueError(f"profile {profile}: there is no editor to choose")
    weights = {n: w for n, w in spread(checked(profile, weights), values).items() if w}
    there = {name for properties in values.values() for name in properties}
    total = sum(weight for name, weight in weights.items() if name in there)
    if not total:
        raise ValueError(f"profile {profile}: none of its properties was measured")
    missing = {name: weight for name, weight in weights.items() if name not in there}
    return {name: w / total for name, w in weights.items() if name in there}, missing


def spread(weights: Mapping[str, float], values: Values) -> dict[str, float]:
    """The weights with that of ``locality`` shared out among its kinds that were measured."""
    kinds = [kind for kind in LOCALITY if any(kind in of_editor for of_editor in values.values())]
    whole = weights.get(LOCALITY_OF_ALL, 0.0)
    shared = {kind: whole / len(kinds) for kind in kinds} if kinds else {LOCALITY_OF_ALL: whole}
    apart = {name: weight for name, weight in weights.items() if name != LOCALITY_OF_ALL}
    names = [name for name in (*PROPERTIES, LOCALITY_OF_ALL) if name in {*apart, *shared}]
    return {name: apart.get(name, 0.0) + shared.get(name, 0.0) for name in names}


def _points(name: str, editors: Sequence[str], values: Values) -> NDArray:
    """In each draw, of each editor, the share of the others that are behind it: ``[draws, e]``."""
    rng = np.random.default_rng((SEED, PROPERTIES.index(name)))
    sign = -1.0 if name in COSTS else 1.0
    of_all = [values[editor].get(name) for editor in editors]
    means = np.array([nan if value is None else sign * value.mean for value in of_all])
    errors = np.array([0.0 if value is None else value.error for value in of_all])
    drawn = means + errors * rng.standard_normal((DRAWS, len(editors)))
    drawn = np.where(np.isnan(drawn), -np.inf, drawn)
    beats = (drawn[:, :, None] > drawn[:, None, :]).sum(2)
    ties = (drawn[:, :, None] == drawn[:, None, :]).sum(2) - 1
    return (beats + ties / 2) / max(1, len(editors) - 1)


def meaning(name: str) -> str:
    """What a property is, in words."""
    if name in KINDS:
        return f"{name.replace('_', ' ')}, single edits"
    return {
        "portability": "mean of the kinds of portability, single edits",
        "batch": "reliability of the largest batch",
        "sequence": "reliability of all edits at the end of the sequence",
        "speed": "seconds per edit",
        "memory": "GiB at the peak of editing",
        "preparation": "seconds of preparation and training, once",
    }[name]
