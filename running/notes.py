"""How a run came about: what was called, on which code and machine. One entry for each start."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning.pytorch.utilities import rank_zero_only

from evaluation.costs import GIB
from files import write_whole
from files.schema import check
from running.arguments import overrides
from running.folders import NOTES

ROOT = Path(__file__).resolve().parents[1]


def note(folder: Path, **facts: Any) -> None:
    """Add an entry to the notes of the run in the folder: this process's start.

    Args:
        folder: of the run.
        **facts: JSON values that the script knows, such as ``seed`` and digests of data.

    Raises:
        ValueError: the notes that are there are damaged.
    """
    if rank_zero_only.rank:
        return
    entries = [*read(folder), {**start(), **facts}]
    write_whole(folder / NOTES, json.dumps(entries, indent=1) + "\n")


def read(folder: Path) -> list[dict[str, Any]]:
    """The notes of a run; none where there is no file.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / NOTES
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_bytes())
        check(entries, list[dict[str, Any]], "notes")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return entries


def start() -> dict[str, Any]:
    """What can be said of this process by itself."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "overrides": overrides(),
        "folder": os.getcwd(),
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code(),
        "python": platform.python_version(),
        "packages": packages(),
        "hardware": hardware(),
    }


def code() -> dict[str, Any]:
    """The commit of this project, and which files of it are not as they are there."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain")
    return {"commit": commit, "changed": None if changed is None else changed.splitlines()}


def packages() -> dict[str, str]:
    """The version of each package that is installed."""
    versions = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]}
    return dict(sorted(versions.items(), key=lambda item: item[0].lower()))


def hardware() -> Mapping[str, Any]:
    """What a result's seconds, and its last digits, may depend on."""
    cuda = torch.cuda.is_available()
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        if cuda
        else [],
    }


def _git(*arguments: str) -> str | None:
    """What git says of this project; None where there is no git, or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
