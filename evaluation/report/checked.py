"""What a check found, as tables for the terminal and as files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from evaluation.check import Check, Said
from files import write_whole

MOST = 12
"""Facts, and bystanders, that a terminal shows."""


def tables(check: Check, title: str) -> Group:
    """The figures; the facts, or those that are missed where there are many; what else moved."""
    figures = Table(title=Text(title), show_header=False, box=None, title_justify="left")
    for name, value in check.lines().items():
        figures.add_row(Text(f"  {name}"), Text(value))
    few = len(check.facts) <= MOST
    facts = check.facts if few else check.missed
    parts = [figures]
    if facts:
        heading = "facts" if few else "facts that are not said"
        parts.append(_said(heading, [fact.request for fact in facts], "to be said"))
    if check.moved:
        parts.append(_said("other questions that are answered otherwise", check.moved, "true"))
    return Group(*parts)


def write(check: Check, folder: Path) -> None:
    """``check.csv``, a line for each fact, and ``check.json``, all that was asked."""
    rows = [fact.row() for fact in check.facts]
    write_whole(folder / "check.csv", pd.DataFrame(rows).to_csv(index=False))
    write_whole(folder / "check.json", json.dumps(check.values(), indent=1) + "\n")


def _said(title: str, said: Sequence[Said], target: str) -> Table:
    more = len(said) - MOST
    table = Table(
        title=Text(title),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption=Text(f"and {more:,} more: check.json") if more > 0 else None,
        caption_justify="left",
    )
    for column in ("prompt", target, "before", "now", ""):
        table.add_column(column, overflow="fold")
    for each in said[:MOST]:
        mark = Text("yes" if each.right else "no", style="green" if each.right else "red")
        cells = (each.prompt, each.target, each.before, each.now)
        table.add_row(*_texts(cells), mark)
    return table


def _texts(cells: Iterable[str]) -> list[Text]:
    """As they are: Rich would read brackets as markup."""
    return [Text(" ".join(cell.split())) for cell in cells]
