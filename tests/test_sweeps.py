"""Sweeps: several runs of a script by one command, one after another or side by side."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import yaml
from scripts import ROOT, script  # noqa: F401

PLUGINS = {"joblib": "joblib_launcher", "slurm": "submitit_launcher", "optuna": "optuna_sweeper"}
QUICK = ("data.limit=2", "++data.variants=1", "protocol.generate=[]", "editors=[ft_m]")


def test_each_way_of_starting_runs_has_a_file_and_an_extra():
    files = {path.stem: path.read_text() for path in (ROOT / "configs/launch").glob("*.yaml")}
    assert files.keys() == PLUGINS.keys()
    project = (ROOT / "pyproject.toml").read_text()
    for name, text in files.items():
        assert f"hydra-{PLUGINS[name].replace('_', '-')}" in project
        [default] = yaml.safe_load(text)["defaults"]
        assert default[
            "override /hydra/launcher" if name != "optuna" else "override /hydra/sweeper"
        ]


def test_a_way_whose_plugin_is_not_there_is_said_in_a_line(script):  # noqa: F811
    if importlib.util.find_spec("submitit"):
        pytest.skip("the plugin is here")
    run = script("edit", "-m", "launch=slurm", *QUICK)
    assert "hydra/launcher/submitit_slurm" in run.error


@pytest.mark.filterwarnings("ignore:.*leaked.*")
def test_runs_side_by_side_are_each_in_their_folder(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install -e '.[joblib]'")
    command = [sys.executable, ROOT / "edit.py", "-m", "launch=joblib", *QUICK]
    command += ["+settings.ft_m.steps=1,20", f"hydra.sweep.dir={tmp_path}/sweep"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    steps = []
    for run in (tmp_path / "sweep/0", tmp_path / "sweep/1"):
        steps.append(yaml.safe_load((run / "config.yaml").read_text())["settings"]["ft_m"]["steps"])
        assert json.loads((run / "results.json").read_text())
    assert steps == [1, 20]
