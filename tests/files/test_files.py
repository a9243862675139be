"""A file or a folder is there whole, or as it was."""

import pytest

from files import first_line, write_whole, written_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_whole(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    write_whole(str(path), b"\x00")
    assert path.read_bytes() == b"\x00"
    assert names(path.parent) == ["b.txt"]


def test_the_draft_has_the_name_of_the_file(tmp_path):
    with written_whole(tmp_path / "x.json") as draft:
        assert draft.name == "x.json"
        assert draft != tmp_path / "x.json"
        draft.write_text("new")
        assert not (tmp_path / "x.json").exists()
    assert (tmp_path / "x.json").read_text() == "new"


def test_what_fails_on_the_way_changes_nothing(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), written_whole(path) as draft:
        draft.write_text("half")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.json"]


def written(folder):
    with written_whole(folder) as draft:
        draft.mkdir()
        (draft / "weights").write_text("new")


def test_a_folder_takes_the_place_of_none_and_of_an_empty_one(tmp_path):
    written(tmp_path / "fresh")
    (tmp_path / "empty").mkdir()
    written(tmp_path / "empty")
    assert names(tmp_path) == ["empty", "fresh"]
    assert (tmp_path / "empty" / "weights").read_text() == "new"


def test_a_folder_that_holds_something_stays(tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "kept").write_text("old")
    with pytest.raises(OSError, match="full"):
        written(full)
    assert names(full) == ["kept"]
    assert names(tmp_path) == ["full"]


@pytest.mark.parametrize(
    ("text", "line"), [("\n a \nb", "a"), ("a", "a"), ("", ""), ("  \n ", ""), ("a\r\nb", "a")]
)
def test_the_first_line_is_the_first_that_is_not_blank(text, line):
    assert first_line(text) == line
