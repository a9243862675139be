"""An edit, shown to a person: what the model says before and after."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from edits.edit import NOTHING, Edit
from models.language_model import LanguageModel


def before_and_after(
    title: str,
    language_model: LanguageModel,
    edit: Edit,
    prompts: Sequence[str],
    max_new_tokens: int = 16,
) -> Table:
    """A table of greedy answers to the prompts, before and after the edit."""
    before = NOTHING.edited(language_model).generate(prompts, max_new_tokens=max_new_tokens)
    after = edit.edited(language_model).generate(prompts, max_new_tokens=max_new_tokens)
    table = Table(
        title=Text(title),
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    for column in ("prompt", "before", "after"):
        table.add_column(column, overflow="fold")
    for row in zip(prompts, before, after, strict=True):
        table.add_row(*(Text(" ".join(text.split())) for text in row))
    return table
