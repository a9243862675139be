"""Scorers of teacher-forced answers.

Sources of those of probabilities: Meng et al., "Locating and Editing Factual Associations in GPT",
NeurIPS 2022, https://arxiv.org/abs/2202.05262, section 3.4: on the request ES and EM, on
paraphrases PS and PM, on neighbours NS and NM. The locality form of the others: Yao et al.,
"Editing Large Language Models", EMNLP 2023, https://arxiv.org/abs/2305.13172: the right answer is
what the unedited model says, true or not.
"""

from __future__ import annotations

from math import exp

from datamodules.records import KINDS, Probe
from scoring.answers import Answer


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
    """1 if the target is more likely than every wrong answer, per token and strictly, else 0.

    ``[nll(target) < nll(contrast)]`` with ``nll = -1/t sum_i log p(y_i | prompt, y_<i)``. ROME's
    ES, PS, NS. A ranking of answers: none needs to be the model's own. Where there are distractors
    it has to win against each of them, too.
    """
    if after.nll is None or after.wrong_nll is None:
        return None
    return float(after.nll < after.wrong_nll)


def probability_difference(probe: Probe, after: Answer, before: Answer) -> float | None:
    """How much more probable, per token, the target is than the contrast, in -1..1.

    ``exp(-nll(target)) - exp(-nll(contrast))``. ROME's EM, PM, NM.
    """
    if after.nll is None or after.contrast is None:
        return None
    return exp(-after.nll) - exp(-after.contrast.nll)


def likelihood_success(probe: Probe, after: Answer, before: Answer) -> float | None:
    """1 if the target as a whole is more likely than the contrast, on another task, else 0.

    ``[log p(target) > log p(contrast)]``, where `probability_success` compares them per token: the
    two ways in which choices between texts are scored, the first favours the shorter one.
    """
    if probe.kind != "other_task" or not after.readings or after.contrast is None:
        return None
    right, wrong = after.readings[0], after.contrast
    return float(right.nll * len(right.targets) < wrong.nll * len(wrong.targets))


def _compared(
    probe: Probe, after: Answer, before: Answer
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The tokens predicted, and those that would be right: for each of the right answers.

    On locality probes it is one pair: what the edited and the unedited model say about the target.
    """
    if KINDS[probe.kind].local:
        return [(after.readings[0].predicted, before.readings[0].predicted)]
    return [(reading.predicted, reading.targets) for reading in after.readings]
