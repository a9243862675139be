"""A run's folder is its own: nobody else writes into it, and a failed start leaves none."""

import logging
import re
import subprocess
import sys

import pytest
from filelock import FileLock
from omegaconf import OmegaConf
from scripts import ROOT, script  # noqa: F401

from running.folders import _log_into, new_folder, refuse_another_run

HOLD = """
import sys, time
from running.folders import _locked
from pathlib import Path
with _locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_two_runs_of_one_second_have_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configs = [OmegaConf.create({"dir": "${new_folder:runs/mend,now,null}"}) for _ in range(3)]
    folders = [config.dir for config in configs]
    assert [config.dir for config in configs] == folders  # Hydra asks again
    assert folders == ["runs/mend/now", "runs/mend/now_2", "runs/mend/now_3"]
    assert all((tmp_path / folder).is_dir() for folder in folders)


def test_a_run_that_is_repeated_lies_with_others_of_its_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert new_folder("runs/mend", "now", "elsewhere/ke/first") == "runs/ke/now"
    assert new_folder("runs/mend", "now", "elsewhere/ke/first") == "runs/ke/now_2"


@pytest.mark.parametrize("name", ["config.yaml", "run.json", "results.json", "checkpoints"])
def test_a_folder_with_a_run_is_not_taken(name, tmp_path):
    refuse_another_run(tmp_path)
    (tmp_path / "notes.txt").touch()
    refuse_another_run(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=rf"holds a run already \({re.escape(name)}\): go on"):
        refuse_another_run(tmp_path)


@pytest.fixture
def held(tmp_path):
    """A run's folder that another process works in, and the process."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("editors: [rome]\ncallbacks: {}\n")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == b"locked\n"
        yield tmp_path / "run", process
        process.kill()


@pytest.mark.parametrize("name", ["edit", "train"])
def test_a_second_one_says_who_has_the_folder(name, held, script):  # noqa: F811
    folder, process = held
    for argument in (f"resume={folder}", f"hydra.run.dir={folder}"):
        run = script(name, argument)
        assert re.search(rf"run is in use by process {process.pid} on \S+$", run.error)
    process.kill()
    process.wait()
    with FileLock(folder / ".lock").acquire(timeout=0):
        pass  # a lock does not outlive its process


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("edit", ["model.path=gone/away/model", "model=pretrained"]),
        ("edit", ["editors=[ft_m]", "data.limit=4", "protocol.generate=[nonsense]"]),
        ("edit", ["resume=gone"]),
        ("edit", ["data.limit=abc"]),
        ("train", ["+editor.sign=nonsense"]),
        ("train", ["resume=gone.ckpt"]),
        ("train", ["data.batch_size=abc"]),
    ],
)
def test_a_failed_start_leaves_no_folder(name, arguments, script, tmp_path):  # noqa: F811
    assert script(name, *arguments).error
    assert [path for path in tmp_path.glob("**/*") if not path.is_dir()] == []
    assert list(tmp_path.glob("runs/*/*")) == []


def test_what_a_failed_start_finds_stays(script, tmp_path):  # noqa: F811
    (tmp_path / "here").mkdir()
    (tmp_path / "here/notes.txt").write_text("mine")
    assert script("train", "+editor.sign=nonsense", f"hydra.run.dir={tmp_path}/here").error
    assert {path.name for path in (tmp_path / "here").iterdir()} == {".lock", "notes.txt"}


def test_the_log_of_what_goes_on_is_in_its_run(tmp_path):
    handler = logging.FileHandler(tmp_path / "train.log", delay=True)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        (tmp_path / "run").mkdir()
        _log_into(tmp_path / "run")
        root.warning("here")
    finally:
        root.removeHandler(handler)
        handler.close()
    assert (tmp_path / "run/train.log").read_text() == "here\n"
    assert not (tmp_path / "train.log").exists()
