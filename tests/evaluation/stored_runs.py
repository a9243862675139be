"""Runs that are through, of answers that a test writes down."""

from evaluation.folder import RunFolder
from evaluation.report import page
from evaluation.report.rows import RUN, SCORER_NAMES
from evaluation.report.stored import StoredRun

ABOUT = dict(zip(RUN, ["rome", "m", "d", "test", "single", 1, 1, "immediate"], strict=False))
ABOUT |= {"end": "none", "render": "text", "asked": "text", "free": "16 tokens"}
COST = {"device": "cpu", "preparation_seconds": 1.0, "requests": 4, "edits": 4, "at_once": 4}
COST |= {"edit_seconds": 2.0, "peak_gib": 1.5, "probes": 40, "probe_seconds": 4.0, "health": {}}
COST |= {"failures": [], "overruled": [], "overruled_requests": 0}


def line(editor, record, kind="reliability", value=1.0, text="Sweden", **run):
    """An answer."""
    scores = dict.fromkeys(SCORER_NAMES) | {"exact_match": value, "token_accuracy": value}
    said = dict.fromkeys(("prompt", "target", "answer", "before", "generated"), text)
    said |= {"generated_before": text, "contrast": None, "nll": 1.0, "contrast_nll": None}
    own = {"record": record, "index": 0, "probe": kind, "judged": None, "any_of": "", "mentions": 1}
    return {**ABOUT, **run, "editor": editor, **own, **said, **scores}


def stored(path, lines, **identity):
    """The run in a folder: these answers of its editors, those of each n and phase together."""
    folder = RunFolder(path)
    editors = list(dict.fromkeys(line["editor"] for line in lines))
    about = {"protocol": lines[0]["protocol"], "model": "f", "data": "d", "split": "test"}
    about |= {"records": "digest", **identity, "editors": {editor: {} for editor in editors}}
    folder.claim(about)
    for editor in editors:
        own = [line for line in lines if line["editor"] == editor]
        for at, n in enumerate(sorted({line["n"] for line in own})):
            chunk = [line for line in own if line["n"] == n]
            run = {name: chunk[0][name] for name in RUN}
            folder.add(editor, at, chunk, {**COST, "run": run})
    page.write(folder)
    return StoredRun.read(folder.path)
