"""What a run was made with, and what it left out, as names and texts of its report."""

from __future__ import annotations

import json
from collections.abc import Mapping

from evaluation.report.lines import UNEDITED
from evaluation.report.page import MEANINGS
from evaluation.report.rows import ALL, EVENTS
from evaluation.report.stored import StoredRun

LEFT_OUT = 200
"""Records that are named of those that were left out."""


def circumstances(run: StoredRun) -> list[tuple[str, str]]:
    """What was run, with what and on what: names and values."""
    model, data = run.about.get("model", {}), run.about.get("data", {})
    identity = run.identity
    editors = ", ".join(editor for editor in run.folder.editors if editor != UNEDITED)
    facts = [
        ("folder", str(run.folder.path)),
        ("editors", editors),
        ("protocol", f"{identity['protocol']}: {_inline(_protocol(identity))}"),
        ("model", f"{model.get('name', '')} ({_inline(_without(model, 'name', 'fingerprint'))})"),
        ("fingerprint of the model", str(identity.get("model", ""))),
        ("data", f"{identity.get('data', '')}, split {identity.get('split', '')}"),
        ("records", f"{data.get('records', 'not known')}, digest {identity.get('records', '')}"),
        ("licence of the data", str(data.get("licence", "not known"))),
    ]
    for machine in run.about.get("machines", []):
        facts.append(("machine", _inline(_without(machine, "versions", "began"))))
        facts.append(("versions", _inline(machine.get("versions", {}))))
        facts.append(("began", str(machine.get("began", ""))))
    return facts


def _protocol(identity: Mapping) -> dict:
    known = ("protocol", "model", "data", "split", "records", "editors")
    return {name: value for name, value in identity.items() if name not in known}


def _without(values: Mapping, *names: str) -> dict:
    return {name: value for name, value in values.items() if name not in names}


def _inline(values: Mapping) -> str:
    """Names and values in a line; what is empty is left out."""
    there = {name: value for name, value in values.items() if value not in (None, "", [], {})}
    return ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in there.items())


def _value(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, Mapping):
        return f"({_inline(value)})"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def settings(run: StoredRun) -> list[tuple[str, str]]:
    """Of each editor all that decides its edits, as JSON."""
    editors = run.identity["editors"]
    return [
        (name, json.dumps(settings, indent=1, ensure_ascii=False))
        for name, settings in editors.items()
        if name != UNEDITED
    ]


def left_out(run: StoredRun) -> tuple[list[tuple[str, str]], list[tuple[str, str]], int]:
    """What a run says nothing about, and why.

    Returns:
        Records that were not used, the first of them; what was not edited or not judged; and how
        many records more there are.
    """
    data = run.about.get("data", {})
    left = [(str(name), str(why)) for name, why in data.get("left_out", {}).items()]
    left += [
        (f"{count:,} of {split}", "a subject of theirs is in a better split")
        for split, count in data.get("dropped", {}).items()
        if count
    ]
    rows = [row for row in run.rows if row["probe"] == ALL and row["scorer"] in EVENTS]
    events = [(f"{row['editor']}, n = {row['n']:,}", _event(row)) for row in rows]
    return left[:LEFT_OUT], events, max(0, len(left) - LEFT_OUT)


def _event(row: Mapping) -> str:
    what, count = row["scorer"].replace("_", " "), f"{row['count']:,} of {row['records']:,}"
    return f"{what}: {count}. {row.get('reason') or MEANINGS[row['scorer']]}"
