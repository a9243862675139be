"""Running train.py and edit.py inside the test process: the imports are paid once."""

from __future__ import annotations

import logging
import os
import random
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Run:
    """What a script left behind: exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what was wrong; fails where there is more, or less."""
        assert self.code != 0
        assert "Traceback" not in self.out + self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip().endswith(lines[0])
        return lines[0]


@pytest.fixture
def script(tmp_path, monkeypatch, capfd):
    """``script("edit", "split=val", ...)`` as ``python edit.py split=val`` in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()

    def run(name: str, *arguments: str) -> Run:
        code = call(name, *arguments)
        return Run(code, *capfd.readouterr())

    return run


def call(name: str, *arguments: str) -> int:
    """The exit code of a script; the process's logging and random states stay as they were."""
    arguments_before, environment = sys.argv, dict(os.environ)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    sys.argv = [f"{name}.py", *arguments]
    GlobalHydra.instance().clear()
    try:
        runpy.run_path(str(ROOT / f"{name}.py"), run_name="__main__")
        return 0
    except SystemExit as stop:
        if isinstance(stop.code, str):  # as the interpreter does
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    finally:
        GlobalHydra.instance().clear()
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        sys.argv = arguments_before
        for key in set(os.environ) - set(environment):
            del os.environ[key]
        os.environ.update(environment)
