"""Files of records: fetching and parsing them, and naming each record that is left out."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import HfApi, hf_hub_download

# of the HTTP library that this version of the hub's client has, whichever that is
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

from datamodules.fields import Fields, Remark
from datamodules.formats import guess
from datamodules.legible import shown
from datamodules.records import Record, RecordError
from datamodules.tables import TABLES, read_table
from files import written_whole
from files.cache import cache_folder

TIMEOUT = 60  # seconds without a byte before a download is given up


@dataclass(frozen=True)
class LeftOut:
    """A record that cannot be used: where it stands (``index`` from 0), and why."""

    file: str
    index: int
    field: str
    reason: str

    def __str__(self):
        return f"{Path(self.file).name}[{self.index}].{self.field}: {self.reason}"


@dataclass(frozen=True)
class Reading:
    """What one file gave, everything in the file's order.

    Attributes:
        records: those that can be used.
        left_out: those that cannot.
        remarks: about records that are used, each with the record's index.
        unread: names of fields that some record has and none needed.
    """

    records: list[Record]
    left_out: list[LeftOut] = field(default_factory=list)
    remarks: list[tuple[int, Remark]] = field(default_factory=list)
    unread: tuple[str, ...] = ()

    def summary(self) -> str:
        """For logs: how many records were read, a line for each left out and for each remark."""
        total = len(self.records) + len(self.left_out)
        line = f"{len(self.records):,} of {total:,} records"
        if self.left_out:
            line += f"; left out {len(self.left_out):,}:"
        unread = [f"fields not used: {', '.join(self.unread)}"] if self.unread else []
        return "\n  ".join([line, *map(str, self.left_out), *self._remarked(), *unread])

    def counts(self) -> dict[str, int]:
        """How often each reason stands in a remark, the most frequent first."""
        return dict(Counter(remark.reason for _, remark in self.remarks).most_common())

    def _remarked(self) -> Iterator[str]:
        for reason, count in self.counts().items():
            at, first = next(pair for pair in self.remarks if pair[1].reason == reason)
            value = f" {first.value}" if first.value else ""
            yield f"{count:,} x {reason}, such as [{at}].{first.field}{value}"


def collect(
    path: Path, rows: Sequence[object], build: Callable[[int, Fields], Record], format: str = ""
) -> Reading:
    """Builds a record of each row of ``path``; leaves out, and names, those that raise RecordError.

    Args:
        path: of the file, for messages.
        rows: what it holds.
        build: makes a record of an index and its fields.
        format: what the file is read as.

    Raises:
        ValueError: not one row can be used, so this is hardly a file of the wanted format; says of
            which other one it may be.
    """
    records, left_out, remarks = [], [], []
    names, read = {}, set()
    for index, row in enumerate(rows):
        try:
            fields = Fields(row)
            names |= dict.fromkeys(fields)
            records.append(build(index, fields))
        except RecordError as error:
            left_out.append(LeftOut(str(path), index, error.field, error.reason))
        else:
            read |= fields.trace.read
            remarks += [(index, remark) for remark in fields.trace.remarks]
    if not records:
        raise ValueError(
            f"{path}: none of its {len(rows):,} records can be used: {left_out[0]}"
            f"{guess(rows, format)}"
        )
    return Reading(records, left_out, remarks, tuple(str(n) for n in names if n not in read))


def read_rows(path: Path) -> list[object]:
    """The elements of a JSON list, the values of JSON lines, the rows of a CSV or parquet file.

    Raises:
        ValueError: the file is empty, or is not what its name says: no UTF-8, no JSON, no list.
    """
    if path.suffix.lower() in TABLES:
        return read_table(path)
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
        raise ValueError(f"{path}: expected a JSON list of objects, got {shown(rows)}")
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
    candidates = [file for file in files if file.endswith((".json", ".jsonl", *TABLES))]
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
