"""Counts what readers find in the files of a folder, as Markdown: records, requests, probes.

    python benchmarks/data_counts.py FOLDER

The first part of a file's path below the folder says how it is read; see FORMATS.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datamodules.counterfact import CounterFactData
from datamodules.editing import FileData
from datamodules.hallucination import HallucinationData
from datamodules.knowedit import KnowEditData
from datamodules.mquake import MquakeData
from datamodules.other_task import Piqa
from datamodules.qaedit import QaeditData
from datamodules.reading import Reading
from datamodules.records import KINDS
from datamodules.zsre import ZsreData

FORMATS: tuple[tuple[str, type[FileData]], ...] = (
    ("counterfact/counterfact_*.json", CounterFactData),
    ("zsre/*.json", ZsreData),
    ("survey/counterfact_*.json", CounterFactData),
    ("survey/zsre_*.json", ZsreData),
    ("knowedit/*.json", KnowEditData),
    ("multi_hop/*.json", MquakeData),
    ("free_generation/*.json", QaeditData),
    ("hallucination/*.csv", HallucinationData),
    ("samples/counterfact_*.json", CounterFactData),
    ("samples/zsre_*.json", ZsreData),
    ("samples/knowedit_*.json", KnowEditData),
)
TASKS = "tasks/piqa_valid.jsonl"


def readings(folder: Path) -> Iterator[tuple[str, str, Reading]]:
    """Each file that is there, what it is read as, and what it gave."""
    for pattern, format in FORMATS:
        for path in sorted(folder.glob(pattern)):
            yield str(path.relative_to(folder)), format.name, format().read(path)


def counts(file: str, format: str, reading: Reading) -> dict[str, str]:
    """The row of a file in the table; nothing stands where there is nothing."""
    numbers = {
        "records": len(reading.records),
        "left out": len(reading.left_out),
        "requests": sum(len(record.requests) for record in reading.records),
        **Counter(probe.kind for record in reading.records for probe in record.probes),
    }
    return {"file": f"`{file}`", "data": format} | {k: f"{n:,}" for k, n in numbers.items() if n}


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as Markdown, with the columns that some of them have."""
    order = ("file", "data", "records", "left out", "requests", *KINDS)
    columns = [name for name in order if any(name in row for row in rows)]
    rule = ["---" if name in ("file", "data") else "---:" for name in columns]
    cells = [columns, rule, *([row.get(name, "") for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def remarks(file: str, reading: Reading) -> Iterator[str]:
    """A line for each record that was left out, and for each reason of a remark."""
    for left_out in reading.left_out:
        yield f"- `{file}` [{left_out.index}].{left_out.field}: {left_out.reason}"
    for reason, count in reading.counts().items():
        yield f"- `{file}`: {count:,} x {reason}"


def unread(found: Sequence[tuple[str, str, Reading]]) -> Iterator[str]:
    """For each format the fields that no record needs."""
    names: dict[str, dict[str, None]] = {}
    for _, format, reading in found:
        names.setdefault(format, {}).update(dict.fromkeys(reading.unread))
    for format, fields in names.items():
        yield f"- `data={format}`: fields not used: {', '.join(f'`{name}`' for name in fields)}"


def main(folder: Path) -> None:
    found = list(readings(folder))
    if not found:
        raise SystemExit(f"no file of {', '.join(pattern for pattern, _ in FORMATS)} in {folder}")
    print(table([counts(*each) for each in found]), end="\n\n")
    for file, _, reading in found:
        for line in remarks(file, reading):
            print(line)
    print(*unread(found), sep="\n")
    if (folder / TASKS).is_file():
        print(f"- `{TASKS}`: {len(Piqa(str(folder / TASKS)).probes()):,} questions of `other_task`")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
