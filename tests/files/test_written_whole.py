"""What is written is there whole, or what was there before is."""

import os

import pytest

from files import first_line, write_whole, written_whole


def test_a_file_is_there_once_the_block_ends(tmp_path):
    path = tmp_path / "new" / "deep" / "file.txt"
    with written_whole(path) as draft:
        draft.write_text("half ")
        assert not path.exists()
        assert draft.name == path.name  # who goes by a file's ending sees it
        draft.write_text("whole")
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["file.txt"]


def test_an_exception_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    write_whole(path, "before")
    with pytest.raises(OSError, match="disk full"), written_whole(path) as draft:
        draft.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_an_exception_leaves_nothing_where_nothing_was(tmp_path):
    for interruption in (OSError, KeyboardInterrupt):
        with pytest.raises(interruption), written_whole(tmp_path / "folder") as draft:
            draft.mkdir()
            (draft / "part").write_text("half")
            raise interruption
    assert os.listdir(tmp_path) == []


def test_a_folder_is_there_once_the_block_ends(tmp_path):
    folder = tmp_path / "folder"
    with written_whole(folder) as draft:
        draft.mkdir()
        (draft / "a").write_text("1")
        (draft / "inner").mkdir()
        (draft / "inner" / "b").write_text("2")
        assert not folder.exists()
    assert sorted(x.relative_to(folder).as_posix() for x in folder.rglob("*")) == [
        "a", "inner", "inner/b",
    ]  # fmt: skip
    assert os.listdir(tmp_path) == ["folder"]


def test_others_may_read_what_was_written(tmp_path):
    """Drafts are private; what becomes of them is as if it had been made in place."""
    mask = os.umask(0o022)
    try:
        write_whole(tmp_path / "file", "x")
        with written_whole(tmp_path / "folder") as draft:
            draft.mkdir()
    finally:
        os.umask(mask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755


def test_an_empty_folder_is_taken_and_a_full_one_is_not(tmp_path):
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "thesis").write_text("mine")
    with written_whole(tmp_path / "empty") as draft:
        draft.mkdir()
        (draft / "a").write_text("1")
    assert (tmp_path / "empty" / "a").read_text() == "1"
    with pytest.raises(OSError, match="full"), written_whole(tmp_path / "full") as draft:
        draft.mkdir()
    assert os.listdir(tmp_path / "full") == ["thesis"]
    assert sorted(os.listdir(tmp_path)) == ["empty", "full"]


@pytest.mark.parametrize("content", ["G\u00f6teborg\n", "a\r\nb", b"\x00\xff", ""])
def test_texts_and_bytes_are_written_as_they_are(tmp_path, content):
    write_whole(tmp_path / "file", content)
    expected = content.encode() if isinstance(content, str) else content
    assert (tmp_path / "file").read_bytes() == expected
    write_whole(str(tmp_path / "file"), b"again")
    assert (tmp_path / "file").read_bytes() == b"again"


@pytest.mark.parametrize(
    ("text", "line"),
    [("one", "one"), (" one \ntwo", "one"), ("\n\n one\ntwo", "one"), ("", ""), (" \n ", "")],
)
def test_the_first_line(text, line):
    assert first_line(text) == line
