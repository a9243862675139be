"""The report of one or several runs: one HTML file that needs nothing else.

It asks no network for anything and runs no script but its own, which its policy says; every text in
it, from whatever file or model, is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from datamodules.records import KINDS
from evaluation.report.examples import EACH, MOST, VERDICTS, Example, examples
from evaluation.report.figures import curves_svg, means_svg
from evaluation.report.lines import UNEDITED
from evaluation.report.page import Cell, Section, caption, sections
from evaluation.report.particulars import circumstances, left_out, settings
from evaluation.report.rows import common_scorer
from evaluation.report.scorecard import COSTS, Card, Values, card, meaning, measured
from evaluation.report.stored import StoredRun
from files import write_whole

FILE, TEMPLATE = "report.html", "document.html"
FOLDER = Path(__file__).parent
Profiles = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Part:
    """What the runs of one protocol, about the same model and records, came to.

    Attributes:
        title: protocol, data, model and size.
        scorer: whose means come first and are drawn.
        rows: of all of the runs, editors by the names that they have here.
        first: the table of the scorer.
        others: the tables of the others, of events, and of the costs.
        curves: over the number of edits; empty where there is one number.
        means: of each kind of probe.
    """

    title: str
    scorer: str
    rows: list[dict]
    first: Section
    others: list[Section]
    curves: Markup
    means: Markup


def write(folder: Path, runs: Sequence[StoredRun], profiles: Profiles) -> Path:
    """The report of some runs, whole or not at all; its file.

    Raises:
        ValueError: a profile that cannot be; see `scorecard.checked`.
    """
    path = folder / FILE
    write_whole(path, text(runs, profiles))
    return path


def text(runs: Sequence[StoredRun], profiles: Profiles) -> str:
    """The page."""
    names = editor_names(runs)
    parts = list(_parts(runs, names))
    shown, count = _examples(runs, names, parts)
    script = (FOLDER / "document.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            title=parts[0].title if len(parts) == 1 else ", ".join(run.name for run in runs),
            parts=parts,
            runs=[(run.name, circumstances(run)) for run in runs],
            settings=[(run.name, settings(run)) for run in runs],
            left_out=[(run.name, *left_out(run)) for run in runs],
            card=scorecards(runs, profiles),
            examples=shown,
            examples_count=count,
            examples_each=EACH,
            choices=_choices(shown),
            script=Markup(script),
            policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_writable,
    )
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    return environment


def _writable(value: Any) -> Any:
    """A text without what no file can hold, half a character of a damaged one."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


# several runs in one


def editor_names(runs: Sequence[StoredRun]) -> list[dict[str, str]]:
    """How the editors of each run are called beside those of the others.

    By their names; with that of the run where two runs of a protocol have the same one. The
    unedited model is shown once.
    """
    owners: dict[tuple, list[int]] = defaultdict(list)
    for at, run in enumerate(runs):
        for editor in run.folder.editors:
            owners[_about(run), editor].append(at)
    names = []
    for at, run in enumerate(runs):
        names.append({})
        for editor in run.folder.editors:
            alike = owners[_about(run), editor]
            if editor == UNEDITED and alike[0] != at:
                continue
            alone = len(alike) == 1 or editor == UNEDITED
            names[-1][editor] = editor if alone else f"{editor} ({run.name})"
    return names


def _about(run: StoredRun) -> tuple:
    """What runs of one part have in common."""
    return run.protocol, *run.subject.values()


def _parts(runs: Sequence[StoredRun], names: Sequence[Mapping[str, str]]) -> Iterator[Part]:
    groups: dict[tuple, list[int]] = defaultdict(list)
    for at, run in enumerate(runs):
        groups[_about(run)].append(at)
    for members in groups.values():
        rows = [row for at in members for row in renamed(runs[at].rows, names[at])]
        costs = [cost for at in members for cost in renamed(runs[at].costs, names[at])]
        if rows:
            yield _part(rows, costs)


def renamed(rows: Sequence[Mapping], names: Mapping[str, str]) -> list[dict]:
    """The rows of the editors that have a name here, under it."""
    return [{**row, "editor": names[row["editor"]]} for row in rows if row["editor"] in names]


def _part(rows: list[dict], costs: Sequence[Mapping]) -> Part:
    scorer = common_scorer(rows)
    tables = sections(rows, costs)
    first = next((table for table in tables if table.title == scorer), tables[0])
    return Part(
        caption(rows),
        scorer,
        rows,
        first,
        [table for table in tables if table is not first],
        Markup(curves_svg(rows, scorer)),
        Markup(means_svg(rows, scorer)),
    )


# the scorecard


@dataclass(frozen=True)
class Scorecards:
    """What each profile chooses.

    Attributes:
        cards: of the profiles, in order.
        properties: of the cards: the name, what it is, and the value of each editor.
        scorer: whose means are the shares.
    """

    cards: list[Card]
    properties: list[tuple[str, str, dict[str, str]]]
    scorer: str


def scorecards(runs: Sequence[StoredRun], profiles: Profiles) -> Scorecards | None:
    """None where there is nothing to choose from, or runs are about different things.

    Raises:
        ValueError: a profile that cannot be; see `scorecard.checked`.
    """
    values, scorer = properties(runs)
    if not profiles or len(values) < 2 or len({tuple(run.subject.values()) for run in runs}) > 1:
        return None
    cards = [card(name, weights, values) for name, weights in profiles.items()]
    there = dict.fromkeys(chain.from_iterable(c.weights for c in cards))
    shown = [(n, meaning(n), {e: _measured(n, values, e) for e in values}) for n in there]
    return Scorecards(cards, shown, scorer)


def properties(runs: Sequence[StoredRun]) -> tuple[Values, str]:
    """What was measured of each editor in all of the runs, and by which scorer."""
    names = editor_names(runs)
    named = list(zip(runs, names, strict=True))
    rows = [row for run, called in named for row in renamed(run.rows, called)]
    costs = [
        {**cost, "protocol": run.protocol}
        for run, called in named
        for cost in renamed(run.costs, called)
    ]
    scorer = common_scorer(rows)
    return measured(rows, costs, scorer), scorer


def _measured(name: str, values: Values, editor: str) -> str:
    value = values[editor].get(name)
    if value is None:
        return "-"
    if name in COSTS:
        return f"{value.mean:.3g}"
    return str(Cell(f"{100 * value.mean:.1f}", f"{100 * value.low:.0f} to {100 * value.high:.0f}"))


# examples


def _examples(
    runs: Sequence[StoredRun], names: Sequence[Mapping[str, str]], parts: Sequence[Part]
) -> tuple[list[tuple[str, Example]], int]:
    """Examples of all runs, each with its protocol, and how many answers there are."""
    scorer = common_scorer([row for part in parts for row in part.rows])
    shown, count = [], 0
    for run, called in zip(runs, names, strict=True):
        edited = {editor: name for editor, name in called.items() if editor != UNEDITED}
        of_run, answers = examples(run.lines(), scorer, edited, MOST // len(runs))
        shown += [(run.protocol, example) for example in of_run]
        count += answers
    return shown, count


def _choices(shown: Sequence[tuple[str, Example]]) -> dict[str, list[str]]:
    """What examples can be filtered by, and the values there are."""
    values = {
        "protocol": [protocol for protocol, _ in shown],
        "editor": [example.editor for _, example in shown],
        "kind": [kind for kind in KINDS if any(e.probe == kind for _, e in shown)],
        "verdict": [verdict for verdict in VERDICTS if any(e.verdict == verdict for _, e in shown)],
    }
    return {name: list(dict.fromkeys(texts)) for name, texts in values.items()}
