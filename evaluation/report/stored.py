"""Runs that are through, as their folders hold them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluation import circumstances
from evaluation.folder import RunFolder

SUBJECT = ("model", "data", "split", "records")


@dataclass(frozen=True)
class StoredRun:
    """A benchmark's run: its rows, its costs, and what it was made with.

    Attributes:
        folder: where it lies.
        rows: of results.
        costs: of `efficiency`.
        about: of `circumstances`; empty for a run of an older version.
    """

    folder: RunFolder
    rows: list[dict]
    costs: list[dict]
    about: dict

    @classmethod
    def read(cls, path: Path) -> StoredRun:
        """The run in a folder.

        Raises:
            FileNotFoundError: there is none, or it is not through.
            ValueError: a file of it is damaged.
        """
        folder = RunFolder(path)
        if not folder.editors:
            raise ValueError(f"{path}: run.json names no editor")
        rows, costs = (_values(path, name) for name in ("results.json", "efficiency.json"))
        return cls(folder, rows, costs, circumstances.read(path))

    @property
    def name(self) -> str:
        """That of its folder."""
        return self.folder.path.resolve().name

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decided its answers: ``run.json``."""
        return self.folder.identity

    @property
    def protocol(self) -> str:
        """How many requests met one model."""
        return self.identity["protocol"]

    @property
    def subject(self) -> dict[str, str]:
        """What its numbers are about: two runs that differ here cannot be compared."""
        return {
            name: str(self.identity.get(name)) for name in ("model", "data", "split", "records")
        }

    def lines(self) -> Iterator[dict]:
        """All answers, editor by editor."""
        for editor in self.folder.editors:
            yield from self.folder.lines(editor)


def runs_in(paths: Sequence[str | Path]) -> list[StoredRun]:
    """The runs in some folders: of each its own, or those in the folders right below it.

    Raises:
        FileNotFoundError: there is no run in one of them, or it is not through.
        ValueError: no folder, one that is named twice, or a damaged file.
    """
    if isinstance(paths, str) or not paths:
        raise ValueError(f"runs={paths}: expected a list of folders, as in runs='[A,B]'")
    found = [folder for path in paths for folder in _folders(Path(path))]
    for folder in found:
        if [other.resolve() for other in found].count(folder.resolve()) > 1:
            raise ValueError(f"runs: {folder} is named twice")
    return [StoredRun.read(folder) for folder in found]


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise FileNotFoundError(f"runs: there is no folder {path}")
    below = sorted(file.parent for file in path.glob("*/run.json"))
    return [path] if (path / "run.json").is_file() or not below else below


def _values(path: Path, name: str) -> list[dict]:
    try:
        values = json.loads((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: the run is not through, {name} is not there; go on with resume={path}"
        ) from None
    except ValueError:
        values = None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ValueError(f"{path / name} is damaged: it holds no list of rows")
    return values
