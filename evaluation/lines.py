"""One line for each record and probe: what was asked, what was said, how it is judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from datamodules.disturbance import changes, disturbed
from datamodules.records import Request
from scoring.questions import Questions
from scoring.scorers import SCORERS, Answer

UNEDITED = "unedited"
"""The name under which the language model itself stands beside the editors."""
IMMEDIATE, RETENTION = "immediate", "retention"
"""Whether edits were asked about right after they were made, or once later ones had been too."""


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
    to it; ``generated`` and ``generated_before`` the free continuations, if any; ``nll`` and
    ``contrast_nll`` are in nats per token; ``mentions`` says how often the prompt of a
    request names its subject, at most; ``disturbed`` says that another request changes what is
    to be kept, so that nothing is judged; then each scorer's value, null where it does not apply.

    Args:
        run: What stands in every line: editor, model, data, split, protocol, n, step,
            phase.
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
            other = disturbed(probe, record, changed)
            yield {
                **run,
                "record": record.id,
                "index": index,
                "probe": probe.kind,
                "mentions": max(request.mentions for request in record.requests),
                "prompt": probe.prompt,
                "target": probe.target,
                "contrast": probe.contrast,
                "answer": tokenizer.decode(new.predicted).strip(),
                "before": tokenizer.decode(old.predicted).strip(),
                "generated": new.text,
                "generated_before": old.text,
                "nll": new.nll,
                "contrast_nll": new.contrast_nll,
                "disturbed": other,
                **{s.__name__: None if other else s(probe, new, old) for s in SCORERS},
            }
