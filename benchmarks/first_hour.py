"""What a first hour with Errata takes: walks the README in an empty folder and times each step.

``python benchmarks/first_hour.py``: one fact from Python, 300 facts from a CSV file on Atlas with a
check, an adapter and a merged model, the tutorial, and README's first benchmark with the editors
that ship. ``--install`` makes a fresh environment first, ``--docs`` builds the site of the pages
(both from the package index), ``--train`` trains MEND.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
FACTS = 300
LIMIT = "data.limit=100"
PYTHON = """
import json, time
began = time.perf_counter()
import errata
imported = time.perf_counter()
model = errata.load("atlas")
loaded = time.perf_counter()
fact = errata.Request("Gothenburg is a city in", "Gothenburg", "Norway")
edit = errata.edit(model, "rome", [fact])
answer = model.with_edit(edit).generate(fact.prompt)
edit.save("gothenburg.safetensors")
made = time.perf_counter()
edit.check()
checked = time.perf_counter()
print(json.dumps({"answer": answer, "repr": repr(edit), "import": imported - began,
    "load": loaded - imported, "edit, ask, save": made - loaded, "check": checked - made}))
"""


@dataclass
class Step:
    """What was done, how long it took, and what came out."""

    name: str
    seconds: float
    result: str = ""
    most: float | None = None

    def line(self) -> str:
        limit = "" if self.most is None else f"at most {self.most:.0f}"
        return f"| {self.name} | {self.seconds:.1f} | {limit} | {self.result} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--install", action="store_true", help="into a fresh environment, by pip")
    parser.add_argument("--docs", action="store_true", help="build the site of the pages")
    parser.add_argument("--train", action="store_true", help="train MEND")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="errata-") as folder:
        steps = walk(Path(folder), arguments)
    print("\n| step | seconds | | result |\n|---|---|---|---|")
    print("\n".join(step.line() for step in steps))


def walk(folder: Path, arguments: argparse.Namespace) -> list[Step]:
    """All steps, one after another."""
    steps, python = [], sys.executable
    if arguments.install:
        python = str(folder / "venv/bin/python")
        steps.append(timed("install", lambda: install(folder)))
    steps += one_fact(folder, python)
    write_facts(folder / "facts.csv")
    many = (
        "task=apply requests=facts.csv apply.export=adapter apply.merge=merged "
        "hydra.run.dir=applied"
    )
    steps.append(timed(f"edit.py {many}", lambda: script(folder, python, "edit", many), 120))
    found = json.loads((folder / "applied/check.json").read_text())
    said = sum(fact["request"]["right"] for fact in found["facts"])
    kept = sum(other["right"] for other in found["bystanders"])
    steps[-1].result = (
        f"{said} of {len(found['facts'])} facts said, "
        f"{kept} of {len(found['bystanders'])} others as before"
    )
    steps.append(timed("tutorial.ipynb", lambda: tutorial(folder, python)))
    steps.append(timed(f"edit.py {LIMIT}", lambda: script(folder, python, "edit", LIMIT), 300))
    if arguments.docs:
        site = ["-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder / "site")]
        steps.append(timed("mkdocs build", lambda: run([python, *site], ROOT), 60))
    if arguments.train:
        mend = "editor=mend"
        steps.append(timed("train.py editor=mend", lambda: script(folder, python, "train", mend)))
    return steps


def timed(name: str, do: Callable[[], object], most: float | None = None) -> Step:
    start = time.perf_counter()
    do()
    return Step(name, time.perf_counter() - start, most=most)


def install(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip = [folder / "venv/bin/python", "-m", "pip", "install", "--quiet", "-e", f"{ROOT}[docs]"]
    subprocess.run(pip, check=True)


def one_fact(folder: Path, python: str) -> list[Step]:
    """One fact from Python; the seconds are those that the program says of itself."""
    done = run([python, "-c", PYTHON], folder)
    said = json.loads(done.splitlines()[-1])
    print(said["repr"])
    names = ("import", "load", "edit, ask, save", "check")
    steps = [Step(f"Python: {name}", said[name]) for name in names]
    steps[2].result, steps[2].most = said["answer"].strip(), 10
    return steps


def tutorial(folder: Path, python: str) -> None:
    """The notebook's cells as one program."""
    cells = json.loads((ROOT / "docs/tutorial.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    run([python, "-c", "\n".join(code)], folder)


def write_facts(path: Path) -> None:
    """Facts of Atlas's test split that are to become others, as a person would list them."""
    sys.path.insert(0, str(ROOT))
    from datamodules.atlas.data import AtlasData

    records = AtlasData(limit=FACTS).records("test")
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "subject", "target_new"])
        for record in records:
            request = record.requests[0]
            table.writerow([request.prompt, request.subject, request.target])


def script(folder: Path, python: str, name: str, words: str) -> None:
    print(run([python, str(ROOT / f"{name}.py"), *shlex.split(words)], folder))


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
