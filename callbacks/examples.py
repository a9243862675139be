"""Before and after, as text: what a trained editor's edits do to a few validation records."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from datamodules.records import LOCALITY, Record
from editors.editor import Editor
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
        for name, value in (("count", count), ("max_new_tokens", max_new_tokens)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.count, self.max_new_tokens = count, max_new_tokens

    def on_validation_end(self, trainer: L.Trainer, editor: Editor) -> None:
        """Edit, ask, write; one process does, and only where there is a TensorBoard logger.

        As the scores beside it, it belongs to the step before. Where processes share the language
        model's parts, all of them ask.
        """
        loggers = [one for one in trainer.loggers if isinstance(one, TensorBoardLogger)]
        asks = trainer.is_global_zero or editor.language_model.sharded
        if trainer.sanity_checking or not asks or not loggers:
            return
        dataset = trainer.val_dataloaders.dataset
        records = [dataset[at] for at in range(min(self.count, len(dataset)))]
        text = markdown(editor, records, self.max_new_tokens)
        for logger in loggers if trainer.is_global_zero else ():
            logger.experiment.add_text("val/examples", text, trainer.global_step - 1)


def markdown(editor: Editor, records: Sequence[Record], max_new_tokens: int = 8) -> str:
    """One row per record, each edited alone; a neighbour is its first locality probe.

    Of several requests of a record the first one is shown.
    """
    asked = [prompts(record) for record in records]
    texts = [text for row in asked for text in row.values()]
    rows = [at for at, row in enumerate(asked) for _ in row]
    language_model = editor.language_model
    edited = editor.edit_each([record.request for record in records]).edited(language_model)
    before = iter(language_model.generate(texts, max_new_tokens=max_new_tokens))
    after = iter(edited.generate(texts, rows=rows, max_new_tokens=max_new_tokens))
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for record, row in zip(records, asked, strict=True):
        old, new = ({name: first_line(next(said)) for name in row} for said in (before, after))
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
    """What is asked about a record: the request, its first paraphrase, its first neighbour."""
    asked = {"request": record.requests[0].prompt}
    for name, kinds in (("paraphrase", ("generalization",)), ("neighbour", LOCALITY)):
        for probe in record.of_kind(*kinds)[:1]:
            asked[name] = probe.prompt
    return asked


def escaped(text: str) -> str:
    """The text as one cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
