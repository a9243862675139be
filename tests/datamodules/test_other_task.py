import json

import pytest

from datamodules.other_task import Piqa
from datamodules.qaedit import QaeditData

QUESTIONS = [{"goal": f"goal {n}?", "sol1": f"first {n}", "sol2": f"second {n}"} for n in range(5)]
RECORDS = [
    {"prompt": f"who is man {n}?", "subject": f"man {n}", "target": "x", "rephrase": "y"}
    for n in range(4)
]


@pytest.fixture
def piqa(tmp_path):
    def piqa(questions=QUESTIONS, labels="0\n1\n1\n0\n1\n", **options):
        (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, questions)))
        if labels is not None:
            (tmp_path / "q_labels.lst").write_text(labels)
        return Piqa(str(tmp_path / "q.jsonl"), **options)

    return piqa


def test_the_right_solution_is_set_against_the_wrong_one(piqa):
    probes = piqa().probes()
    assert {probe.kind for probe in probes} == {"other_task"}
    assert probes[0].prompt == "Question: goal 0?\nAnswer:"
    assert [probe.target for probe in probes] == [
        *("first 0", "second 1", "second 2", "first 3", "second 4"),
    ]
    assert [probe.contrast for probe in probes][:2] == ["second 0", "first 1"]
    labelled = [{**question, "label": 1} for question in QUESTIONS]
    assert piqa(labelled, None).probes()[0].target == "first 0"  # the file beside it is still there


def test_labels_may_stand_in_the_questions(piqa):
    labelled = [{**question, "label": 1} for question in QUESTIONS]
    assert piqa(labelled, labels=None).probes()[0].target == "second 0"
    with pytest.raises(ValueError, match=r"no file of PIQA: q.jsonl\[0\].label: is missing"):
        piqa(labels=None).probes()


def test_records_share_the_questions_out(piqa, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(RECORDS))
    plain = QaeditData(test=str(tmp_path / "r.json"))
    data = QaeditData(test=str(tmp_path / "r.json"), other_task=piqa(each=2))
    records = data.records("test")
    assert [r.requests for r in records] == [r.requests for r in plain.records("test")]
    asked = [probe.prompt for record in records for probe in record.of_kind("other_task")]
    assert len(asked) == 8 and len(set(asked)) == 5
    assert data.records("test", 2) == records[:2]
    other = QaeditData(test=str(tmp_path / "r.json"), other_task=piqa(each=2, seed=1))
    assert other.records("test") != records


@pytest.mark.parametrize(
    ("questions", "labels", "message"),
    [
        (QUESTIONS, "0\n1\n", "expected 5 lines of 0 or 1, .*; got 2 of 0, 1"),
        (QUESTIONS, "0 1 2 0 1", "expected 5 lines of 0 or 1, .*; got 5 of 0, 1, 2"),
        ([{"goal": "x"}], "0", r"no file of PIQA: q.jsonl\[0\].sol1: is missing \(as are sol2\)"),
        ([{"goal": 1, "sol1": "a", "sol2": "b"}], "0", r"q.jsonl\[0\].goal: expected text, got 1"),
        ([5], "0", r"q.jsonl\[0\].record: expected an object"),
        ([{**QUESTIONS[0], "label": 2}], None, r"label: expected 0 or 1, got 2"),
        ([{**QUESTIONS[0], "label": "x"}], None, r"label: expected a whole number, got \"x\""),
    ],
)
def test_a_file_that_is_none_of_piqa_is_one_clear_error(piqa, questions, labels, message):
    with pytest.raises(ValueError, match=message):
        piqa(questions, labels).probes()


def test_its_settings_are_checked(piqa):
    with pytest.raises(ValueError, match="each is 0; expected at least 1"):
        piqa(each=0)
    with pytest.raises(FileNotFoundError, match=r"no file 'none.jsonl'"):
        Piqa("none.jsonl")


def test_published_file(shared):
    probes = Piqa(str(shared / "data" / "tasks" / "piqa_valid.jsonl")).probes()
    assert len(probes) == 1838
    assert "bedding made of ripped paper strips" in probes[0].target
    assert "bedding made of ripped jeans material" in probes[0].contrast
