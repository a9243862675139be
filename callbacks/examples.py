"""Before and after, as text: what a trained editor's edits do to a few validation records."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from datamodules.loops import validation_records
from datamodules.records import LOCALITY, Record
from editors.editor import Editor
from editors.settings import at_least
from edits.edit import NOTHING
from files import first_line

COLUMNS = ("prompt", "new target", "before", "after", "paraphrase", "neighbour, before and after")


class Examples(L.Callback):
    """Writes ``val/examples``, a Markdown table, to TensorBoard after each validation.

    The records are the first of the validation loader's dataset; the module is a trained Editor.

    Args:
        count: Number of records.
        max_new_tokens: Length of the answers, in tokens.

    Raises:
        ValueError: no record or no token is asked for.
    """

    def __init__(self, count: int = 4, max_new_tokens: int = 8):
        at_least(1, count=count, max_new_tokens=max_new_tokens)
        self.count, self.max_new_tokens = count, max_new_tokens

    def on_validation_end(self, trainer: L.Trainer, editor: Editor) -> None:
        """Edit, ask, write; one process does, and only where there is a TensorBoard logger.

        As the scores beside it, it belongs to the step before. Where processes share the language
        model's parts, all of them ask.
        """
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        asks = trainer.is_global_zero or editor.language_model.sharded
        if trainer.sanity_checking or not asks or not loggers:
            return
        validated = validation_records(trainer)
        records = [validated[at] for at in range(min(self.count, len(validated)))]
        text = markdown(editor, records, self.max_new_tokens)
        for logger in loggers if trainer.is_global_zero else ():
            logger.experiment.add_text("val/examples", text, trainer.global_step - 1)


def markdown(editor: Editor, records: Sequence[Record], max_new_tokens: int = 8) -> str:
    """One row per record, each edited alone: its first request, paraphrase and locality probe."""
    questions = [prompts(record) for record in records]
    texts = [text for row in questions for text in row.values()]
    rows = [at for at, row in enumerate(questions) for _ in row]
    edit, length = editor.make([record.requests for record in records]), max_new_tokens
    unedited = NOTHING.edited(editor.language_model)
    edited = edit.edited(editor.language_model)
    before = iter(unedited.generate(texts, max_new_tokens=length))
    after = iter(edited.generate(texts, rows=rows, max_new_tokens=length))
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for record, row in zip(records, questions, strict=True):
        old, new = (
            {name: first_line(next(answers)) for name in row} for answers in (before, after)
        )
        paraphrase = f"{row['paraphrase']} **{new['paraphrase']}**" if "paraphrase" in row else ""
        neighbour = (
            f"{row['neighbour']} {old['neighbour']}, **{new['neighbour']}**"
            if "neighbour" in row
            else ""
        )
        request = record.requests[0]
        answers = (old["request"], f"**{new['request']}**")
        lines.append((request.prompt, request.target, *answers, paraphrase, neighbour))
    return "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in lines)


def prompts(record: Record) -> dict[str, str]:
    """What is asked about a record: its first request, paraphrase and neighbour."""
    questions = {"request": record.requests[0].prompt}
    for name, kinds in (("paraphrase", ("generalization",)), ("neighbour", LOCALITY)):
        for probe in record.of_kind(*kinds)[:1]:
            questions[name] = probe.prompt
    return questions


def escaped(text: str) -> str:
    """The text as one cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
