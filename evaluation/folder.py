"""The folder of a run: finished chunks of answers, what they cost, and whose they are."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import cast

from files import write_whole
from files.schema import check

log = logging.getLogger(__name__)

DIGEST = "digest"
"""In a chunk's costs: of its answers, and of what else the costs say."""
OF_RUN = MappingProxyType({"editors": dict[str, dict], "origins": dict[str, str]})
"""What ``run.json`` has to say; the rest of it is compared."""


class RunFolder:
    """``run.json``, ``answers/<editor>/<chunk>.jsonl`` and ``costs/<editor>/<chunk>.json``.

    A chunk's answers are written last: where they are, the chunk is finished. Its costs hold a
    digest of both: one whose answers or costs are missing, cut or changed is done again. A sequence
    keeps its edits beside them, as ``edits/<editor>/<checkpoint>.safetensors``.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def claim(self, identity: Mapping, write: bool = True) -> None:
        """Make the folder this run's, or continue it if it already is; editors may be added.

        Args:
            identity: JSON values; ``identity["editors"]`` maps each editor's name to its settings.
                ``identity["origins"]`` maps some to where what they learned comes from, which may
                be another place later.
            write: Whether this process writes ``run.json`` (one of several does).

        Raises:
            ValueError: the folder holds answers to other questions, or of another editor of the
                same name; or ``run.json`` is damaged.
        """
        current = json.loads(json.dumps(identity))
        path = self.path / "run.json"
        stored = self._run() if path.is_file() else current
        editors = stored["editors"] | current["editors"]
        origins = stored.get("origins", {}) | current.get("origins", {})
        known = {name: editors[name] for name in stored["editors"]}
        for name, value in differences(
            {**stored, "origins": origins}, {**current, "editors": known, "origins": origins}
        ):
            raise ValueError(
                f"{self.path} holds the answers of another run ({name}: {value}); "
                "give this run a folder of its own"
            )
        if write:
            self._discard_cut()
            run = {**current, "editors": editors, "origins": origins}
            write_whole(path, json.dumps(run, indent=1) + "\n")

    @property
    def editors(self) -> list[str]:
        """The editors' names in the order of ``run.json``.

        Raises:
            FileNotFoundError: there is no ``run.json``.
            ValueError: it is damaged.
        """
        return list(self.identity["editors"])

    @property
    def identity(self) -> dict:
        """What ``run.json`` says; errors as of `editors`."""
        path = self.path / "run.json"
        if not path.is_file():
            raise FileNotFoundError(f"no run in {self.path}: {path.name} is not there")
        return self._run()

    @property
    def origins(self) -> dict[str, str]:
        """Of editors that learn, where that comes from; errors as of `editors`."""
        return self._run().get("origins", {})

    def _run(self) -> dict:
        """What ``run.json`` says."""
        path = self.path / "run.json"
        if not path.is_file():
            raise FileNotFoundError(f"no run in {self.path}: {path.name} is not there")
        run = _json(path.read_bytes())
        try:
            check(run, dict, "run")
            for name, kind in OF_RUN.items():
                check(cast(dict, run).get(name, {}), kind, name)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if "editors" not in (run := cast(dict, run)):
            raise ValueError(f"{path} is damaged: it does not say whose answers these are")
        return run

    def _discard_cut(self) -> None:
        """Remove what is not whole, so that it is done again."""
        for answers in self.path.glob("answers/*/[0-9]*.jsonl"):
            if not self._is_whole(answers):
                log.warning("cut or changed, or its costs are; done again: %s", answers)
                answers.unlink()

    def has(self, editor: str, chunk: int) -> bool:
        """Whether the editor's answers to this chunk are there, all of them."""
        answers = self._answers(editor, chunk)
        return answers.is_file() and self._is_whole(answers)

    def _is_whole(self, answers: Path) -> bool:
        cost = self._cost(answers)
        return cost is not None and cost[DIGEST] == _digest(answers.read_bytes(), cost)

    def _cost(self, answers: Path) -> dict | None:
        """What a chunk cost; None if its file is not there, or damaged."""
        path = self.path / "costs" / answers.parent.name / f"{answers.stem}.json"
        cost = _json(path.read_bytes()) if path.is_file() else None
        return cost if isinstance(cost, dict) and DIGEST in cost else None

    def _chunks(self, editor: str) -> list[Path]:
        """The answers of the editor's chunks, in order.

        Raises:
            ValueError: one is damaged; names it.
        """
        chunks = sorted((self.path / "answers" / editor).glob("[0-9]*.jsonl"))
        for answers in chunks:
            if not self._is_whole(answers):
                raise ValueError(f"{answers} is cut or changed, or its costs are: resume the run")
        return chunks

    def add(self, editor: str, chunk: int, lines: Sequence[Mapping], cost: Mapping) -> None:
        """Write a finished chunk: one line per record and probe, and what it cost."""
        answers = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        text = json.dumps({**cost, DIGEST: _digest(answers, cost)}) + "\n"
        write_whole(self.path / "costs" / editor / f"{chunk:06d}.json", text)
        write_whole(self._answers(editor, chunk), answers)

    def lines(self, editor: str) -> Iterator[dict]:
        """The editor's answers so far, in the order of the records."""
        for path in self._chunks(editor):
            for line in map(_json, path.read_bytes().splitlines()):
                if not isinstance(line, dict):
                    raise ValueError(f"{path} is damaged: a line of it is no answer")
                yield line

    def costs(self, editor: str) -> list[dict]:
        """What the editor's finished chunks cost."""
        costs = [self._cost(answers) or {} for answers in self._chunks(editor)]
        return [{name: cost[name] for name in cost if name != DIGEST} for cost in costs]

    def _answers(self, editor: str, chunk: int) -> Path:
        return self.path / "answers" / editor / f"{chunk:06d}.jsonl"


def _json(text: bytes) -> object | None:
    """The value; None if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _digest(answers: bytes, cost: Mapping) -> str:
    """16 hexadecimal digits of a chunk's answers and costs."""
    costs = json.dumps({name: cost[name] for name in cost if name != DIGEST}, sort_keys=True)
    return hashlib.sha256(costs.encode() + b"\n" + answers).hexdigest()[:16]


def differences(stored: object, current: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Where two JSON values differ: the dotted name, and ``'there' there, 'here' here``."""
    if isinstance(stored, dict) and isinstance(current, dict):
        for key in stored | current:
            yield from differences(
                stored.get(key), current.get(key), f"{name}.{key}" if name else key
            )
    elif stored != current:
        yield name, f"{stored!r} there, {current!r} here"
