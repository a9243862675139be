import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from datamodules.reading import Fields, LeftOut, Reading, collect, fetch, read_rows
from datamodules.records import Record, RecordError, Request


def build(index, fields):
    return Record(str(index), (Request(fields.text("prompt"), fields.text("subject"), "new"),))


GOOD = {"prompt": "Lagos is in", "subject": "Lagos"}


@pytest.fixture
def server():
    """The address of a loopback server of /rows.json, and the paths asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = json.dumps([GOOD]).encode()
            self.send_response(404 if "missing" in self.path else 200)
            size = len(body) + (7 if "cut" in self.path else 0)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}", asked
        http.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(tmp_path, text, name="rows.json"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_record_that_cannot_be_used_is_left_out_and_named(tmp_path):
    rows = [GOOD, {**GOOD, "subject": "Abuja"}, 5, {"prompt": "x"}, {**GOOD, "prompt": 3}, GOOD]
    reading = collect(tmp_path / "rows.json", rows, build)
    assert [record.id for record in reading.records] == ["0", "5"]
    assert [(one.index, one.field) for one in reading.left_out] == [
        *((1, "subject"), (2, "record"), (3, "subject"), (4, "prompt")),
    ]
    assert "'Abuja' is not in the prompt" in reading.left_out[0].reason
    assert reading.left_out[1].reason == "expected an object, got 5"
    assert reading.left_out[2].reason == "is missing; the record has prompt"
    first, *others = reading.summary().splitlines()
    assert first == "2 of 6 records; left out 4:"
    assert others == [f"  {one}" for one in reading.left_out]
    assert others[0] == "  rows.json[1].subject: 'Abuja' is not in the prompt 'Lagos is in'"


def test_summary_without_and_with_one_left_out():
    one = LeftOut("folder/a.json", 3, "alt", "why")
    assert Reading([None] * 1200).summary() == "1,200 of 1,200 records"
    assert Reading([], [one]).summary() == "0 of 1 records; left out 1:\n  a.json[3].alt: why"


def test_a_file_without_a_usable_record_is_one_error(tmp_path):
    with pytest.raises(ValueError, match=r"none of its 2 records .*\[0\].prompt: is missing"):
        collect(tmp_path / "rows.json", [{}, {}], build)


@pytest.mark.parametrize(
    ("raw", "field", "reason"),
    [
        ({}, "a", "is missing; the record has nothing"),
        ({"a": None}, "a", "expected text, got null"),
        ({"a": " \n"}, "a", "expected text"),
        ({"a": ["x"]}, "a", "expected text"),
        ({"a": "x" * 70, "b": 1}, "b", "expected text, got 1"),
        ({"a": "\ud800"}, "a", "is not valid Unicode"),
    ],
)
def test_text_names_the_field_and_what_it_holds(raw, field, reason):
    with pytest.raises(RecordError, match=reason) as error:
        Fields(raw).text(field)
    assert error.value.field == field


def test_nested_fields_are_named_by_their_path():
    fields = Fields({"a": {"b": 1, "c": ["x", ""], "d": "x"}, "e": [1]})
    for broken, name in (
        (lambda: fields.inner("a").text("b"), "a.b"),
        (lambda: fields.inner("a").texts("c"), r"a.c\[1\]"),
        (lambda: fields.inner("a").texts("d"), "a.d"),
        (lambda: fields.inner("e"), "e"),
        (lambda: fields.inner("f"), "f"),
    ):
        with pytest.raises(RecordError, match=f"field '{name}'"):
            broken()


def test_all_missing_fields_are_named_at_once():
    with pytest.raises(RecordError, match=r"'b': is missing \(as are c, d\); the record has a"):
        Fields({"a": 1}).require("a", "b", "c", "d")


def test_only_blanks_at_the_ends_of_a_text_are_dropped():
    assert Fields({"a": " x  y\tz \n"}).text("a") == "x  y\tz"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('[{"a": 1}, {"a": 2}]', "rows.json"),
        ('\ufeff[{"a": 1}, {"a": 2}]', "rows.json"),
        ('{"a": 1}\n\n{"a": 2}\n', "rows.json"),
        ('{"a": 1}\r\n{"a": 2}', "rows.jsonl"),
    ],
)
def test_json_and_json_lines(tmp_path, text, name):
    assert read_rows(write(tmp_path, text, name)) == [{"a": 1}, {"a": 2}]


def test_a_line_separator_inside_a_string_ends_no_line(tmp_path):
    assert read_rows(write(tmp_path, '"a\u2028b"\n"c"\n', "rows.jsonl")) == ["a\u2028b", "c"]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "a.json", "is empty"),
        (" \n", "a.jsonl", "is empty"),
        ("[]", "a.json", "holds an empty list"),
        ('{"a": 1}', "a.json", r"expected a JSON list of objects, got \{"),
        ("3", "a.json", "expected a JSON list of objects, got 3"),
        ("<html>", "a.json", "is not JSON: Expecting value"),
        ('[{"a": 1}', "a.json", "is not JSON"),
        ("[1] [2]", "a.json", "is not JSON: Extra data"),
        ('{"a": 1}\n{"a":', "a.jsonl", "is not JSON: in line 2, "),
        ("[" * 100_000, "a.json", "is not JSON: maximum recursion"),
        (b"\xff\xfe\x00", "a.json", "is not UTF-8"),
    ],
)
def test_what_is_no_list_is_one_clear_error(tmp_path, text, name, message):
    with pytest.raises(ValueError, match=message) as error:
        read_rows(write(tmp_path, text, name))
    assert name in str(error.value)


def test_a_local_file_is_itself(tmp_path):
    path = write(tmp_path, "[]")
    assert fetch(path) == fetch(str(path)) == path


def test_a_missing_file_says_what_a_source_can_be(tmp_path):
    for source in (tmp_path / "none.json", tmp_path, "ftp://host/file.json"):
        with pytest.raises(FileNotFoundError, match=r"no file .*expected a local file, an http"):
            fetch(source)


def test_a_url_is_downloaded_once(server, cache):
    address, asked = server
    path = fetch(f"{address}/a/rows.json?x=1")
    assert path.name == "rows.json"
    assert read_rows(path) == [GOOD]
    assert fetch(f"{address}/a/rows.json?x=1") == path
    assert asked == ["/a/rows.json?x=1"]
    assert fetch(f"{address}/b/rows.json") != path


@pytest.mark.parametrize("name", ["missing.json", "cut.json"])
def test_a_download_is_whole_or_not_at_all(server, cache, name):
    with pytest.raises(FileNotFoundError, match=f"cannot download http.*{name}: .*local copy"):
        fetch(f"{server[0]}/{name}")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_offline_is_a_clear_error(cache):
    with pytest.raises(FileNotFoundError, match=r"cannot download http://127.0.0.1:9/a.json"):
        fetch("http://127.0.0.1:9/a.json")


def test_a_hub_file_comes_from_the_hugging_face_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "datasets--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    (folder / "snapshots" / ("a" * 40) / "sub").mkdir(parents=True)
    write(folder / "snapshots" / ("a" * 40) / "sub", "[1]")
    assert read_rows(fetch("hub:owner/name/sub/rows.json")) == [1]


@pytest.mark.parametrize("source", ["hub:owner/name/rows.json", "hub:owner/name"])
def test_the_hub_offline_is_a_clear_error(tmp_path, monkeypatch, source):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"cannot fetch {source}: .*local copy"):
        fetch(source)


@pytest.mark.parametrize("source", ["hub:", "hub:owner", "hub:/name"])
def test_a_hub_id_has_owner_and_name(source):
    with pytest.raises(ValueError, match="expected hub:owner/name"):
        fetch(source)


@pytest.mark.parametrize("files", [["a.txt"], ["a.json", "b.jsonl"]])
def test_a_hub_data_set_of_several_files_wants_one_named(monkeypatch, files):
    monkeypatch.setattr("datamodules.reading.HfApi.list_repo_files", lambda *_, **__: files)
    with pytest.raises(ValueError, match="name one file of the data set owner/name:"):
        fetch("hub:owner/name")


def test_each_object_of_a_list_by_its_dotted_name():
    fields = Fields({"a": {"b": [{"c": " x "}, {"c": 1}], "d": {}}, "e": [], "f": {"g": 1}})
    first, second = fields.each("a.b")
    assert first.text("c") == "x"
    with pytest.raises(RecordError, match=r"field 'a.b\[1\].c': expected text, got 1"):
        second.text("c")
    for missing in ("e", "x", "a.x", "x.y", "a.d.x"):
        assert list(fields.each(missing)) == []
    for broken, name in (("a", "a"), ("f.g", "f.g"), ("f.g.h", "f.g")):
        with pytest.raises(RecordError, match=f"field '{name}': expected"):
            list(fields.each(broken))
    with pytest.raises(RecordError, match=r"field 'a\[0\]': expected an object, got 1"):
        list(Fields({"a": [1]}).each("a"))


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        (" a ", ("a",)),
        (["a", "b", "a "], ("a", "b")),
        ([["a", "b"], ["c"]], ("a", "b", "c")),
        ([["a"]], ("a",)),
    ],
)
def test_answers_are_the_answer_and_its_aliases(value, answers):
    assert Fields({"x": value}).answers("x") == answers


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        ({}, "'x': is missing"),
        ({"x": []}, "'x': expected an answer, got none"),
        ({"x": [[]]}, "'x': expected an answer, got none"),
        ({"x": [["a", ""]]}, r"'x\[0\]\[1\]': expected text"),
        ({"x": {"a": "b"}}, "'x': expected text, got"),
    ],
)
def test_answers_that_are_none_name_their_place(raw, error):
    with pytest.raises(RecordError, match=error):
        Fields(raw).answers("x")
