"""How far a run's judge agrees with labels: ``judge.json`` in its folder, and a row of results."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from evaluation.report.intervals import wilson
from files import write_whole
from scoring.judging.agreement import agreement
from scoring.judging.judge import Judge

log = logging.getLogger(__name__)

FILE = "judge.json"


def write(folder: Path, judge: Judge) -> None:
    """Ask the judge about the labelled texts; what it says is in the cache from then on."""
    found = asdict(agreement(judge))
    log.info("judge: agrees with %(agreed)s of the %(judged)s labels, of %(asked)s asked", found)
    write_whole(folder / FILE, json.dumps({"judge": judge.identity(), **found}, indent=1) + "\n")


def numbers(folder: Path) -> dict[str, object]:
    """What the row of the agreement holds beside names; nothing if no judge was asked."""
    if not (folder / FILE).is_file():
        return {}
    return row(json.loads((folder / FILE).read_text(encoding="utf-8")))


def row(found: Mapping) -> dict[str, object]:
    """The same of what the file holds; shares are of the texts that the judge said anything of."""
    agreed, judged, asked = (found[name] for name in ("agreed", "judged", "asked"))
    low, high = wilson(agreed / judged, judged) if judged else (0.0, 1.0)
    name = found["judge"].get("model") or found["judge"]["judge"]
    silent = f", no verdict on {asked - judged} of {asked}" if judged < asked else ""
    return {
        "mean": round(agreed / judged, 6) if judged else 0.0,
        "low": round(low, 6),
        "high": round(high, 6),
        "count": agreed,
        "records": judged,
        "reason": f"{name}, kappa {found['kappa']:.2f}{silent}",
    }
