"""One line for each record and probe: what was asked, what was said, how it is judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from evaluation.questions import Questions
from evaluation.scorers import SCORERS, Answer

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
) -> Iterator[dict[str, object]]:
    """The lines of one editor's answers to ``questions``.

    ``answer`` and ``before`` are the most likely tokens, edited and not, each given the target up
    to it; ``generated`` and ``generated_before`` the free continuations, if any; ``nll`` and
    ``contrast_nll`` are in nats per token; then each scorer's value, null where it does not apply.

    Args:
        run: What stands in every line: editor, model, data, split, protocol, n, step,
            phase.
        questions: What was asked.
        before: The unedited model's answers.
        after: The edited model's.
        tokenizer: Writes token ids as text.
    """
    answers = iter(zip(before, after, strict=True))
    for record in questions.records:
        for index, probe in enumerate(record.questions):
            old, new = next(answers)
            yield {
                **run,
                "record": record.id,
                "index": index,
                "probe": probe.kind,
                "prompt": probe.prompt,
                "target": probe.target,
                "contrast": probe.contrast,
                "answer": tokenizer.decode(new.predicted).strip(),
                "before": tokenizer.decode(old.predicted).strip(),
                "generated": new.text,
                "generated_before": old.text,
                "nll": new.nll,
                "contrast_nll": new.contrast_nll,
                **{scorer.__name__: scorer(probe, new, old) for scorer in SCORERS},
            }
