"""How scores move with the number of edits: figures, and scalars for TensorBoard."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from datamodules.records import KINDS
from evaluation.report.health import PERPLEXITY, RELATIVE_NORM
from evaluation.report.lines import IMMEDIATE, UNEDITED
from evaluation.report.page import caption
from evaluation.report.rows import ALL, SCORE, common_scorer, is_measure, scorer_of
from files import write_whole

COLUMNS, WIDTH, HEIGHT = 4, 3.2, 2.6  # of panels; inches
DECADES = 30  # from this ratio on only powers of 10 are written


def final(rows: Sequence[Mapping], split: str, scorer: str | None = None) -> dict[str, float]:
    """``split/editor/probe`` to the mean of a scorer, of the largest n and its last phase.

    The scorer is here and below, unless it is named, the first that all editors have; kinds of the
    group ``depth`` have their own.
    """
    scorer = scorer or common_scorer(rows)
    ordered = sorted(rows, key=lambda row: row["n"])
    scored = (row for row in ordered if row["scorer"] == scorer_of(row["probe"], scorer))
    return {f"{split}/{row['editor']}/{row['probe']}": row["mean"] for row in scored}


def scalars(
    rows: Sequence[Mapping], split: str, scorer: str | None = None
) -> dict[int, dict[str, float]]:
    """For each n ``split_phase/probe/editor`` to the scorer's mean, and what `health.of` measured.

    Nothing if there is one n only, and nothing to be seen over it.
    """
    scorer = scorer or common_scorer(rows)
    values: dict[int, dict[str, float]] = defaultdict(dict)
    for row in rows:
        judged = row["scorer"] == scorer_of(row["probe"], scorer)
        if judged or is_measure(row["scorer"]):
            name = row["probe"] if judged else row["scorer"]
            values[row["n"]][f"{split}_{row['phase']}/{name}/{row['editor']}"] = row["mean"]
    return dict(sorted(values.items())) if len(values) > 1 else {}


def write(rows: Sequence[Mapping], path: Path, scorer: str | None = None) -> None:
    """Draw the rows as a PNG, whole or not at all; nothing if there is one n only."""
    if len({row["n"] for row in rows}) < 2:
        return
    image = io.BytesIO()
    FigureCanvasAgg(figure(rows, scorer)).print_png(image)
    write_whole(path, image.getvalue())


def figure(rows: Sequence[Mapping], scorer: str | None = None) -> Figure:
    """A panel for each probe kind, the harmonic score, perplexity and norm; a line per editor.

    Across: n, the requests of an edit or the edits so far. Solid: what was asked at n; dashed: what
    was asked right after each of the edits, where both are there. Bands: 95 % intervals.
    """
    scorer = scorer or common_scorer(rows)
    panels = [(kind, scorer_of(kind, scorer)) for kind in KINDS] + [(ALL, SCORE)]
    panels += [(ALL, PERPLEXITY), (ALL, RELATIVE_NORM)]
    there = {(row["probe"], row["scorer"]) for row in rows}
    panels = [panel for panel in panels if panel in there]
    editors = list(dict.fromkeys(row["editor"] for row in rows))
    lines = -(-len(panels) // COLUMNS)
    drawn = Figure(figsize=(COLUMNS * WIDTH, lines * HEIGHT + 0.8), layout="constrained", dpi=110)
    for axes, (probe, name) in zip(
        drawn.subplots(lines, COLUMNS, squeeze=False).flat, panels, strict=False
    ):
        panel_rows = [row for row in rows if (row["probe"], row["scorer"]) == (probe, name)]
        for number, editor in enumerate(editors):
            colour = "0.55" if editor == UNEDITED else f"C{number}"
            _draw(axes, [row for row in panel_rows if row["editor"] == editor], editor, colour)
        _dress(axes, name if probe == ALL else probe, [row["n"] for row in rows])
        _scale(axes, log=is_measure(name))
    for axes in list(drawn.axes)[len(panels) :]:
        axes.remove()
    handles = {}
    for axes in drawn.axes:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    drawn.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=6, frameon=False
    )
    title = scorer.replace("_", " ")
    drawn.suptitle(f"{caption(rows)}\n{title} and harmonic score in percent", fontsize=10)
    return drawn


def _draw(axes: Axes, rows: Sequence[Mapping], editor: str, colour: str) -> None:
    """One editor's line, and a dashed one of what was asked at once if there is another phase."""
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    for phase in phases:
        points = sorted((row for row in rows if row["phase"] == phase), key=lambda row: row["n"])
        factor = 1 if is_measure(points[0]["scorer"]) else 100
        n = [row["n"] for row in points]
        mean, low, high = ([factor * row[key] for row in points] for key in ("mean", "low", "high"))
        at_once = len(phases) > 1 and phase == IMMEDIATE
        label = f"{editor}, right after its edit" if at_once else editor
        axes.plot(
            n,
            mean,
            color=colour,
            marker="." if editor != UNEDITED else None,
            linestyle="--" if at_once else "-",
            linewidth=1.2,
            label=label,
        )
        if not at_once:
            axes.fill_between(n, low, high, color=colour, alpha=0.15, linewidth=0)


def _scale(axes: Axes, log: bool) -> None:
    """Up: percent, or what has no bound."""
    if not log:
        axes.set_ylim(-3, 103)
        return
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    low, high = axes.get_ylim()
    axes.yaxis.set_minor_formatter("{x:g}" if high < DECADES * low else NullFormatter())


def _dress(axes: Axes, title: str, n: Sequence[int]) -> None:
    axes.set_title(title.replace("_", " "), fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(0.9 * min(n), 1.1 * max(n))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", labelsize=8)
    axes.set_xlabel("n", fontsize=8)
    axes.grid(alpha=0.25)
