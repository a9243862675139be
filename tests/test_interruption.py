"""SIGTERM ends both scripts as interrupted, and they go on from there."""

import os
import signal
import subprocess
import sys
import time

import pytest
from scripts import ROOT

TRAIN = (
    *("train.py", "editor=mend", "editor.rank=4", "+data.variants=1", "data.batch_size=2"),
    *("callbacks.last.every_n_steps=1", "trainer.limit_val_batches=1"),
)
EDIT = (
    *("edit.py", "editors=[ft_m]", "data.limit=400", "+data.variants=1", "protocol.generate=[]"),
    *("protocol.records_per_chunk=2", "+settings.ft_m.steps=2"),
)


def start(folder, script, *arguments):
    """A script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def stopped(process, file):
    """Status and last line on standard error of a process stopped once a file is there."""
    while process.poll() is None and not list(file.parent.glob(file.name)):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert "Traceback" not in said
    return process.returncode, said.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "file"),
    [(TRAIN, "checkpoints/last.ckpt"), (EDIT, "answers/ft_m/*0.jsonl")],
    ids=["train", "edit"],
)
def test_sigterm_ends_a_run_as_interrupted(arguments, file, tmp_path):
    """And the line that it prints is a command that goes on; which is stopped once more."""
    folder, script = tmp_path / "run", arguments[0]
    line = f"interrupted; go on with: python {script} resume={folder}"
    process = start(tmp_path, *arguments, f"hydra.run.dir={folder}")
    assert stopped(process, folder / file) == (143, line)
    assert not (folder / "results.json").exists()
    again = start(tmp_path, script, f"resume={folder}", f"hydra.run.dir={tmp_path}/more")
    assert stopped(again, folder / ".owner") == (143, line)


def test_a_run_that_has_not_begun_says_so(tmp_path):
    process = start(tmp_path, *TRAIN, f"hydra.run.dir={tmp_path}/run")
    status, line = stopped(process, tmp_path / "run/train.log")
    assert status == 143
    assert line == "interrupted before there was anything to go on from; start again"
