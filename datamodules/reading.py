"""Files of records: fetching them, parsing their JSON, and naming each record that is left out."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import HfApi, hf_hub_download

# of the HTTP library that this version of the hub's client has, whichever that is
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

from datamodules.records import Record, RecordError
from files import written_whole
from files.cache import cache_folder

TIMEOUT = 60  # seconds without a byte before a download is given up


@dataclass(frozen=True)
class LeftOut:
    """A record that could not be used: where it stands (``index`` from 0), and why."""

    file: str
    index: int
    field: str
    reason: str

    def __str__(self):
        return f"{Path(self.file).name}[{self.index}].{self.field}: {self.reason}"


@dataclass(frozen=True)
class Reading:
    """What one file gave: its records, and those left out, both in the file's order."""

    records: list[Record]
    left_out: list[LeftOut] = field(default_factory=list)

    def summary(self) -> str:
        """For logs: how many records were read, and a line for each that was left out."""
        total = len(self.records) + len(self.left_out)
        line = f"{len(self.records):,} of {total:,} records"
        if self.left_out:
            line += f"; left out {len(self.left_out):,}:"
        return "\n  ".join([line, *map(str, self.left_out)])


class Fields:
    """One JSON object of a file; reads its fields by name, whatever they turn out to hold.

    Texts come without blanks at their ends: published targets often carry one, and whoever joins
    prompt and target puts exactly one between them. Inside a text nothing changes.
    """

    def __init__(self, raw: object, path: str = ""):
        if not isinstance(raw, dict):
            raise RecordError(path or "record", f"expected an object, got {_shown(raw)}")
        self._raw = raw
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self._raw

    def require(self, *names: str) -> None:
        """Raises RecordError, naming all of ``names`` that the object lacks."""
        missing = [name for name in names if name not in self._raw]
        if missing:
            has = ", ".join(map(str, self._raw)) or "nothing"
            also = f" (as are {', '.join(missing[1:])})" if missing[1:] else ""
            raise RecordError(self._name(missing[0]), f"is missing{also}; the record has {has}")

    def text(self, name: str) -> str:
        """The text of a field; RecordError if it is missing, blank or anything else."""
        self.require(name)
        return _text(self._raw[name], self._name(name))

    def texts(self, name: str) -> list[str]:
        """The texts of a field that holds a list of them."""
        self.require(name)
        values = self._raw[name]
        if not isinstance(values, list):
            raise RecordError(self._name(name), f"expected a list of texts, got {_shown(values)}")
        return [_text(value, f"{self._name(name)}[{i}]") for i, value in enumerate(values)]

    def inner(self, name: str) -> Fields:
        """The object that a field holds."""
        self.require(name)
        return Fields(self._raw[name], self._name(name))

    def answers(self, name: str) -> tuple[str, ...]:
        """The answer that a field holds, then its aliases, each once.

        Published files write ``"a"``, ``["a", "b"]`` or ``[["a", "b"], ["c"]]``.
        """
        self.require(name)
        texts = list(_leaves(self._raw[name], self._name(name)))
        if not texts:
            raise RecordError(self._name(name), "expected an answer, got none")
        return tuple(dict.fromkeys(_text(text, place) for text, place in texts))

    def each(self, name: str) -> Iterator[Fields]:
        """The objects of a field that holds a list of them; none where the field is missing.

        Args:
            name: of the field, or dotted names on the way to it: ``"portability.Reasoning"``.
        """
        outer, _, rest = name.partition(".")
        if outer not in self:
            return
        if rest:
            yield from self.inner(outer).each(rest)
            return
        values, place = self._raw[outer], self._name(outer)
        if not isinstance(values, list):
            raise RecordError(place, f"expected a list of objects, got {_shown(values)}")
        for index, value in enumerate(values):
            yield Fields(value, f"{place}[{index}]")

    def _name(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def collect(path: Path, rows: Sequence[object], build: Callable[[int, Fields], Record]) -> Reading:
    """Builds a record of each row of ``path``; leaves out, and names, those that raise RecordError.

    Raises:
        ValueError: not one row can be used, so this is hardly a file of the wanted format.
    """
    reading = Reading([])
    for index, row in enumerate(rows):
        try:
            reading.records.append(build(index, Fields(row)))
        except RecordError as error:
            reading.left_out.append(LeftOut(str(path), index, error.field, error.reason))
    if not reading.records:
        first = reading.left_out[0]
        raise ValueError(f"{path}: none of its {len(rows):,} records can be used: {first}")
    return reading


def read_rows(path: Path) -> list[object]:
    """The elements of a JSON list, or the values of a JSON lines file, one a line.

    Raises:
        ValueError: the file is empty, no UTF-8, no JSON, or no list.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
    if not text.strip():
        raise ValueError(f"{path} is empty; expected a JSON list or JSON lines")
    try:
        rows = _lines(text) if path.suffix in (".jsonl", ".ndjson") else _list_or_lines(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a JSON list of objects, got {_shown(rows)}")
    if not rows:
        raise ValueError(f"{path} holds an empty list; expected records")
    return rows


def fetch(source: str | Path) -> Path:
    """The local file of a path, an ``http(s)://`` URL, or a hub id ``hub:owner/name[/file.json]``.

    URLs are downloaded once, to ``$ERRATA_CACHE`` or ``~/.cache/errata``, whole or not at all; hub
    files (of data set repositories) go to the Hugging Face cache.

    Raises:
        FileNotFoundError: there is no such file, or it cannot be downloaded.
    """
    text = str(source)
    if text.startswith(("http://", "https://")):
        return _download(text)
    if text.startswith("hub:"):
        return _from_hub(text)
    path = Path(text).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {text!r}; expected a local file, an http(s) URL or hub:owner/name[/file.json]"
        )
    return path


def _download(url: str) -> Path:
    folder = cache_folder() / hashlib.sha256(url.encode()).hexdigest()[:16]
    path = folder / (Path(unquote(urlsplit(url).path)).name or "file")
    if path.is_file():
        return path
    try:
        with (
            written_whole(path) as draft,
            draft.open("wb") as file,
            urllib.request.urlopen(url, timeout=TIMEOUT) as reply,
        ):
            shutil.copyfileobj(reply, file)
            expected = reply.headers.get("Content-Length")
            if expected is not None and file.tell() != int(expected):
                raise OSError(f"got {file.tell():,} of {int(expected):,} bytes")
    except (OSError, HTTPException, ValueError) as error:
        raise FileNotFoundError(
            f"cannot download {url}: {error}; without a network, give the path of a local copy"
        ) from error
    return path


def _from_hub(source: str) -> Path:
    owner, name, file = (*source.removeprefix("hub:").split("/", 2), "", "")[:3]
    if not owner or not name:
        raise ValueError(f"{source!r} is no hub id; expected hub:owner/name[/file.json]")
    repository = f"{owner}/{name}"
    try:
        file = file or _only_json(repository)
        return Path(hf_hub_download(repository, file, repo_type="dataset"))
    except (OSError, HTTPError) as error:
        raise FileNotFoundError(
            f"cannot fetch {source}: {error}; without a network, give the path of a local copy"
        ) from error


def _only_json(repository: str) -> str:
    files = HfApi().list_repo_files(repository, repo_type="dataset")
    candidates = [file for file in files if file.endswith((".json", ".jsonl"))]
    if len(candidates) != 1:
        raise ValueError(f"name one file of the data set {repository}: {candidates or files}")
    return candidates[0]


def _list_or_lines(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data") or not text.lstrip().startswith("{"):
            raise
        return _lines(text)


def _lines(text: str) -> list[object]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines also cuts inside strings
        try:
            if line.strip():
                rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            reason = f"in line {number}, {error.msg}"
            raise json.JSONDecodeError(reason, error.doc, error.pos) from None
    return rows


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RecordError(name, f"expected text, got {_shown(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RecordError(name, f"is not valid Unicode: {error.reason}") from None
    return value.strip()


def _leaves(value: object, place: str) -> Iterator[tuple[object, str]]:
    """What nested lists hold, in order, each with its place."""
    if not isinstance(value, list):
        yield value, place
        return
    for index, part in enumerate(value):
        yield from _leaves(part, f"{place}[{index}]")


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
