import os

import pandas as pd
import pytest

from datamodules.reading import read_rows


@pytest.fixture
def read(tmp_path):
    def read(name, content):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_rows(tmp_path / name)

    return read


def test_cells_are_texts_whatever_they_look_like(read):
    text = '\ufeffa,b,c\n007,None,"x, ""y"""\n2006,NA,"two\nlines"\n\ntrue,,\n'
    rows = [("007", "None", 'x, "y"'), ("2006", "NA", "two\nlines"), ("true", "", "")]
    assert read("a.csv", text) == [dict(zip("abc", row, strict=True)) for row in rows]
    assert read("a.TSV", "a\tb\n1,2\tx\n") == [{"a": "1,2", "b": "x"}]


def test_a_row_that_is_too_short_lacks_fields(read):
    assert read("a.csv", "a,b,c\n1,2\n") == [{"a": "1", "b": "2"}]


def test_parquet_keeps_its_types_and_leaves_no_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"a": "x", "n": 1, "l": ["p", "q"]}, {"a": None, "n": 2, "l": []}]
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet") == rows
    assert os.listdir(tmp_path) == ["a.parquet"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "it is empty; expected a heading and rows"),
        ("a.csv", "a,b\n", "has no row"),
        ("a.csv", "a,b\n1,2,3\n", r"line 2 has 3 cells for \['a', 'b'\]"),
        ("a.csv", "a,b\n1,2\n4,5,6\n", "line 3 has 3 cells"),
        ("a.csv", "a,a\n1,2\n", "each column needs a name of its own"),
        ("a.csv", "a, \n1,2\n", "each column needs a name of its own"),
        ("a.csv", 'a,b\n"x,2\n', "unexpected end of data"),
        ("a.csv", b"a,b\n\xe9,2\n", "codec can't decode"),
        ("a.csv", '[{"a": 1}]', "has no row"),
        ("a.parquet", "nonsense", "it does not begin as parquet does"),
        ("a.parquet", "", "it does not begin as parquet does"),
    ],
)
def test_what_is_no_table_is_one_clear_error(read, name, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read(name, content)
    assert name in str(error.value)
