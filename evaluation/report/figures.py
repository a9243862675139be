"""Figures of a page: drawn as SVG that takes the page's own colours of text and background."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datamodules.records import KINDS
from evaluation.report.curves import figure
from evaluation.report.lines import UNEDITED
from evaluation.report.rows import ALL, SCORE

INK = "#010203"
"""Stands for the colour of text until the figure is on a page."""
GROUP_COLOURS = MappingProxyType(
    {
        "request": "#2e9e4f",
        "generalization": "#2e9e4f",
        "portability": "#b455c9",
        "locality": "#1f93b8",
        "depth": "#c98a1b",
    }
)
"""Each is to be seen on white and on black."""
STYLE = MappingProxyType(
    dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    )
    | {
        "svg.fonttype": "none",
        "text.parse_math": False,  # a dollar in a name is a dollar
        "axes.facecolor": "none",
        "legend.labelcolor": INK,
        "font.family": "sans-serif",
    }
)
COLUMNS, WIDTH, LINE = 4, 3.1, 0.19  # panels beside each other; inches: of each, of an editor


def curves_svg(rows: Sequence[Mapping], scorer: str) -> str:
    """Scores over the number of edits; empty where there is one number only."""
    if len({row["n"] for row in rows}) < 2:
        return ""
    with mpl.rc_context(cast(Any, dict(STYLE))):
        drawn = figure(rows, scorer)
        drawn.suptitle("")
        return _svg(drawn)


def means_svg(rows: Sequence[Mapping], scorer: str) -> str:
    """For each probe kind the mean and the interval of each editor; at the largest n, at its end.

    Empty where no kind has a row.
    """
    by_n = sorted(rows, key=lambda row: row["n"])
    last = {(row["editor"], row["probe"], row["scorer"]): row for row in by_n}
    editors = [e for e in dict.fromkeys(row["editor"] for row in rows) if e != UNEDITED]
    kinds = [(kind, scorer) for kind in KINDS] + [(ALL, SCORE)]
    panels = [k for k in kinds if any((e, *k) in last for e in editors)]
    if not panels:
        return ""
    lines = -(-len(panels) // COLUMNS)
    height = 0.55 + LINE * (len(editors) + 1)
    with mpl.rc_context(cast(Any, dict(STYLE))):
        drawn = Figure(figsize=(COLUMNS * WIDTH, lines * height), layout="constrained")
        grid = drawn.subplots(lines, COLUMNS, squeeze=False)
        for at, axes in enumerate(grid.flat):
            if at >= len(panels):
                axes.remove()
                continue
            values = [last.get((editor, *panels[at])) for editor in editors]
            unedited = last.get((UNEDITED, *panels[at]))
            _panel(axes, panels[at][0], editors if at % COLUMNS == 0 else [], values, unedited)
        return _svg(drawn)


def _panel(
    axes: Axes,
    kind: str,
    editors: Sequence[str],
    values: Sequence[Mapping | None],
    unedited: Mapping | None,
) -> None:
    """A point and an interval for each editor, and a line where the unedited model is."""
    colour = GROUP_COLOURS[KINDS[kind].group] if kind in KINDS else "#8a8f98"
    for place, row in enumerate(values):
        if row is not None:
            low, mean, high = (100 * row[name] for name in ("low", "mean", "high"))
            axes.plot([low, high], [place, place], color=colour, linewidth=2.2, alpha=0.5)
            axes.plot([mean], [place], color=colour, marker="o", markersize=4.5)
    if unedited is not None:
        axes.axvline(100 * unedited["mean"], color="#8a8f98", linewidth=1, linestyle=":")
    title = "harmonic score" if kind == ALL else kind.replace("_", " ")
    axes.set_title(title, fontsize=9)
    axes.set_yticks(range(len(values)), editors or [""] * len(values), fontsize=8)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_xlim(-3, 103)
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.grid(alpha=0.25)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _svg(drawn: Figure) -> str:
    """The figure as an element that can stand in a page, with names that no other one has."""
    drawn.patch.set_alpha(0)
    content = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "errata"}):
        drawn.savefig(content, format="svg", metadata=dict.fromkeys(("Date", "Creator")))
    text = content.getvalue()
    svg = text[text.index("<svg") :].replace(INK, "currentColor")
    return _with_own_names(svg, hashlib.sha256(svg.encode()).hexdigest()[:8])


def _with_own_names(svg: str, name: str) -> str:
    """Elements refer to each other by names, which are the page's."""
    for before in (' id="', ' xlink:href="#', "url(#"):
        svg = svg.replace(before, f"{before}{name}-")
    return svg
