"""Kills, full disks, two processes: a run goes on to the same bits, and nothing of it is lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from scripts import ROOT, call

QUIET = ("++trainer.enable_progress_bar=false", "++trainer.enable_model_summary=false")
DATA = ("data.limit=12", "++data.variants=1", "protocol.generate=[]", "editors=[ft_m]", *QUIET)
EDIT = ("edit", *DATA, "++settings.ft_m.steps=2")
STATISTICS = (
    *("edit", "editors=[rome]", *DATA[:3], *QUIET, "++corpus.texts=300", "data.limit=2"),
    *("++settings.rome.search.steps=2", "++settings.rome.contexts.texts=fixed"),
)
RUNS = {
    "training": (
        *("train", "editor=mend", "editor.rank=4", "trainer.max_steps=12", "data.batch_size=2"),
        *("trainer.val_check_interval=4", "trainer.limit_val_batches=1", "++data.variants=1"),
        *("editor.training.statistics_edits=8", "callbacks.last.every_n_steps=1", *QUIET),
    ),
    "single": (*EDIT, "protocol.records_per_chunk=2"),
    "batch": (*EDIT, "protocol=batch", "protocol.sizes=[1,4,12]", "protocol.records_per_chunk=2"),
    "sequential": (*EDIT, "protocol=sequential", "protocol.checkpoints=[1,3,6,9,12]"),
    "statistics": STATISTICS,
}
KILLS = {signal.SIGKILL: 20, signal.SIGTERM: 10}
"""Of each kind of run."""


def arguments_of(kind, folder):
    cache = [f"++settings.rome.moments.cache_folder={folder}.moments"]
    name, *arguments = RUNS[kind]
    return name, [*arguments, *(cache if kind == "statistics" else [])]


def forked(name, arguments, log):
    """The process of a script, which finds everything imported."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = call(name, *arguments)
    finally:
        os._exit(code)


def begun(folder, name):
    """Whether there is something to go on from."""
    needed = "checkpoints/last.ckpt" if name == "train" else "config.yaml"
    return (folder / needed).is_file()


def next_arguments(folder, name, arguments):
    """What goes on with a run; what begins it where there is nothing to go on from yet."""
    if begun(folder, name):
        return [f"resume={folder}", f"hydra.run.dir={folder.parent}/unused"]
    if folder.exists():
        subprocess.run(["rm", "-r", str(folder)], check=True)
    return [*arguments, f"hydra.run.dir={folder}"]


def outcome(folder, name):
    """What has to be the same to the bit."""
    if name == "train":
        held = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
        tensors = {n: t.tolist() for n, t in held["state_dict"].items()}
        best = (folder / "results.json").read_text()
        return held["global_step"], tensors, str(held["optimizer_states"]), best
    results = json.loads((folder / "results.json").read_text())
    answers = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.glob("answers/*/*.jsonl")
    }
    return results, answers


def finish(folder, name, arguments, log):
    """The run gone on with to its end, and how long that took."""
    start = time.monotonic()
    _, status = os.waitpid(forked(name, next_arguments(folder, name, arguments), log), 0)
    assert os.waitstatus_to_exitcode(status) == 0, log.read_text()[-3000:]
    return time.monotonic() - start


def drafts(folder):
    return [
        path
        for path in folder.glob("**/.*")
        if path.name not in (".lock", ".owner", ".moments") and path.exists()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_killed_runs_end_the_same(kind, tally, tmp_path):
    """A case is a kill that landed: one that comes when the run is through is drawn again."""
    counts, log, rng = tally(f"kills, {kind}"), tmp_path / "log", random.Random(kind)
    name, arguments = arguments_of(kind, tmp_path / "whole")
    seconds = finish(tmp_path / "whole", name, arguments, log)
    right = outcome(tmp_path / "whole", name)
    signals = [number for number, count in KILLS.items() for _ in range(count)]
    rng.shuffle(signals)
    round_ = 0
    while signals:
        folder = tmp_path / f"run{round_}"
        _, arguments = arguments_of(kind, folder)
        for _ in range(min(5, len(signals))):
            process = forked(name, next_arguments(folder, name, arguments), log)
            time.sleep(rng.uniform(0.02, 0.8) * seconds)
            os.kill(process, signals[-1])
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            if code == 0:
                break
            assert code in (-signals[-1], 128 + signals[-1]), log.read_text()[-3000:]
            counts.cases += 1
            signals.pop()
        finish(folder, name, arguments, log)
        if outcome(folder, name) != right:
            counts.accepted.append(f"{folder}: other results")
        round_ += 1
    counts.tracebacks += [line for line in log.read_text().splitlines() if "Traceback" in line]


@pytest.fixture
def disk(tmp_path):
    """``disk(kilobytes)``: a file system of that size, or the one there is with another size."""
    place = tmp_path / "disk"
    place.mkdir()

    def resize(kilobytes):
        option = f"size={kilobytes}k" + (",remount" if place.is_mount() else "")
        command = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
        return place

    yield resize
    while place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "places"), [("training", 8), ("single", 6), ("sequential", 6)])
def test_a_full_disk_loses_nothing(kind, places, disk, tally, tmp_path):
    """At 20 places in all: the error is a line, no draft stays, and the run goes on to its end."""
    counts, log = tally(f"full disks, {kind}"), tmp_path / "log"
    name, arguments = arguments_of(kind, tmp_path / "whole")
    finish(tmp_path / "whole", name, arguments, log)
    right = outcome(tmp_path / "whole", name)
    used = sum(path.stat().st_size for path in (tmp_path / "whole").glob("**/*") if path.is_file())
    for place in range(places):
        log.write_text("")
        here = disk(max(8, round((place + 0.5) / places * 0.9 * used / 1024)))
        folder = here / "run"
        process = forked(name, [*arguments, f"hydra.run.dir={folder}"], log)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        text = log.read_text()
        counts.cases += code == 1
        assert code in (0, 1), text[-3000:]
        assert code == 0 or "No space left on device" in text.strip().splitlines()[-1], text[-3000:]
        assert drafts(here) == []
        disk(64 * 1024)
        finish(folder, name, arguments, log)
        if outcome(folder, name) != right:
            counts.accepted.append(f"place {place}: other results")
        subprocess.run(["umount", "-l", str(here)], check=True)
    assert counts.cases


@pytest.mark.slow
def test_of_two_processes_in_one_folder_one_says_why_not(tally, tmp_path):
    """Started at once, again and again."""
    counts = tally("two processes in one folder")
    name, arguments = arguments_of("single", tmp_path / "run")
    for number in range(3):
        folder = tmp_path / f"run{number}"
        command = [sys.executable, str(ROOT / f"{name}.py"), *arguments, f"hydra.run.dir={folder}"]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        both = [subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) for _ in range(2)]
        said = [process.communicate(timeout=300)[1] for process in both]
        codes = [process.returncode for process in both]
        assert sorted(codes) == [0, 1], said
        line = said[codes.index(1)].strip().splitlines()[-1]
        assert "is in use by process" in line or "holds a run already" in line
        assert (folder / "results.json").is_file()
        counts.cases += 1
