"""The folder of a run: finished chunks of answers, what they cost, and whose they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from files import write_whole


class RunFolder:
    """``run.json``, ``answers/<editor>/<chunk>.jsonl`` and ``costs/<editor>/<chunk>.json``.

    A chunk's answers are written last: where they are, the chunk is finished. A sequence keeps its
    edits beside them, as ``edits/<editor>/<checkpoint>.safetensors``.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def claim(self, identity: Mapping, write: bool = True) -> None:
        """Make the folder this run's, or continue it if it already is; editors may be added.

        Args:
            identity: JSON values; ``identity["editors"]`` maps each editor's name to its settings.
            write: Whether this process writes ``run.json`` (one of several does).

        Raises:
            ValueError: the folder holds answers to other questions, or of another editor of the
                same name.
        """
        current = json.loads(json.dumps(identity))
        path = self.path / "run.json"
        stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else current
        editors = stored["editors"] | current["editors"]
        known = {name: editors[name] for name in stored["editors"]}
        for name, value in differences(stored, {**current, "editors": known}):
            raise ValueError(
                f"{self.path} holds the answers of another run ({name}: {value}); "
                "give this run a folder of its own"
            )
        if write:
            write_whole(path, json.dumps({**current, "editors": editors}, indent=1) + "\n")

    @property
    def editors(self) -> list[str]:
        """The editors' names in the order of ``run.json``.

        Raises:
            FileNotFoundError: there is no ``run.json``.
        """
        path = self.path / "run.json"
        if not path.is_file():
            raise FileNotFoundError(f"no run in {self.path}: {path.name} is not there")
        return list(json.loads(path.read_text(encoding="utf-8"))["editors"])

    def has(self, editor: str, chunk: int) -> bool:
        """Whether the editor's answers to this chunk are there."""
        return self._answers(editor, chunk).is_file()

    def add(self, editor: str, chunk: int, lines: Sequence[Mapping], cost: Mapping) -> None:
        """Write a finished chunk: one line per record and probe, and what it cost."""
        write_whole(self.path / "costs" / editor / f"{chunk:06d}.json", json.dumps(cost) + "\n")
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_whole(self._answers(editor, chunk), text)

    def lines(self, editor: str) -> Iterator[dict]:
        """The editor's answers so far, in the order of the records."""
        for path in sorted((self.path / "answers" / editor).glob("[0-9]*.jsonl")):
            with path.open(encoding="utf-8") as file:
                yield from map(json.loads, file)

    def costs(self, editor: str) -> list[dict]:
        """What the editor's finished chunks cost."""
        return [
            json.loads((self.path / "costs" / editor / f"{path.stem}.json").read_text())
            for path in sorted((self.path / "answers" / editor).glob("[0-9]*.jsonl"))
        ]

    def _answers(self, editor: str, chunk: int) -> Path:
        return self.path / "answers" / editor / f"{chunk:06d}.jsonl"


def differences(stored: object, current: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Where two JSON values differ: the dotted name, and ``'there' there, 'here' here``."""
    if isinstance(stored, dict) and isinstance(current, dict):
        for key in stored | current:
            yield from differences(
                stored.get(key), current.get(key), f"{name}.{key}" if name else key
            )
    elif stored != current:
        yield name, f"{stored!r} there, {current!r} here"
