"""Files of rows and columns: CSV, tabs, parquet, as objects with a field for each column."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from files import first_line

SEPARATORS = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
TABLES = (*SEPARATORS, PARQUET)
"""The endings of such files."""


def read_table(path: Path) -> list[object]:
    """The rows of a file whose ending is one of `TABLES`.

    Cells of text files are texts, whatever they look like: "007", "2006" and "None" stay as they
    are. Parquet has types of its own.

    Raises:
        ValueError: the file cannot be parsed as what it is called, two columns have one name, a row
            has more cells than the heading, or there is no row.
    """
    ending = path.suffix.lower()
    try:
        rows = _parquet(path) if ending == PARQUET else _separated(path, SEPARATORS[ending])
    except (ValueError, OSError, csv.Error) as error:
        raise ValueError(f"{path} is no {ending} table: {first_line(str(error))}") from None
    if not rows:
        raise ValueError(f"{path} has no row; expected records")
    return rows


def _separated(path: Path, separator: str) -> list[object]:
    """By the standard library: ``datasets`` shifts the cells where a row has too many."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, delimiter=separator, strict=True)
        names = next(rows, [])
        if not names:
            raise ValueError("it is empty; expected a heading and rows")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice or not all(name.strip() for name in names):
            raise ValueError(f"each column needs a name of its own; the heading is {names}")
        objects: list[object] = []
        for row in filter(None, rows):
            if len(row) > len(names):
                raise ValueError(f"line {rows.line_num} has {len(row)} cells for {names}")
            objects.append(dict(zip(names, row, strict=False)))
        return objects


def _parquet(path: Path) -> list[object]:
    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            raise ValueError("it does not begin as parquet does")
    import datasets  # takes seconds, and few runs read parquet

    with TemporaryDirectory() as cache:  # it writes there, even where it only streams
        rows = datasets.load_dataset(
            "parquet", data_files=str(path), split="train", streaming=True, cache_dir=cache
        )
        return list(rows)
