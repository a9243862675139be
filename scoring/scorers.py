"""All scorers: how one answer to one probe is judged, by what, and on which kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from datamodules.records import DEPTH, Probe
from files import first_line
from scoring.answers import Answer
from scoring.likelihoods import (
    exact_match,
    likelihood_success,
    probability_difference,
    probability_success,
    token_accuracy,
)
from scoring.texts import (
    consistency,
    contains,
    ends_by_itself,
    fluency,
    generation_exact_match,
    judge,
    normalized_exact_match,
    repeats_itself,
    replaces_old,
    says_new,
    says_old,
)


@dataclass(frozen=True)
class Scorer:
    """A way to judge answers.

    Attributes:
        judge: the value of a probe's answer after the edit, given the one before it; None where it
            does not apply to the probe.
        needs: what it judges an answer by: teacher-forced ``scores``, the generated ``text``, or
            what was ``found``.
        higher_is_better: whether a better answer has a higher value.
        share: whether values are from 0 to 1, so that means are shares.
        depth: whether it judges kinds of the group ``depth``: those that match the target do not,
            since there the target is one of two, or of many right answers.
    """

    judge: Callable[[Probe, Answer, Answer], float | None]
    needs: Literal["scores", "text", "found"] = "scores"
    higher_is_better: bool = True
    share: bool = True
    depth: bool = False

    def __call__(self, probe: Probe, after: Answer, before: Answer) -> float | None:
        """The value; None where it does not apply, or what it needs was not asked."""
        there = {
            "scores": bool(after.readings),
            "text": after.text is not None,
            "found": after.found is not None,
        }
        if not there[self.needs] or (probe.kind in DEPTH and not self.depth):
            return None
        return self.judge(probe, after, before)

    def best(self, values: Sequence[float]) -> float:
        """The best of several values."""
        return max(values) if self.higher_is_better else min(values)

    def worst(self, values: Sequence[float]) -> float:
        """The worst of several values."""
        return min(values) if self.higher_is_better else max(values)

    @property
    def name(self) -> str:
        """Its name in rows of results."""
        return self.judge.__name__

    @property
    def description(self) -> str:
        """What a value means, in a line."""
        return first_line(self.judge.__doc__ or "")


def found(probe: Probe, after: Answer, before: Answer) -> float:
    """1 if the edit found something for the question among what it remembers, else 0.

    Of edits that look questions up; on locality probes it is to be 0.
    """
    return float(bool(after.found))


SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {
        scorer.name: scorer
        for scorer in (
            Scorer(exact_match),
            Scorer(token_accuracy),
            Scorer(probability_success, depth=True),
            Scorer(probability_difference, share=False, depth=True),
            Scorer(generation_exact_match, needs="text"),
            Scorer(likelihood_success),
            Scorer(normalized_exact_match, needs="text"),
            Scorer(contains, needs="text"),
            Scorer(judge, needs="text"),
            Scorer(says_old, needs="text", higher_is_better=False, depth=True),
            Scorer(says_new, needs="text", higher_is_better=False),
            Scorer(replaces_old, needs="text", depth=True),
            Scorer(ends_by_itself, needs="text", depth=True),
            Scorer(repeats_itself, needs="text", higher_is_better=False, depth=True),
            Scorer(fluency, needs="text", share=False, depth=True),
            Scorer(consistency, needs="text", depth=True),
            Scorer(found, needs="found"),
        )
    }
)
"""All scorers by name, in the order in which reports list them."""
SCORER_OF_DEPTH: Mapping[str, str] = MappingProxyType(
    {
        "negated": "probability_success",
        "yes_no": "probability_success",
        "yes_no_control": "probability_success",
        "choice": "probability_success",
        "choice_control": "probability_success",
        "leak": "replaces_old",
    }
)
"""The scorer that tables show of each kind of the group ``depth``."""
