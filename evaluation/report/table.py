"""Result rows as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from datamodules.records import KINDS
from evaluation.report.lines import UNEDITED
from evaluation.report.page import caption, taken
from evaluation.report.rows import (
    ALL,
    EVENTS,
    NOT_MADE,
    common_scorer,
    depth_rows,
    gain_rows,
    is_measure,
)

MOST = 10
"""How many probe kinds fit beside each other into 120 columns."""

Line = tuple[int, str, str]
"""n, editor and phase: what a line of the table is about."""


@dataclass(frozen=True)
class Column:
    """A column of the table, and what stands in it."""

    heading: str
    cells: Mapping[Line, Text]
    style: str = ""


def table(
    rows: Sequence[Mapping], costs: Sequence[Mapping] = (), scorer: str | None = None
) -> Group:
    """Editors by the probe kinds asked: means in percent, 95 % intervals; seconds per edit.

    Where there are several n or phases, each editor has a line for each, the smallest n first.
    Where there are more kinds than fit into 120 columns, there are several tables, one below the
    other. Then kinds of the group ``depth``, each by its own scorer, and what editors have gained
    over the unedited model where that may know answers already: on portability and depth.

    Args:
        rows: of results.
        costs: of `efficiency`.
        scorer: whose means are shown; None: the first that all editors have.

    Raises:
        ValueError: no row has this scorer.
    """
    scorer = scorer or common_scorer(rows)
    shown = [row for row in rows if row["scorer"] == scorer]
    if not shown:
        known = ", ".join(dict.fromkeys(row["scorer"] for row in rows))
        raise ValueError(f"no row has the scorer {scorer!r}; there are: {known or 'no rows'}")
    lines = _lines([row for row in rows if row["scorer"] in (scorer, NOT_MADE)])
    labels = {line: _label(line, rows) for line in lines}
    parts = [_columns(part, lines, _cell) for part in _beside(shown)]
    seconds = {(row["n"], row["editor"]): row["seconds_per_edit"] for row in costs}
    if seconds:
        times = {line: _seconds(seconds.get(line[:2])) for line in lines}
        parts[-1].append(Column("s per\nedit", times))
    grids = [_of_columns(columns, labels) for columns in parts]
    grids[0].title = f"{scorer}, percent · {caption(rows)}"
    below = "below each number: 95 % interval over records"
    grids[-1].caption = Text("\n".join([below, *taken(rows)]))
    depth = depth_rows(rows, scorer)
    gains = gain_rows([*shown, *depth])
    edited = {line: label for line, label in labels.items() if line[1] != UNEDITED}
    return Group(
        *grids,
        *_headed(f"{_names(depth)}, percent", depth, labels, _cell),
        *_headed(f"{_names(gains)}: gain over unedited, points", gains, edited, _gain),
    )


def _headed(
    heading: str,
    rows: Sequence[Mapping],
    labels: Mapping[Line, Text],
    cell: Callable[[Mapping | None], Text],
) -> list[Text | Table]:
    """Tables of the rows below a heading, which may be wider; nothing of no rows."""
    if not rows or not labels:
        return []
    parts = [_columns(part, list(labels), cell) for part in _beside(rows)]
    return [Text(heading, style="italic"), *(_of_columns(columns, labels) for columns in parts)]


def _names(rows: Sequence[Mapping]) -> str:
    """The scorers of the rows, and of which kinds they are where there are several."""
    kinds: dict[str, dict[str, None]] = {}
    for row in rows:
        kinds.setdefault(row["scorer"], {})[row["probe"]] = None
    if len(kinds) == 1:
        return next(iter(kinds))
    return "; ".join(f"{scorer} ({', '.join(kinds[scorer])})" for scorer in kinds)


def _beside(rows: Sequence[Mapping]) -> list[list[Mapping]]:
    """The rows of each of several tables, which fit."""
    there = {row["probe"] for row in rows}
    groups = beside([kind for kind in (*KINDS, ALL) if kind in there])
    return [[row for row in rows if row["probe"] in group] for group in groups]


def _columns(
    rows: Sequence[Mapping], lines: Sequence[Line], cell: Callable[[Mapping | None], Text]
) -> list[Column]:
    cells = {(*_line(row), row["probe"]): row for row in rows}
    kinds = [kind for kind in (*KINDS, ALL) if any(key[-1] == kind for key in cells)]
    return [
        _column(kind, {line: cell(cells.get((*line, kind))) for line in lines}) for kind in kinds
    ]


def beside(kinds: Sequence[str]) -> list[list[str]]:
    """The kinds of each table: all of them in one if they fit, or else as many groups as do."""
    if len(kinds) <= MOST:
        return [list(kinds)]
    parts: list[list[str]] = [[]]
    for _, group in groupby(kinds, key=lambda kind: KINDS[kind].group if kind in KINDS else kind):
        together = list(group)
        if len(parts[-1]) + len(together) > MOST:
            parts.append([])
        parts[-1] += together
    return parts


def _column(kind: str, cells: Mapping[Line, Text]) -> Column:
    if kind == ALL:
        return Column(kind, cells, "bold")
    return Column(KINDS[kind].heading, cells, KINDS[kind].colour)


def _of_columns(columns: Sequence[Column], labels: Mapping[Line, Text]) -> Table:
    grid = _grid(None)
    grid.add_column("editor", overflow="fold")
    for column in columns:
        grid.add_column(column.heading, justify="right", header_style=column.style)
    for line, label in labels.items():
        grid.add_row(label, *(column.cells[line] for column in columns))
    return grid


def events(rows: Sequence[Mapping]) -> Table | None:
    """Editors by what else happened: perplexity, norms, what was not judged, made or kept, and why.

    None if there is nothing to tell.
    """
    measures = dict.fromkeys(row["scorer"] for row in rows if is_measure(row["scorer"]))
    names = [*measures, *EVENTS]
    happened = [row for row in rows if row["scorer"] in names]
    if not happened:
        return None
    cells = {(*_line(row), row["scorer"]): row for row in happened}
    grid = _grid("the edited models")
    grid.add_column("editor", overflow="fold")
    names = [name for name in names if any(row["scorer"] == name for row in happened)]
    for name in names:
        grid.add_column(name.replace("_", "\n"), justify="right")
    if any("reason" in row for row in happened):
        grid.add_column("which and why", overflow="fold")
    for line in _lines(happened):
        row_cells = [cells.get((*line, name)) for name in names]
        reasons = Text("\n".join(row["reason"] for row in row_cells if row and "reason" in row))
        texts = [_number(row) for row in row_cells] + [reasons]
        grid.add_row(_label(line, happened), *texts[: len(grid.columns) - 1])
    return grid


def _grid(title: str | None) -> Table:
    return Table(
        title=title,
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        title_justify="left",
        caption_justify="left",
    )


def _line(row: Mapping) -> Line:
    return row["n"], row["editor"], row["phase"]


def _lines(rows: Sequence[Mapping]) -> list[Line]:
    """By n, then by editor in order, then by phase in order."""
    editors, phases = (
        list(dict.fromkeys(row[name] for row in rows)) for name in ("editor", "phase")
    )
    return sorted(
        dict.fromkeys(map(_line, rows)),
        key=lambda line: (line[0], editors.index(line[1]), phases.index(line[2])),
    )


def _label(line: Line, rows: Sequence[Mapping]) -> Text:
    """The editor, and below it what tells its lines apart."""
    n, editor, phase = line
    label = Text(editor, style="bold")
    below = [f"{n:,}"] if len({row["n"] for row in rows}) > 1 else []
    below += [phase] if len({row["phase"] for row in rows}) > 1 else []
    return label.append("\n" + " ".join(below), style="not bold dim") if below else label


def _cell(row: Mapping | None) -> Text:
    if row is None:
        return Text("-", style="dim")
    mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
    bounds = f"{low:z.0f}-{high:z.0f}" if low >= 0 else f"{low:z.0f} to {high:z.0f}"
    return Text(f"{mean:z.1f}\n").append(bounds, style="dim")


def _gain(row: Mapping | None) -> Text:
    if row is None:
        return Text("-", style="dim")
    gain, low, high = (100 * row[name] for name in ("gain", "gain_low", "gain_high"))
    return Text(f"{gain:+z.1f}\n").append(f"{low:z.0f} to {high:z.0f}", style="dim")


def _number(row: Mapping | None) -> str:
    if row is None:
        return "-"
    if is_measure(row["scorer"]):
        return f"{row['mean']:.4g}"
    return f"{row['count']:,} of {row['records']:,}"


def _seconds(value: float | None) -> Text:
    if value is None:
        return Text("-")
    return Text(f"{value:.2g}" if value < 100 else f"{value:.0f}")
