"""Whether two checkouts edit alike, to the last digit, by their command lines alone.

    python benchmarks/regression.py record old --repo ../old
    python benchmarks/regression.py record new
    python benchmarks/regression.py compare old new

`record` runs every editor of the checkout's `configs/editor` on Atlas under every protocol, one
process and one thread at a time, and keeps what the answers say in a folder, a file for each editor
and protocol; what is there is not run again. Trained editors are trained for a few steps first.
`compare` prints how many lines of answers and rows of results are equal, and the first that differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

# What a command line is called, for each of the checkouts that --words can name.
OLD = {
    "train": "train.py editor={editor} seed=0 trainer.max_steps=20 trainer.val_check_interval=20 "
    "trainer.limit_val_batches=1 ++trainer.num_sanity_val_steps=0 hydra.run.dir={folder}",
    "train malmen": " trainer.max_steps=4 trainer.val_check_interval=4",
    "edit": "edit.py editors=[{editor}] data.limit=64 hydra.run.dir={folder}",
    "checkpoint": "checkpoints/last.ckpt",
    "single": " protocol=single",
    "batch": " protocol=batch protocol.sizes=[16]",
    "sequential": " protocol=sequential protocol.length=16",
}
WORDS = {"old": OLD, "new": OLD | {}}

PROTOCOLS = "single", "batch", "sequential"
TRAINED = "mend", "ke", "malmen", "serac"
SWITCHES = "OMP_NUM_THREADS MKL_NUM_THREADS HF_HUB_OFFLINE PYTHONDONTWRITEBYTECODE"
LINE_KEY = "n", "step", "phase", "record", "index"
LINE = LINE_KEY + tuple(
    "probe prompt target contrast answer before generated generated_before nll contrast_nll "
    "disturbed exact_match token_accuracy probability_success probability_difference "
    "generation_exact_match".split()
)
ROW_KEY = "editor", "n", "step", "phase", "probe", "scorer"
ROW = *ROW_KEY, "mean", "low", "high"
SHOWN, LAST = 5, 8  # differences of an editor under a protocol; lines of a run that failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    recording, comparing = commands.add_parser("record"), commands.add_parser("compare")
    recording.add_argument("folder", type=Path, help="where the records go")
    recording.add_argument("--repo", type=Path, default=Path(__file__).resolve().parents[1])
    recording.add_argument("--words", choices=WORDS, default="old", help="of the command line")
    recording.add_argument("--editors", help="names with commas; default: all")
    recording.add_argument("--protocols", default=",".join(PROTOCOLS))
    recording.add_argument("--work", type=Path, help="for runs and caches; default: a new folder")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    given = parser.parse_args()
    if given.command == "compare":
        sys.exit(compare(given.old, given.new))
    checkout = Checkout(given.repo, given.work, WORDS[given.words])
    editors = given.editors.split(",") if given.editors else checkout.editors()
    sys.exit(record(checkout, given.folder, editors, given.protocols.split(",")))


class Checkout:
    """A checkout's scripts, run in a folder of their own, where their cache of moments lies too."""

    def __init__(self, repo: Path, work: Path | None, words: dict[str, str]):
        self.repo, self.words = repo.resolve(), words
        self.work = Path(work or tempfile.mkdtemp(prefix="regression_")).resolve()
        self.work.mkdir(parents=True, exist_ok=True)

    def editors(self) -> list[str]:
        names = sorted(path.stem for path in (self.repo / "configs" / "editor").glob("*.yaml"))
        return [name for name in names if not name.startswith("pretraining")]

    def answers(self, editor: str, protocol: str) -> dict[str, list[dict]]:
        """The run's lines and rows, with their stable fields; RuntimeError if there are none."""
        words = self.words["edit"] + self.words[protocol]
        if editor in TRAINED:
            words += f" ckpt={self.checkpoint(editor)}"
        folder = self.run(words, editor, self.work / "runs" / f"{editor}_{protocol}")
        files = sorted((folder / "answers" / editor).glob("*.jsonl"))
        if not files:
            raise RuntimeError(f"no answers in {folder}")
        lines = (json.loads(line) for file in files for line in file.read_text().splitlines())
        rows = (row for row in json.loads((folder / "results.json").read_text()) if "mean" in row)
        return {"lines": [stable(o, LINE) for o in lines], "rows": [stable(o, ROW) for o in rows]}

    def checkpoint(self, editor: str) -> Path:
        """A trained editor's checkpoint, trained now if it is not there."""
        folder = self.work / "trained" / editor
        if not (folder / "finished").is_file():
            self.run(self.words["train"] + self.words.get(f"train {editor}", ""), editor, folder)
            (folder / "finished").touch()
        return folder / self.words["checkpoint"]

    def run(self, words: str, editor: str, folder: Path) -> Path:
        """Runs a script afresh into the folder; RuntimeError, its last lines, if it fails."""
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left would be kept
        script, *overrides = words.format(editor=editor, folder=folder).split()
        command = [sys.executable, self.repo / script, *overrides]
        switches = dict.fromkeys(SWITCHES.split(), "1") | {"PYTHONPATH": str(self.repo)}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(command, cwd=self.work, env=os.environ | switches, **streams)
        if done.returncode:
            raise RuntimeError("\n".join(done.stdout.strip().splitlines()[-LAST:]))
        return folder


def record(checkout: Checkout, folder: Path, editors: list[str], protocols: list[str]) -> int:
    """Writes what is not there yet; 1 if a run failed."""
    folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for editor, protocol in product(editors, protocols):
        path, started = folder / f"{editor}_{protocol}.json", time.perf_counter()
        if path.is_file():
            continue
        try:
            answers = checkout.answers(editor, protocol)
        except RuntimeError as error:  # the others may go well
            failed = 1
            print(f"{editor} {protocol}: FAILED: {error}", flush=True)
            continue
        digest = hashlib.sha256(json.dumps(answers, sort_keys=True).encode()).hexdigest()
        path.with_suffix(".part").write_text(json.dumps({"sha256": digest} | answers, indent=0))
        path.with_suffix(".part").replace(path)
        size, seconds = len(answers["lines"]), time.perf_counter() - started
        print(f"{editor} {protocol}: {size} lines, {seconds:.0f} s", flush=True)
    print(f"runs: {checkout.work}")
    return failed


def stable(line: dict, fields: tuple[str, ...]) -> dict:
    """The fields that every version writes, in one representation."""
    if "judged" in line:
        disturbed = {None: False, "disturbed": True}
        line = line | {"disturbed": disturbed.get(line["judged"], line["judged"])}
    return {field: line[field] for field in fields if field in line}


def compare(old: Path, new: Path) -> int:
    """Prints what differs; 1 if anything does, or if NEW lacks a record of OLD."""
    failed = 0
    for path in sorted(old.glob("*.json")) or sys.exit(f"{old}: there are no records in it"):
        if not (new / path.name).is_file():
            failed = 1
            print(f"{path.stem}: MISSING in {new}")
            continue
        one, other = (json.loads((folder / path.name).read_text()) for folder in (old, new))
        for part, key in (("lines", LINE_KEY), ("rows", ROW_KEY)):
            before, after = keyed(one[part], key), keyed(other[part], key)
            changed, total = list(differences(before, after)), len(before | after)
            failed |= bool(changed)
            print(f"{path.stem}: {total - len(changed)} of {total} {part} equal")
            print("".join(f"    {difference}\n" for difference in changed[:SHOWN]), end="")
    return failed


def keyed(lines: list[dict], key: tuple[str, ...]) -> dict[tuple, dict]:
    """Lines by what they are about and how many such came before."""
    seen, about = Counter(), {}
    for line in lines:
        where = tuple(line.get(field) for field in key)
        about[*where, seen[where]] = line
        seen[where] += 1
    return about


def differences(old: dict[tuple, dict], new: dict[tuple, dict]) -> Iterator[str]:
    """What differs, and the first field that does; the fields of old ones alone count."""
    for where in old | new:
        if not (where in old and where in new):
            yield f"{where}: only in {'old' if where in old else 'new'}"
            continue
        for field, value in old[where].items():
            other = new[where].get(field, "(no such field)")
            if value != other and (value == value or other == other):  # both may be NaN
                yield f"{where}: {field}: {value!r} -> {other!r}"
                break


if __name__ == "__main__":
    main()
