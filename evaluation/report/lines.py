"""One line for each record and probe: what was asked, what was said, how it is judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

from datamodules.disturbance import Changes, changes, disturbed
from datamodules.records import Probe, Record, Request
from scoring.answers import NO_TOKEN, Answer
from scoring.questions import Questions
from scoring.scorers import SCORERS

UNEDITED = "unedited"
"""The name under which the language model itself stands beside the editors."""
IMMEDIATE, RETENTION = "immediate", "retention"
"""Whether edits were asked about right after they were made, or once later ones had been too."""
DISTURBED, UNKNOWN = "disturbed", "unknown"
"""Why a probe is not judged: what it is to keep, another request changes; the unedited model does
not know what it presumes."""

BROKEN = "(not a number)"
"""What stands for the answer of an edited model that computes NaN; it is right nowhere."""


def answer_lines(
    run: Mapping[str, object],
    questions: Questions,
    before: Sequence[Answer],
    after: Sequence[Answer],
    tokenizer: PreTrainedTokenizerBase,
    requests: Iterable[Request] = (),
) -> Iterator[dict[str, object]]:
    """The lines of one editor's answers to ``questions``.

    ``answer`` and ``before`` are the most likely tokens, edited and not, each given the target up
    to it; ``generated`` and ``generated_before`` the free continuations, if any, ``ended`` whether
    the model ended the first of them itself; ``verdict`` is empty, or why a judge that was asked
    about it gave none, and null where no judge was asked; ``nll`` and ``contrast_nll`` are in nats
    per token; ``mentions`` says how often the prompt of a request names its subject, at most;
    ``any_of`` and ``all_of`` name the question that several probes ask together; ``judged`` is
    null, or why the probe is not; ``floor`` holds the value of the unedited model's answer by each
    scorer that applies; then each scorer's value, null where it does not apply.

    Args:
        run: What stands in every line; see `Protocol.run`.
        questions: What was asked.
        before: The unedited model's answers.
        after: The edited model's.
        tokenizer: Writes token ids as text.
        requests: All that the edited model has been edited for, if it is one model for all.
    """
    changed = changes(requests)
    answers = iter(zip(before, after, strict=True))
    for record in questions.records:
        for index, probe in enumerate(record.questions):
            old, new = next(answers)
            reason = _not_judged(probe, record, old, changed)
            judged = _values(probe, new, old, reason)
            floor = _values(probe, old, old, reason)
            yield {
                **run,
                "record": record.id,
                "index": index,
                "probe": probe.kind,
                "any_of": probe.any_of,
                "all_of": probe.all_of,
                "mentions": max(request.mentions for request in record.requests),
                "prompt": probe.prompt,
                "target": probe.target,
                "contrast": probe.contrast,
                "answer": _decoded(new, tokenizer),
                "before": _decoded(old, tokenizer),
                "generated": new.text,
                "generated_before": old.text,
                "ended": new.ended,
                "verdict": None if new.verdict is None else new.verdict.reason,
                "nll": new.nll,
                "contrast_nll": None if new.contrast is None else new.contrast.nll,
                "judged": reason,
                "floor": {name: value for name, value in floor.items() if value is not None},
                **judged,
            }


def _values(
    probe: Probe, after: Answer, before: Answer, reason: str | None
) -> dict[str, float | None]:
    """By each scorer; None where it does not apply, or there is a reason not to judge."""
    return {n: None if reason else s(probe, after, before) for n, s in SCORERS.items()}


def _not_judged(probe: Probe, record: Record, before: Answer, changed: Changes) -> str | None:
    if not before.knows:
        return UNKNOWN
    return DISTURBED if disturbed(probe, record, changed) else None


def _decoded(answer: Answer, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What the model says in place of the right answer that counts; None if it was not scored."""
    best = answer.best
    if best is None:
        return None
    if NO_TOKEN in best.predicted:
        return BROKEN
    return cast(str, tokenizer.decode(list(best.predicted))).strip()
