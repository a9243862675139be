"""What causal tracing found, as rows, a table and a figure: effects by block and role of token."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from evaluation.locating.traces import ROLES, Trace
from evaluation.report.intervals import interval, resampled_means
from files import write_whole

COLOURS = MappingProxyType({"hidden": "Purples", "mlp": "Greens", "attention": "Reds"})
TITLES = MappingProxyType(
    {"hidden": "hidden states", "mlp": "feed-forward outputs", "attention": "attention outputs"}
)
DIGITS = 6


def rows(effects: Mapping[str, Tensor], roles: Sequence[str] = ROLES) -> list[dict]:
    """One row for each kind, role and block that has an effect.

    ``effect`` is the mean over facts of the rise in the answer's probability, ``low`` and ``high``
    bound its 95 % bootstrap interval, ``facts`` is how many facts have a token of that role.

    Args:
        effects: for each kind ``[F, L, roles]``, NaN where a fact has no token of a role.
        roles: their names.
    """
    results = []
    for kind, values in ((kind, values.numpy()) for kind, values in effects.items()):
        flat = values.reshape(len(values), -1)
        draws = resampled_means(flat).reshape(-1, *values.shape[1:])
        counts = (~np.isnan(values)).sum(0)
        for place, role in enumerate(roles):
            for block in range(values.shape[1]):
                if counts[block, place]:
                    low, high = interval(draws[:, block, place])
                    results.append(
                        {
                            "kind": kind,
                            "role": role,
                            "block": block,
                            "effect": round(float(np.nanmean(values[:, block, place])), DIGITS),
                            "low": round(low, DIGITS),
                            "high": round(high, DIGITS),
                            "facts": int(counts[block, place]),
                        }
                    )
    return results


def write(
    folder: Path, run: Mapping, results: Sequence[Mapping], traces: Sequence[Trace] = ()
) -> None:
    """``locating.json``, ``.md``, ``.png`` and ``facts.jsonl``, each whole or not at all.

    Args:
        folder: where to.
        run: what was traced, and the recommended block; see `Located.run`.
        results: `rows`.
        traces: each fact's own map, a line of JSON each.
    """
    lines = "".join(json.dumps(trace.line(), ensure_ascii=False) + "\n" for trace in traces)
    write_whole(folder / "facts.jsonl", lines)
    text = json.dumps({**run, "rows": list(results)}, indent=1, ensure_ascii=False)
    write_whole(folder / "locating.json", text + "\n")
    write_whole(folder / "locating.md", markdown(run, results))
    write_whole(folder / "locating.png", picture(run, results))


def caption(run: Mapping) -> str:
    """Model, data and probabilities, in words."""
    return (
        f"{run['model']} · {run['data']} {run['split']} · {run['facts']:,} facts · "
        f"p(answer) {run['clean']:.3f}, under noise {run['corrupted']:.3f}"
    )


def advice(run: Mapping) -> str:
    """The recommended block, in words."""
    if run["layer"] is None:
        return "No recommended layer: feed-forward outputs (mlp) were not traced."
    return (
        f"Recommended layer: {run['layer']}, where feed-forward outputs have the greatest effect "
        f"on the subject ({run['role']})."
    )


def markdown(run: Mapping, results: Sequence[Mapping]) -> str:
    """One table for each kind, roles by blocks."""
    frame = pd.DataFrame(results)
    sections = [
        f"# {caption(run)}",
        advice(run),
        "Rise in the answer's probability when one state is restored under noise, in percentage "
        "points, with 95 % intervals over facts.",
    ]
    for kind, part in frame.groupby("kind", sort=False):
        cells = part.assign(cell=part.apply(_cell, axis=1))
        table = cells.pivot(index="role", columns="block", values="cell")
        table = table.reindex(index=part["role"].unique())
        sections += [f"## {_title(run, str(kind))}", table.to_markdown(disable_numparse=True)]
    return "\n\n".join(sections) + "\n"


def table(run: Mapping, results: Sequence[Mapping]) -> Table:
    """Roles by blocks for the terminal; of each kind and role the greatest effect is bold."""
    blocks = sorted({row["block"] for row in results})
    grid = Table(
        title=f"effect of restoring, percentage points · {caption(run)}",
        caption=advice(run),
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        title_justify="left",
        caption_justify="left",
    )
    grid.add_column("restored", style="bold")
    grid.add_column("token")
    for block in blocks:
        grid.add_column(str(block), justify="right")
    for kind in dict.fromkeys(row["kind"] for row in results):
        of_kind = [row for row in results if row["kind"] == kind]
        for place, role in enumerate(dict.fromkeys(row["role"] for row in of_kind)):
            values = {row["block"]: row["effect"] for row in of_kind if row["role"] == role}
            best = max(values.values())
            cells = [
                Text(f"{100 * values[b]:z.1f}", style="bold" if values[b] == best else "")
                for b in blocks
            ]
            grid.add_row("" if place else kind, role, *cells)
    return grid


def picture(run: Mapping, results: Sequence[Mapping]) -> bytes:
    """A PNG: for each kind a heat map, roles by blocks; the recommended block is framed."""
    kinds = list(dict.fromkeys(row["kind"] for row in results))
    figure = Figure(figsize=(1.5 + 3.6 * len(kinds), 3.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(caption(run), fontsize=9)
    for at, (kind, axes) in enumerate(
        zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True)
    ):
        frame = pd.DataFrame([row for row in results if row["kind"] == kind])
        grid = frame.pivot(index="role", columns="block", values="effect")
        grid = grid.reindex(index=frame["role"].unique())
        top = max(float(grid.to_numpy().max()), 1e-9)
        image = axes.imshow(grid, cmap=COLOURS[kind], vmin=0, vmax=top, aspect="auto")
        ticks = range(0, grid.shape[1], max(1, grid.shape[1] // 8))
        axes.set_xticks(ticks, [str(grid.columns[tick]) for tick in ticks], fontsize=7)
        axes.set_yticks(range(len(grid)), grid.index if at == 0 else [], fontsize=7)
        axes.set_title(_title(run, kind), fontsize=8)
        axes.set_xlabel("block", fontsize=7)
        if kind == "mlp" and run["layer"] is not None:
            corner = (run["layer"] - 0.5, list(grid.index).index(run["role"]) - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, linewidth=1.5))
        bar = figure.colorbar(image, ax=axes)
        bar.ax.tick_params(labelsize=6)
    bar.set_label("rise of the answer's probability", fontsize=7)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _title(run: Mapping, kind: str) -> str:
    window = run["window"]
    wide = "" if kind == "hidden" or window == 1 else f", {window} blocks together"
    return f"{TITLES[kind]}{wide}"


def _cell(row: Mapping) -> str:
    effect, low, high = (100 * row[name] for name in ("effect", "low", "high"))
    return f"{effect:z.1f} ({low:z.1f} to {high:z.1f})"
