"""Scorers: how one answer to one probe is judged.

Sources of the probability scorers: Meng et al., "Locating and Editing Factual Associations in GPT",
NeurIPS 2022, https://arxiv.org/abs/2202.05262, section 3.4: on the request ES and EM, on
paraphrases PS and PM, on neighbours NS and NM. The locality form of the others: Yao et al.,
"Editing Large Language Models", EMNLP 2023, https://arxiv.org/abs/2305.13172: the right answer is
what the unedited model says, true or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from types import MappingProxyType
from typing import Literal

from datamodules.records import KINDS, Probe
from files import first_line

NO_TOKEN = -1
"""What a broken model says in place of a token; no answer matches it."""


@dataclass(frozen=True)
class Reading:
    """One expected answer as a model reads it behind the prompt, token by token.

    Attributes:
        targets: ids of its t tokens.
        predicted: given the answer up to there, the most likely token in place of each; of a broken
            model `NO_TOKEN`.
        nll: mean negative log-likelihood in nats per token.
    """

    targets: tuple[int, ...]
    predicted: tuple[int, ...]
    nll: float

    @property
    def exact(self) -> bool:
        """Whether every token is the most likely one."""
        return self.predicted == self.targets


@dataclass(frozen=True)
class Answer:
    """What one model, edited or not, says to one probe.

    Attributes:
        readings: of the probe's right answers, its target first; empty where none was scored.
        contrast: of the probe's contrast, if it has one.
        text: the free greedy continuation of the prompt, where there is one.
        knows: whether the model knows what the probe presumes; the unedited one is asked.
        found: whether the edit found something for the question, where it looks questions up.
    """

    readings: tuple[Reading, ...] = ()
    contrast: Reading | None = None
    text: str | None = None
    knows: bool = True
    found: bool | None = None

    @property
    def best(self) -> Reading | None:
        """The right answer that counts: one that is matched, or else the likeliest."""
        return min(self.readings, key=lambda r: (not r.exact, r.nll), default=None)

    @property
    def nll(self) -> float | None:
        """Of the likeliest right answer."""
        return min((reading.nll for reading in self.readings), default=None)


@dataclass(frozen=True)
class Scorer:
    """A way to judge answers.

    Attributes:
        judge: the value of a probe's answer after the edit, given the one before it; None where it
            does not apply to the probe.
        needs: what it judges an answer by: teacher-forced ``scores``, the generated ``text``, or
            what was ``found``.
        higher_is_better: whether a better answer has a higher value.
    """

    judge: Callable[[Probe, Answer, Answer], float | None]
    needs: Literal["scores", "text", "found"] = "scores"
    higher_is_better: bool = True

    def __call__(self, probe: Probe, after: Answer, before: Answer) -> float | None:
        """The value; None where it does not apply, or what it needs was not asked."""
        there = {
            "scores": bool(after.readings),
            "text": after.text is not None,
            "found": after.found is not None,
        }
        return self.judge(probe, after, before) if there[self.needs] else None

    def best(self, values: Sequence[float]) -> float:
        """The best of several values."""
        return max(values) if self.higher_is_better else min(values)

    @property
    def name(self) -> str:
        """Its name in rows of results."""
        return self.judge.__name__

    @property
    def description(self) -> str:
        """What a value means, in a line."""
        return first_line(self.judge.__doc__ or "")


def exact_match(probe: Probe, after: Answer, before: Answer) -> float:
    """1 if every target token is the most likely one, given the target up to there, else 0.

    ``prod_i [argmax p(. | prompt, y_<i) = y_i]``; on locality probes ``y_i`` on the right is the
    unedited model's argmax at the same position: the whole answer is the unedited model's. Of
    several right answers the best one counts.
    """
    pairs = _compared(probe, after, before)
    return float(any(predicted == right for predicted, right in pairs))


def token_accuracy(probe: Probe, after: Answer, before: Answer) -> float:
    """Share of the target tokens that are the most likely one, given the target up to there.

    ``1/t sum_i [argmax p(. | prompt, y_<i) = y_i]``; locality and several answers as in
    ``exact_match``. More lenient than it: tokens that every answer shares count as success before
    any edit.
    """
    return max(
        sum(one == other for one, other in zip(predicted, right, strict=True)) / len(predicted)
        for predicted, right in _compared(probe, after, before)
    )


def probability_success(probe: Probe, after: Answer, before: Answer) -> float | None:
    """1 if the target is more likely than the contrast, per token and strictly, else 0.

    ``[nll(target) < nll(contrast)]`` with ``nll = -1/t sum_i log p(y_i | prompt, y_<i)``. ROME's
    ES, PS, NS. A ranking of two answers: neither needs to be the model's own.
    """
    if after.nll is None or after.contrast is None:
        return None
    return float(after.nll < after.contrast.nll)


def probability_difference(probe: Probe, after: Answer, before: Answer) -> float | None:
    """How much more probable, per token, the target is than the contrast, in -1..1.

    ``exp(-nll(target)) - exp(-nll(contrast))``. ROME's EM, PM, NM.
    """
    if after.nll is None or after.contrast is None:
        return None
    return exp(-after.nll) - exp(-after.contrast.nll)


def generation_exact_match(probe: Probe, after: Answer, before: Answer) -> float:
    """1 if the freely generated text starts with the target as whole words, else 0.

    Greedy, nothing of the target is given; after the target no letter or digit may follow at once.
    Any right answer will do. On locality probes: 1 if the first line generated is the unedited
    model's first line.
    """
    text = after.text or ""
    if KINDS[probe.kind].local:
        return float(first_line(text) == first_line(before.text or ""))
    return float(any(_begins(text.strip(), answer.strip()) for answer in probe.answers))


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
            Scorer(probability_success),
            Scorer(probability_difference),
            Scorer(generation_exact_match, needs="text"),
            Scorer(found, needs="found"),
        )
    }
)
"""All scorers by name, in the order in which reports list them."""


def _compared(
    probe: Probe, after: Answer, before: Answer
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The tokens predicted, and those that would be right: for each of the right answers.

    On locality probes it is one pair: what the edited and the unedited model say about the target.
    """
    if KINDS[probe.kind].local:
        return [(after.readings[0].predicted, before.readings[0].predicted)]
    return [(reading.predicted, reading.targets) for reading in after.readings]


def _begins(text: str, answer: str) -> bool:
    return text.startswith(answer) and not text[len(answer) :][:1].isalnum()
