"""The commands that an installation has."""

import subprocess
import sys
import tomllib

import pytest
from scripts import ROOT

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


@pytest.mark.parametrize("name", ["errata-edit", "errata-train"])
def test_a_command_runs_in_any_folder(name, tmp_path):
    module, function = SCRIPTS[name].split(":")
    start = f"import sys; sys.argv = [{name!r}, '--help']; sys.path.insert(0, {str(ROOT)!r})"
    run = f"{start}; from {module} import {function}; {function}()"
    command = [sys.executable, "-c", run]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"python {module}.py resume=FOLDER" in done.stdout
