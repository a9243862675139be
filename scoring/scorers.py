"""Scorers: how one answer to one probe is judged.

Sources of the probability scorers: Meng et al., "Locating and Editing Factual Associations in GPT",
NeurIPS 2022, https://arxiv.org/abs/2202.05262, section 3.4: on the request ES and EM, on
paraphrases PS and PM, on neighbours NS and NM. The locality form of the others: Yao et al.,
"Editing Large Language Models", EMNLP 2023, https://arxiv.org/abs/2305.13172: the right answer is
what the unedited model says, true or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp

from datamodules.records import KINDS, Probe
from files import first_line


@dataclass(frozen=True)
class Answer:
    """What one model, edited or not, says to one probe.

    ``targets`` and ``predicted`` are the ids of the t target tokens and, given the target so far,
    the most likely token in place of each. ``nll`` is the mean negative log-likelihood in nats per
    target token, ``contrast_nll`` that of the probe's contrast, ``text`` the free greedy
    continuation of the prompt where there is one.
    """

    targets: tuple[int, ...]
    predicted: tuple[int, ...]
    nll: float
    contrast_nll: float | None = None
    text: str | None = None


Scorer = Callable[[Probe, Answer, Answer], float | None]
"""``(probe, answer after the edit, answer before)`` -> value, None where it does not apply."""


def exact_match(probe: Probe, after: Answer, before: Answer) -> float:
    """1 if every target token is the most likely one, given the target up to there, else 0.

    ``prod_i [argmax p(. | prompt, y_<i) = y_i]``; on locality probes ``y_i`` on the right is the
    unedited model's argmax at the same position: the whole answer is the unedited model's.
    """
    return float(after.predicted == expected(probe, after, before))


def token_accuracy(probe: Probe, after: Answer, before: Answer) -> float:
    """Share of the target tokens that are the most likely one, given the target up to there.

    ``1/t sum_i [argmax p(. | prompt, y_<i) = y_i]``; locality as in ``exact_match``. More lenient
    than it: tokens that every answer shares count as success before any edit.
    """
    pairs = zip(after.predicted, expected(probe, after, before), strict=True)
    return sum(one == other for one, other in pairs) / len(after.predicted)


def probability_success(probe: Probe, after: Answer, before: Answer) -> float | None:
    """1 if the target is more likely than the contrast, per token and strictly, else 0.

    ``[nll(target) < nll(contrast)]`` with ``nll = -1/t sum_i log p(y_i | prompt, y_<i)``. ROME's
    ES, PS, NS. A ranking of two answers: neither needs to be the model's own.
    """
    if after.contrast_nll is None:
        return None
    return float(after.nll < after.contrast_nll)


def probability_difference(probe: Probe, after: Answer, before: Answer) -> float | None:
    """How much more probable, per token, the target is than the contrast, in -1..1.

    ``exp(-nll(target)) - exp(-nll(contrast))``. ROME's EM, PM, NM.
    """
    if after.contrast_nll is None:
        return None
    return exp(-after.nll) - exp(-after.contrast_nll)


def generation_exact_match(probe: Probe, after: Answer, before: Answer) -> float | None:
    """1 if the freely generated text starts with the target as whole words, else 0.

    Greedy, nothing of the target is given; after the target no letter or digit may follow at once.
    On locality probes: 1 if the first line generated is the unedited model's first line.
    """
    if after.text is None:
        return None
    if KINDS[probe.kind].local:
        return float(first_line(after.text) == first_line(before.text))
    said, target = after.text.strip(), probe.target.strip()
    return float(said.startswith(target) and not said[len(target) :][:1].isalnum())


SCORERS: tuple[Scorer, ...] = (
    exact_match,
    token_accuracy,
    probability_success,
    probability_difference,
    generation_exact_match,
)
"""All scorers, in the order in which reports list them; a scorer's name is its function's."""


def expected(probe: Probe, after: Answer, before: Answer) -> tuple[int, ...]:
    """The token ids that would be right: the target's, or on locality probes the unedited ones."""
    return before.predicted if KINDS[probe.kind].local else after.targets
