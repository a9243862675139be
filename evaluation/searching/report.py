"""What a search found: a table, a figure, and a preset that says what it reaches."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from editors.validation import JUDGED
from evaluation.searching.grid import Point, nested
from evaluation.searching.halving import Trial
from files import write_whole


def rows(trials: Sequence[Trial], points: Mapping[str, Point]) -> list[dict]:
    """A row for each candidate: its settings, records, score, and shares with intervals."""
    return [
        {
            "settings": points[trial.name],
            "records": trial.records,
            "score": None if trial.score < 0 else round(trial.score, 6),
            "reason": trial.reason,
            **{kind: trial.share(kind) for kind in JUDGED if trial.values.get(kind)},
        }
        for trial in trials
    ]


def write(folder: Path, title: str, trials: Sequence[Trial], points: Mapping[str, Point]) -> None:
    """``search.json``, ``search.md``, ``search.png`` and, if there is a best one, its preset."""
    found = rows(trials, points)
    write_whole(folder / "search.json", json.dumps(found, indent=1) + "\n")
    write_whole(folder / "search.md", markdown(title, found))
    write_whole(folder / "search.png", picture(title, trials, points))
    if trials[0].score >= 0:
        write_whole(folder / "preset.yaml", preset(title, trials[0], points[trials[0].name]))


def preset(title: str, best: Trial, point: Point) -> str:
    """The settings as a file of configs/preset, with what they reach."""
    reached = ", ".join(f"{k} {_cell(best.share(k))}" for k in JUDGED if best.values.get(k))
    head = [
        "@package editor",
        f"Found by {title}.",
        f"Exact match on {best.records} records, in percent: {reached}.",
        "Chosen among others on these records, so that it will reach a little less on test.",
    ]
    lines = "".join(f"# {' '.join(line.split())}\n" for line in head)
    return lines + yaml.safe_dump(nested(point), sort_keys=False, allow_unicode=True)


def markdown(title: str, found: Sequence[Mapping]) -> str:
    """The table as a page."""
    columns = [*found[0]["settings"], "records", "score", *JUDGED, "reason"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in _cells(row))} |" for row in found]
    note = "Exact match in percent with 95 % intervals over records; the best first."
    return "\n\n".join([f"# {title}", note, "\n".join(lines)]) + "\n"


def table(title: str, found: Sequence[Mapping]) -> Table:
    """The same for the terminal."""
    grid = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for column in (*found[0]["settings"], "records", "score", *JUDGED, "reason"):
        grid.add_column(column, overflow="fold")
    for row in found:
        grid.add_row(*_cells(row))
    return grid


def _cells(row: Mapping) -> list[str]:
    score = "-" if row["score"] is None else f"{row['score']:.3f}"
    shares = [_cell(row[kind]) if kind in row else "-" for kind in JUDGED]
    return [*map(str, row["settings"].values()), str(row["records"]), score, *shares, row["reason"]]


def _cell(share: Sequence[float]) -> str:
    mean, low, high = (100 * value for value in share)
    return f"{mean:.1f} ({low:.0f} to {high:.0f})"


def picture(title: str, trials: Sequence[Trial], points: Mapping[str, Point]) -> bytes:
    """A PNG: score over the first setting, a line for each combination of the others."""
    first, *others = points[trials[0].name]
    values = list(dict.fromkeys(str(point[first]) for point in points.values()))
    lines: dict[str, list[tuple[int, float]]] = {}
    for trial in (trial for trial in trials if trial.score >= 0):
        point = points[trial.name]
        label = ", ".join(f"{name} {point[name]}" for name in others)
        lines.setdefault(label, []).append((values.index(str(point[first])), trial.score))
    with mpl.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(6.4, 3.8), dpi=120, layout="constrained")
        axes = figure.subplots()
        for label, places in lines.items():
            axes.plot(*zip(*sorted(places), strict=True), marker="o", label=label or None)
        best = points[trials[0].name]
        if trials[0].score >= 0:
            place = (values.index(str(best[first])), trials[0].score)
            axes.plot(*place, "o", ms=14, mfc="none", mec="black")
        axes.set_xticks(range(len(values)), values)
        axes.set_xlabel(first)
        axes.set_ylabel("harmonic mean of exact match")
        axes.set_title(title, fontsize=8, wrap=True)
        axes.grid(alpha=0.25)
        if others and lines:
            axes.legend(fontsize=7)
        content = io.BytesIO()
        FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()
