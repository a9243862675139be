"""Result rows as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rich import box
from rich.table import Table
from rich.text import Text

from datamodules.records import LOCALITY, PORTABILITY, PROBE_KINDS
from evaluation.report import ALL, caption

HEADINGS = MappingProxyType(
    {
        "reliability": "relia-\nbility",
        "generalization": "general-\nization",
        "neighborhood": "neighbor-\nhood",
        "unrelated": "un-\nrelated",
        "distracting_neighbor": "distract.\nneighbor",
    }
)
STYLES = MappingProxyType(
    dict.fromkeys(PORTABILITY, "magenta") | dict.fromkeys(LOCALITY, "cyan") | {ALL: "bold"}
)


def table(
    rows: Sequence[Mapping], costs: Sequence[Mapping] = (), scorer: str = "exact_match"
) -> Table:
    """Editors by probe kinds: means in percent, below each its 95 % interval; seconds per edit.

    Fits in 120 columns with all ten probe kinds.

    Raises:
        ValueError: no row has this scorer.
    """
    cells = {(row["editor"], row["probe"]): row for row in rows if row["scorer"] == scorer}
    if not cells:
        known = ", ".join(dict.fromkeys(row["scorer"] for row in rows))
        raise ValueError(f"no row has the scorer {scorer!r}; there are: {known or 'no rows'}")
    kinds = [kind for kind in (*PROBE_KINDS, ALL) if any(probe == kind for _, probe in cells)]
    seconds = {row["editor"]: row["seconds_per_edit"] for row in costs}
    grid = Table(
        title=f"{scorer}, percent · {caption(rows)}",
        caption="below each mean: 95 % interval over records",
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        title_justify="left",
        caption_justify="left",
    )
    grid.add_column("editor", overflow="fold", style="bold")
    for kind in kinds:
        heading = HEADINGS.get(kind, kind.replace("_", "\n"))
        grid.add_column(heading, justify="right", header_style=STYLES.get(kind, "green"))
    if seconds:
        grid.add_column("s per\nedit", justify="right")
    for editor in dict.fromkeys(editor for editor, _ in cells):
        shown = [_cell(cells.get((editor, kind))) for kind in kinds]
        grid.add_row(editor, *shown, *([_seconds(seconds.get(editor))] if seconds else []))
    return grid


def _cell(row: Mapping | None) -> Text:
    if row is None:
        return Text("-", style="dim")
    mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
    bounds = f"{low:z.0f}-{high:z.0f}" if low >= 0 else f"{low:z.0f} to {high:z.0f}"
    return Text(f"{mean:z.1f}\n").append(bounds, style="dim")


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"
