"""The report: one file, whatever the data says, and not too long."""

import json
import re
from html import unescape
from html.parser import HTMLParser

import pytest
from stored_runs import line, stored

from evaluation.report import document
from evaluation.report.examples import EACH, LONGEST, examples, verdict_of
from evaluation.report.stored import StoredRun, runs_in

HOSTILE = (
    "</td><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title><h1>pwned</h1>",
    "{{ 7 * 7 }}",
    "$\\frac{1}{0}$",
    "\0 \u202e <b>",
)
PROFILES = {"balanced": {"reliability": 0.5, "speed": 0.5}}


@pytest.fixture
def run(tmp_path):
    """``run("A", lines)``: a run that is through, with these answers of its editors."""
    return lambda name, lines, **identity: stored(tmp_path / name, lines, **identity)


class Elements(HTMLParser):
    """The names of all elements and attributes, and the texts of the cells."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_becomes_markup(text, run):
    """The page has the same elements whatever the data, the model and a failure say."""
    pages = []
    for name, said in (("plain", "word"), ("hostile", text)):
        lines = [line(editor, said, text=said) for editor in ("unedited", "rome")]
        made = run(name, [{**each, "data": said, "model": said} for each in lines], data=said)
        (made.folder.path / "about.json").write_text(
            json.dumps({"data": {"left_out": {said: said}}, "model": {"name": said + "\ud800"}})
        )
        path = document.write(made.folder.path, [StoredRun.read(made.folder.path)], PROFILES)
        pages.append(path.read_text(encoding="utf-8"))
    plain, hostile = map(Elements, pages)
    assert hostile.tags == plain.tags
    assert sorted(hostile.attributes) == sorted(plain.attributes)
    assert not [name for name in hostile.attributes if name.startswith("on")]
    assert plain.tags.count("script") == 1


def test_the_page_asks_nobody_for_anything(run):
    lines = [line(editor, "a") for editor in ("unedited", "rome", "memit")]
    html = document.text([run("A", lines)], PROFILES)
    assert "default-src 'none'" in unescape(html)
    links = re.findall(r"(?:src|href|action)=[\"']?([^\"' >]+)", html)
    assert links and all(link.startswith("#") for link in links)
    assert not re.findall(r"url\((?!#)", html)
    assert "@import" not in html


def test_figures_take_the_page_s_colour(run):
    html = document.text([run("A", [line("rome", "a"), line("memit", "a", value=0.0)])], {})
    assert "currentColor" in html and "#010203" not in html
    names = re.findall(r'\sid="([^"]+)"', html)
    assert len(names) == len(set(names))


def test_a_long_run_has_a_page_of_bounded_length(run):
    lines = [
        line(editor, f"r{at}", kind, float(at % 2), "word " * 500)
        for editor in ("rome", "memit", "kn")
        for kind in ("reliability", "generalization", "unrelated")
        for at in range(300)
    ]
    html = document.text([run("A", lines)], PROFILES)
    assert len(html) < 2_000_000 < sum(len(json.dumps(each)) for each in lines)
    assert f"{3 * 3 * 2 * EACH:,} of 2,700 answers" in html
    assert "at most, and texts are cut" in html


def test_examples_are_shared_out_among_editors_kinds_and_verdicts():
    lines = [line("rome", f"r{at}", value=1.0) for at in range(50)]
    lines += [line("rome", "wrong", value=0.0), line("memit", "other", "unrelated", value=None)]
    shown, count = examples(lines, "exact_match", {"rome": "rome", "memit": "MEMIT"}, most=6)
    assert count == 52
    assert [(e.editor, e.record, e.verdict) for e in shown] == [
        ("rome", "r0", "right"),
        ("rome", "r1", "right"),
        ("rome", "wrong", "wrong"),
        ("MEMIT", "other", "not judged"),
    ]
    names = {"rome": "rome", "memit": "MEMIT"}
    assert [e.record for e in examples(lines, "exact_match", names, most=2)[0]] == ["r0", "other"]


def test_an_example_of_locality_expects_what_the_unedited_model_says():
    said = {**line("rome", "a", "unrelated"), "before": "Nigeria", "target": "Sweden"}
    [[example], _] = examples([said], "exact_match", {"rome": "rome"})
    assert example.expected == "Nigeria"
    [[example], _] = examples([{**said, "probe": "one_hop"}], "exact_match", {"rome": "rome"})
    assert example.expected == "Sweden"
    [[example], _] = examples([{**said, "prompt": "x" * 999}], "exact_match", {"rome": "rome"})
    assert example.prompt == "x" * LONGEST + "…"
    assert verdict_of({"exact_match": 0.5}, "exact_match") == "in between"


def test_editors_of_several_runs_are_told_apart(run):
    one = run("A", [line("unedited", "a"), line("rome", "a")])
    two = run("B", [line("unedited", "a"), line("rome", "a"), line("kn", "a")])
    three = run("C", [line("rome", "a", protocol="batch", n=2)])
    assert document.editor_names([one, two]) == [
        {"unedited": "unedited", "rome": "rome (A)"},
        {"rome": "rome (B)", "kn": "kn"},
    ]
    assert document.editor_names([one, three])[1]["rome"] == "rome"
    html = document.text([one, two], PROFILES)
    assert "rome (A)" in html and "rome (B)" in html and ">A</h3>" in html


def test_runs_are_those_of_the_folders_or_of_the_folders_in_them(run, tmp_path):
    run("A", [line("rome", "a")])
    run("B", [line("rome", "a")])
    assert [r.name for r in runs_in([tmp_path])] == ["A", "B"]
    assert [r.name for r in runs_in([tmp_path / "B"])] == ["B"]
    for paths, error in (
        ("A", "runs=A: expected a list of folders"),
        ([], "expected a list"),
        ([tmp_path / "A", tmp_path], "is named twice"),
    ):
        with pytest.raises(ValueError, match=error):
            runs_in(paths)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        runs_in([tmp_path / "nope"])
    (tmp_path / "A/results.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"results\.json is damaged"):
        runs_in([tmp_path / "A"])
    (tmp_path / "A/results.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"the run is not through.*resume="):
        runs_in([tmp_path / "A"])
    (tmp_path / "A/run.json").unlink()
    with pytest.raises(FileNotFoundError, match="no run in"):
        runs_in([tmp_path / "A"])
